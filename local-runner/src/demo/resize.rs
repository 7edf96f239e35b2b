//! The number of nodes changes while a client writes: the leader stays, and so does the client's session.

use super::{
    client::BrokerClient,
    failover::SOME_ROWS,
    failure::{Failure, same},
    scenario::{NODES, Scenario, poll},
    session::Session,
    writer::Writer,
};

impl Scenario<'_> {
    /// Grows by one node, and shrinks again.
    pub(super) async fn resize(&mut self, client: &BrokerClient, writer: &Writer) -> Result<(), Failure> {
        let leader = self.leader().await?;
        let sessions = writer.account().sessions();
        for (nodes, timing) in [(NODES + 1, "update to 3 nodes"), (NODES, "update to 2 nodes")] {
            let step = self.steps.begin("update");
            let operation = client.update(nodes).await?;
            step.done(&format!("update to {nodes} nodes accepted"));
            let step = self.steps.begin("polling");
            let (took, _) = poll(client, &operation, &step).await?;
            self.timings.add(timing, took);
            let members = self.cluster().await?.members.len();
            same("members", &nodes, &u32::try_from(members).unwrap_or(u32::MAX))?;
            same("the leader", &leader, &self.leader().await?)?;
            writer.goes_on(SOME_ROWS).await?;
            same("the client's sessions", &sessions, &writer.account().sessions())?;
            step.done(&format!(
                "{nodes} nodes; the leader and the client's session are the same"
            ));
        }
        Ok(())
    }

    /// Ends the client that writes numbered rows. `lost` are those that were lost before.
    pub(super) async fn end_writing(
        &mut self,
        session: &Session,
        writer: Writer,
        lost: &[i64],
    ) -> Result<(), Failure> {
        let step = self.steps.begin("looking for every acknowledged row");
        writer.never_on_a_replica()?;
        let acknowledged = writer.account().numbers();
        drop(writer);
        let missing = session.lost(&acknowledged).await?;
        same(
            "rows that are missing since the failover",
            &lost,
            &missing.as_slice(),
        )?;
        let rows = acknowledged.len();
        step.done(&match lost.len() {
            0 => format!("the client wrote all the while: all {rows} acknowledged rows are there"),
            _ => format!("the client wrote all the while: {rows} rows, no further one is lost"),
        });
        Ok(())
    }
}
