//! What the demo does: one instance from its provision to its end, each step checked.

use std::time::{Duration, Instant};

use shared::{
    cluster::Cluster,
    ids::InstanceId,
    keyspace,
    store::{Read, Store},
};
use tokio::{net::TcpStream, time::sleep};

use super::{
    client::{BrokerClient, INSTANCE},
    failure::{Failure, same},
    residue,
    session::{self, Session},
    timings::Timings,
};
use crate::{
    steps::{Step, Steps},
    up::{Facts, Stack},
};

/// How many nodes the instance has at first and in the end.
pub(super) const NODES: u32 = 2;
/// Between two polls.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// The broker's own deadline is 600 s.
const LONGEST: Duration = Duration::from_secs(660);
/// How long what follows an operation may take to be seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The demo's actors.
pub(super) struct Scenario<'a> {
    pub(super) stack: &'a mut Stack,
    pub(super) facts: Facts,
    pub(super) steps: Steps,
    pub(super) timings: Timings,
}

impl<'a> Scenario<'a> {
    pub(super) fn new(stack: &'a mut Stack, steps: Steps) -> Self {
        Self {
            facts: stack.facts().clone(),
            stack,
            steps,
            timings: Timings::default(),
        }
    }

    /// Plays it all; answers the times.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) async fn play(mut self) -> Result<Timings, Failure> {
        let began = Instant::now();
        let up = self.stack.start(self.steps).await;
        up.map_err(Failure::instead_of("everything starts"))?;
        self.timings.add("everything up", began.elapsed());
        let client = BrokerClient::new(&self.facts)?;
        self.provision(&client).await?;
        let uri = self.bind(&client).await?;
        let session = self.write(&uri).await?;
        self.read_on_replica(&uri, &session).await?;
        let writer = self.begin_writing(&uri).await?;
        let (session, lost) = self.fail_over(&uri, session, &writer).await?;
        self.resize(&client, &writer).await?;
        self.end_writing(&session, writer, &lost).await?;
        self.unbind(&client, &uri, session).await?;
        self.deprovision(&client).await?;
        self.check_etcd(&uri).await?;
        self.check_machine(&uri).await?;
        Ok(self.timings)
    }

    async fn provision(&mut self, client: &BrokerClient) -> Result<(), Failure> {
        let step = self.steps.begin("provision");
        let operation = client.provision(NODES).await?;
        let took = step.done(&format!("provision of {NODES} nodes accepted"));
        self.timings.add("provision: accepted", took);

        let step = self.steps.begin("polling");
        let (succeeded, leader) = poll(client, &operation, &step).await?;
        let leader = leader.map_or(took, |leader| took + leader);
        self.timings.add("provision: leader runs", leader);
        self.timings.add("provision: replica streams", took + succeeded);
        step.done("provisioned: the leader takes connections, the replica streams");
        Ok(())
    }

    async fn bind(&mut self, client: &BrokerClient) -> Result<String, Failure> {
        let step = self.steps.begin("bind");
        let uri = client.bind().await?;
        let address = session::address(&uri).unwrap_or_default();
        let took = step.done(&format!("bound: a login of its own at {address}"));
        self.timings.add("bind", took);
        Ok(uri)
    }

    async fn write(&mut self, uri: &str) -> Result<Session, Failure> {
        let step = self.steps.begin("writing rows");
        let session = Session::open(uri, "the public port").await?;
        session.write().await?;
        self.timings.add("login, table and rows written", step.so_far());
        session.read("the public port").await?;
        step.done("wrote rows through the public port, and read them back");
        Ok(session)
    }

    async fn read_on_replica(&mut self, uri: &str, leader: &Session) -> Result<(), Failure> {
        let step = self.steps.begin("reading on the replica");
        let address = self.replica().await?;
        let position = leader.position().await?;
        let uri = session::at(uri, &address)
            .ok_or_else(|| Failure::new("a URI with a host and a database", "another one"))?;
        let replica = Session::open_later(&uri, "the replica").await?;
        replica.replayed(&position).await?;
        replica.read("the replica").await?;
        step.done(&format!("read the same rows on the replica, {address}"));
        Ok(())
    }

    /// `host:port` of a replica, from what Patroni publishes.
    async fn replica(&self) -> Result<String, Failure> {
        let cluster = self.cluster().await?;
        let replica = |(name, _): &(&String, _)| Some(name.as_str()) != cluster.leader.as_deref();
        let replicas: Vec<_> = cluster.members.iter().filter(replica).collect();
        let address = replicas.first().and_then(|(_, member)| member.address.clone());
        address.ok_or_else(|| {
            Failure::new(
                "a replica with an address among the members",
                format!("{:?}", cluster.members),
            )
        })
    }

    /// What Patroni publishes.
    pub(super) async fn cluster(&self) -> Result<Cluster, Failure> {
        let scope = keyspace::scope(&instance()?);
        let tree = self.stack.store().tree(&scope, Read::Quorum).await;
        let tree = tree.map_err(Failure::instead_of("the members of the cluster in etcd"))?;
        Ok(Cluster::parse(&scope, tree.as_ref()))
    }

    async fn unbind(&mut self, client: &BrokerClient, uri: &str, session: Session) -> Result<(), Failure> {
        let step = self.steps.begin("unbind");
        client.unbind().await?;
        let took = step.done("unbound");
        self.timings.add("unbind", took);
        let step = self.steps.begin("checking that the login is gone");
        session
            .ended("the session of the binding is ended by the unbind")
            .await?;
        let code = session::is_refused(uri).await?;
        step.done(&format!(
            "its session was ended, and a new login is refused (SQLSTATE {code})"
        ));
        Ok(())
    }

    async fn deprovision(&mut self, client: &BrokerClient) -> Result<(), Failure> {
        let step = self.steps.begin("deprovision");
        let operation = client.deprovision().await?;
        poll(client, &operation, &step).await?;
        let took = step.done("deprovisioned");
        self.timings.add("deprovision", took);
        Ok(())
    }

    async fn check_etcd(&self, uri: &str) -> Result<(), Failure> {
        let step = self.steps.begin("looking at what is left in etcd");
        let instance = instance()?;
        let port = session::address(uri).and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        let port: u16 = port.ok_or_else(|| Failure::new("a URI with a port", "one without"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tree = self.stack.store().tree("/", Read::Quorum).await;
            let tree = tree.map_err(Failure::instead_of("everything that etcd holds"))?;
            let residue = tree.map(|tree| residue::in_etcd(&tree, &instance, port));
            let residue = residue.ok_or_else(|| Failure::new("a tree in etcd", "nothing at all"))?;
            if residue.faults.is_empty() {
                let rest = residue.infrastructure;
                let text = format!(
                    "etcd: only what runs out (tombstone, marker, quarantine of port {port}), and {rest} keys"
                );
                step.done(&text);
                return Ok(());
            }
            // The empty directories go last.
            if Instant::now() >= deadline {
                let expected = "nothing of the instance in etcd but what runs out: tombstone, marker and the port's quarantine";
                return Err(Failure::new(expected, residue.faults.join("; ")));
            }
            sleep(POLL).await;
        }
    }

    async fn check_machine(&self, uri: &str) -> Result<(), Failure> {
        let step = self.steps.begin("looking at what is left on the machine");
        let left = self.stack.node_processes();
        let left = left.map_err(Failure::instead_of("a look at the processes"))?;
        same("processes of nodes", &Vec::new(), &left)?;
        let left = residue::on_disk(&self.facts.cells);
        let left = left.map_err(Failure::instead_of("a look at the cells' directories"))?;
        same("directories of nodes", &Vec::new(), &left)?;
        let address = session::address(uri).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_ok() {
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    format!("nobody listens on {address}"),
                    "somebody does",
                ));
            }
            sleep(POLL).await;
        }
        step.done("the machine: no process, no data directory, nobody on the port");
        Ok(())
    }
}

fn instance() -> Result<InstanceId, Failure> {
    INSTANCE
        .parse()
        .map_err(Failure::instead_of("an id of an instance"))
}

/// Polls until an operation has succeeded, and shows each new description. Answers how long that took, and how long it
/// took until a leader ran.
pub(super) async fn poll(
    client: &BrokerClient,
    operation: &str,
    step: &Step,
) -> Result<(Duration, Option<Duration>), Failure> {
    let began = Instant::now();
    let mut last = String::new();
    let mut leader = None;
    loop {
        let progress = client.last_operation(operation).await?;
        let took = began.elapsed();
        if progress.description != last {
            step.note(&progress.description);
        }
        if progress.description.starts_with("master running") {
            leader = leader.or(Some(took));
        }
        last = progress.description;
        match progress.state.as_str() {
            "succeeded" | "gone" => return Ok((took, leader)),
            "in progress" if took < LONGEST => sleep(POLL).await,
            state => {
                return Err(Failure::new(
                    format!("{operation} succeeds"),
                    format!("{state}: {last}"),
                ));
            }
        }
    }
}
