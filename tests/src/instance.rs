//! An instance of a stack with a binding, and who leads it.

use std::path::PathBuf;

use serde_json::{Value, json};
use shared::{
    cluster::{Cluster, Member},
    store::{Read, Store},
};

use crate::{
    osb::{OPERATION, SERVICE, fresh_id, nodes},
    processes::{self, Process},
    psql::Session,
    stack::Stack,
    wait::eventually,
};

/// An instance.
#[derive(Debug)]
pub struct Instance<'a> {
    /// Where it runs.
    pub stack: &'a mut Stack,
    /// Its id.
    pub id: String,
    /// Those of its binding.
    pub credentials: Value,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name in Patroni: the node's id.
    pub name: String,
    /// Which history of the database it writes.
    pub timeline: u64,
}

impl<'a> Instance<'a> {
    /// Makes an instance with a binding.
    ///
    /// # Panics
    /// When that does not succeed.
    pub async fn make(stack: &'a mut Stack, plan: &str, count: u32) -> Self {
        let osb = stack.osb();
        let id = fresh_id();
        let mut body = nodes(count);
        body["plan_id"] = json!(plan);
        osb.make(&id, &body).await;
        let binding = json!({"service_id": SERVICE, "plan_id": plan});
        let bound = osb.bind_with(&id, "b", &binding).await;
        let credentials = bound.expect(201).body["credentials"].clone();
        Self {
            stack,
            id,
            credentials,
        }
    }

    /// What Patroni says now.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn cluster(&self) -> Cluster {
        let scope = format!("/service/{}", self.id);
        let tree = self.stack.etcd.client().tree(&scope, Read::Quorum).await;
        Cluster::parse(&scope, tree.unwrap().as_ref())
    }

    /// Who leads, once that is somebody else than `former`.
    ///
    /// # Panics
    /// When nobody does.
    pub async fn leader(&self, former: Option<&Leader>) -> Leader {
        eventually("a leader that says so", OPERATION, async || {
            let cluster = self.cluster().await;
            let (name, member) = cluster.running_leader()?;
            let leader = Leader {
                name: name.to_owned(),
                timeline: member.timeline?,
            };
            former
                .is_none_or(|former| former.name != leader.name && former.timeline != leader.timeline)
                .then_some(leader)
        })
        .await
    }

    /// The number of the cell on which a node runs.
    ///
    /// # Panics
    /// When the record does not name it.
    #[must_use]
    pub fn cell_of(&self, node: &str) -> usize {
        let record = self.stack.record(&self.id).unwrap();
        let guid = record.nodes[&node.parse().unwrap()].cell.to_string();
        let mut cells = self.stack.cells.iter();
        cells.position(|cell| cell.guid == guid).unwrap()
    }

    /// Where a node works.
    #[must_use]
    pub fn directory_of(&self, node: &str) -> PathBuf {
        self.stack.cells[self.cell_of(node)].nodes_directory().join(node)
    }

    /// The processes of a node: Patroni and PostgreSQL.
    #[must_use]
    pub fn processes_of(&self, node: &str) -> Vec<Process> {
        processes::below(&self.directory_of(node))
    }

    /// Kills all processes of a node, and leaves its cell alone.
    pub fn kill(&self, node: &str) {
        for process in self.processes_of(node) {
            process.kill();
        }
    }

    /// Who leads, once a failover would lose nothing: so many replicas stream from it, and where commits wait for one, it is
    /// named.
    ///
    /// # Panics
    /// When that does not come about.
    pub async fn stands(&self, replicas: usize, synchronous: bool) -> Leader {
        self.replicas_stream(replicas).await;
        eventually("a cluster that can fail over", OPERATION, async || {
            let cluster = self.cluster().await;
            let (name, member) = cluster.running_leader()?;
            let timeline = member.timeline?;
            let follows = |member: &&Member| member.role == "replica" && member.timeline == Some(timeline);
            let ready = cluster.members.values().filter(follows).count() == replicas
                && (!synchronous || self.is_synchronous_under(name));
            ready.then(|| Leader {
                name: name.to_owned(),
                timeline,
            })
        })
        .await
    }

    /// Whether Patroni has named a replica that has every commit of this leader before it is confirmed.
    ///
    /// # Panics
    /// When its key cannot be read.
    #[must_use]
    pub fn is_synchronous_under(&self, leader: &str) -> bool {
        let keys = self.stack.keys().0;
        let sync = keys.get(&format!("/service/{}/sync", self.id));
        let sync: Value = sync.map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        sync["leader"] == leader && sync["sync_standby"].is_string()
    }

    /// Waits until so many replicas stream.
    ///
    /// # Panics
    /// When they do not.
    pub async fn replicas_stream(&self, count: usize) {
        eventually("replicas that stream", OPERATION, async || {
            let session = Session::open(&self.credentials).await.ok()?;
            let streaming = session.ask("SELECT count(*) FROM pg_stat_replication").await;
            (streaming.ok()? == count.to_string()).then_some(())
        })
        .await;
    }
}
