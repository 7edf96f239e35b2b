//! The leader's machine dies: another node takes over behind the same URI.

use std::time::{Duration, Instant};

use shared::cluster::Cluster;
use tokio::time::sleep;

use super::{
    failure::{Failure, same},
    scenario::{POLL, Scenario},
    session::Session,
    writer::Writer,
};
use crate::steps::{Step, time};

/// Rows that are written between two events.
pub(super) const SOME_ROWS: usize = 50;
/// How long Patroni may take for a failover (its ttl is 30 s by default), and for a former leader to follow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    /// Its name in Patroni.
    pub(super) name: String,
    /// Which history of the database it writes.
    pub(super) timeline: u64,
    /// The machine that it runs on.
    host: String,
}

impl Leader {
    /// The member that leads and says so.
    fn of(cluster: &Cluster) -> Option<Self> {
        let (name, member) = cluster.running_leader()?;
        let (host, _) = member.address.as_deref()?.rsplit_once(':')?;
        Some(Self {
            name: name.to_owned(),
            timeline: member.timeline?,
            host: host.to_owned(),
        })
    }

    /// For people.
    fn shown(&self) -> String {
        let short: String = self.name.chars().take(8).collect();
        format!("{short} on {}", self.host)
    }
}

impl Scenario<'_> {
    /// Starts the client that writes numbered rows.
    pub(super) async fn begin_writing(&mut self, uri: &str) -> Result<Writer, Failure> {
        let step = self.steps.begin("a client begins to write numbered rows");
        let writer = Writer::start(uri).await?;
        writer.goes_on(SOME_ROWS).await?;
        step.done("a client writes numbered rows through the public port, and goes on");
        Ok(writer)
    }

    /// Kills the leader's machine, and brings it back when another one leads. Answers a session on the new leader,
    /// and the acknowledged rows that it lacks.
    pub(super) async fn fail_over(
        &mut self,
        uri: &str,
        session: Session,
        writer: &Writer,
    ) -> Result<(Session, Vec<i64>), Failure> {
        let former = self.leader().await?;
        let step = self.steps.begin("killing the leader");
        let cut = self.stack.cut_power(&former.host).await;
        let killed = cut.map_err(Failure::instead_of("the leader's machine dies"))?;
        let last = writer.account().last();
        step.note(&format!(
            "kill -9: its cell, and {killed} processes of Patroni and PostgreSQL"
        ));
        step.done(&format!("killed the leader, {}", former.shown()));

        let plan = self.facts.example.as_ref();
        let (synchronous, ttl) = plan.map_or((false, 0), |plan| (plan.synchronous, plan.ttl));
        let step = self.steps.begin(format!(
            "waiting: after {ttl} s of silence another node takes over"
        ));
        let leader = self.successor(&former, ttl, &step).await?;
        step.done(&format!(
            "new leader: {}, timeline {} -> {}",
            leader.shown(),
            former.timeline,
            leader.timeline
        ));
        let step = self.steps.begin("writing through the same URI");
        session.ended("the session on the former leader is ended").await?;
        writer.goes_on(SOME_ROWS).await?;
        let session = Session::open(uri, "the public port after the failover").await?;
        session.read("the public port after the failover").await?;
        let outage = writer.account().outage();
        let outage = outage.ok_or_else(|| Failure::new("an outage at the failover", "none"))?;
        step.done(&format!(
            "the same URI takes writes: row {} before, row {} after {}",
            outage.last,
            outage.first,
            time(outage.length)
        ));
        self.timings.add("failover: without writes", outage.length);
        let step = self.steps.begin("looking for every acknowledged row");
        let acknowledged = writer.account().numbers();
        let lost = session.lost(&acknowledged).await?;
        step.done(&judge(&acknowledged, &lost, last, synchronous)?);
        self.come_back(&former, &leader, &session).await?;
        Ok((session, lost))
    }

    /// Who leads now.
    pub(super) async fn leader(&self) -> Result<Leader, Failure> {
        let cluster = self.cluster().await?;
        Leader::of(&cluster).ok_or_else(|| {
            Failure::new(
                "a leader that says so among the members",
                format!("{:?}", cluster.members),
            )
        })
    }

    /// Waits until somebody else leads.
    async fn successor(&self, former: &Leader, ttl: u32, step: &Step) -> Result<Leader, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut held = true;
        loop {
            let cluster = self.cluster().await?;
            if held && cluster.leader.as_deref() != Some(former.name.as_str()) {
                held = false;
                step.note(&format!(
                    "{ttl} s without a word from it (Patroni's ttl): its place is free"
                ));
            }
            if let Some(leader) = Leader::of(&cluster).filter(|leader| leader.name != former.name)
                && leader.timeline > former.timeline
            {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                let expected = format!(
                    "another leader on another timeline after {} s",
                    PATIENCE.as_secs()
                );
                return Err(Failure::new(expected, format!("{:?}", cluster.members)));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until the former leader, on its machine that is back, follows the new one.
    async fn come_back(
        &mut self,
        former: &Leader,
        leader: &Leader,
        session: &Session,
    ) -> Result<(), Failure> {
        let step = self.steps.begin("the machine is back");
        let restored = self.stack.restore_power(&former.host).await;
        restored.map_err(Failure::instead_of("the machine is back"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let streams = session.value("SELECT count(*) FROM pg_stat_replication").await;
            let streams = streams.map_err(Failure::instead_of("the session on the new leader goes on"))?;
            let cluster = self.cluster().await?;
            let follows = cluster.members.get(&former.name).is_some_and(|member| {
                member.is_running() && !member.is_primary() && member.timeline == Some(leader.timeline)
            });
            if follows && streams.as_deref() == Some("1") {
                break;
            }
            if Instant::now() >= deadline {
                let expected = format!("the former leader streams after {} s", PATIENCE.as_secs());
                return Err(Failure::new(expected, format!("{:?}", cluster.members)));
            }
            sleep(POLL).await;
        }
        same("who leads after that", leader, &self.leader().await?)?;
        step.done("the machine is back: the former leader streams from the new one");
        Ok(())
    }
}

/// Judges which rows were lost by a failover, `last` being the last one acknowledged before it: none where a commit waits
/// for a replica, and otherwise only the last ones.
fn judge(acknowledged: &[i64], lost: &[i64], last: i64, synchronous: bool) -> Result<String, Failure> {
    let rows = acknowledged.len();
    if lost.is_empty() {
        return Ok(format!("all {rows} acknowledged rows are there"));
    }
    let before: Vec<i64> = acknowledged
        .iter()
        .copied()
        .filter(|number| *number <= last)
        .collect();
    let seen = || format!("{} of {rows} are lost: {lost:?}", lost.len());
    if synchronous {
        return Err(Failure::new("every acknowledged row is there", seen()));
    }
    if !before.ends_with(lost) {
        let expected =
            format!("only rows that the replica lacked when the leader died, up to {last}, are lost");
        return Err(Failure::new(expected, seen()));
    }
    Ok(format!(
        "{rows} rows acknowledged, the last {} before the failover lost (asynchronous plan)",
        lost.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asynchronous_plan_may_lose_the_last_rows_before_the_failover_only() {
        let acknowledged = [1, 2, 4, 5, 7];
        let text = judge(&acknowledged, &[], 4, true).unwrap();
        assert_eq!(text, "all 5 acknowledged rows are there");
        let text = judge(&acknowledged, &[2, 4], 4, false).unwrap();
        assert_eq!(
            text,
            "5 rows acknowledged, the last 2 before the failover lost (asynchronous plan)"
        );
        judge(&acknowledged, &[4], 4, true).unwrap_err();
        judge(&acknowledged, &[2], 4, false).unwrap_err();
        judge(&acknowledged, &[4, 5], 4, false).unwrap_err();
    }
}
