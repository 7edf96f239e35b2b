//! A leader that has died, on a real etcd, with real processes and shared memory.

use std::{
    fs,
    io::BufRead,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ::tests::etcd::EtcdServer;
use axum::{Router, routing::get};
use serde_json::{Value, json};
use shared::{
    etcd::Etcd,
    ids::NodeId,
    keyspace,
    record::{Failover, Phase},
    store::{Entry, Read, Store},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::super::{
    super::{account::Account, fixture, process::certainly_working_in},
    dead_node::DeadNode,
    limit,
    shared_memory::Segment,
};
use crate::cell::judgement::Identity;

const TTL: Option<Duration> = Some(Duration::from_secs(30));

/// A leader that has died on a cell, and a replica elsewhere that could take over.
pub(super) struct Scene {
    pub(super) etcd: EtcdServer,
    pub(super) store: Arc<Etcd>,
    top: tempfile::TempDir,
    pub(super) id: Identity,
    pub(super) replica: NodeId,
    pub(super) workers: Vec<Child>,
    pub(super) shared: Segment,
}

impl Drop for Scene {
    fn drop(&mut self) {
        python(&format!("libc.shmctl({}, 0, None)", self.shared.id))
            .wait()
            .unwrap();
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Whom nodes run as here. Root has processes on some machines that even root cannot look at.
fn uid() -> u32 {
    Account::choose(None).unwrap().uid()
}

/// Runs a line with the C library at hand, as the user of nodes.
pub(super) fn python(line: &str) -> Child {
    let mut command = Command::new("/usr/bin/python3");
    let text = format!(
        "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n{line}"
    );
    command.args(["-c", &text]).current_dir("/");
    Account::choose(None).unwrap().apply(&mut command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next line that it prints.
pub(super) fn line(child: &mut Child) -> String {
    let mut line = String::new();
    let output = child.stdout.as_mut().unwrap();
    std::io::BufReader::new(output).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Shared memory as a postmaster leaves it.
fn segment() -> Segment {
    let mut creator = python("print(libc.shmget(0, 64, 0o600), flush=True)");
    let id = line(&mut creator).parse().unwrap();
    let pid = creator.id();
    creator.wait().unwrap();
    Segment {
        id,
        creator: i32::try_from(pid).unwrap(),
    }
}

/// Answers as a replica's Patroni does.
async fn replica_api() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = json!({
        "state": "running", "role": "replica", "timeline": 1,
        "xlog": {"received_location": 5000, "replayed_location": 4000, "paused": false},
    });
    let status = get(move || std::future::ready(status.to_string()));
    let app = Router::new().route("/patroni", status);
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

impl Scene {
    pub(super) async fn set() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(top.path().join("home/data")).unwrap();
        let etcd = EtcdServer::start().await;
        let id = Identity {
            cell: "c1".parse().unwrap(),
            instance: "i1".parse().unwrap(),
            incarnation: Uuid::new_v4().into(),
            node: Uuid::new_v4().into(),
        };
        let scene = Self {
            store: Arc::new(etcd.client()),
            etcd,
            top,
            id,
            replica: Uuid::new_v4().into(),
            workers: Vec::new(),
            shared: segment(),
        };
        scene.publish(replica_api().await).await;
        scene
    }

    /// What a synchronous cluster of two looks like in etcd.
    async fn publish(&self, api: SocketAddr) {
        let mut record = fixture::record(&self.id.instance, self.id.incarnation);
        record.bootstrapped = true;
        record.failover = Some(Failover::Promote);
        for (node, cell) in [(self.id.node, "c1"), (self.replica, "c2")] {
            let placed = fixture::node(Phase::Running, &cell.parse().unwrap());
            record.nodes.insert(node, placed);
        }
        let key = keyspace::record(&self.id.instance);
        self.store.set(&key, &record.to_json(), None).await.unwrap();
        let member = |role: &str| {
            json!({
                "conn_url": "postgres://h:1/postgres", "api_url": format!("http://{api}/patroni"), "state": "running",
                "role": role, "timeline": 1,
            })
        };
        let (own, other) = (self.id.node.to_string(), self.replica.to_string());
        self.put("config", &json!({"synchronous_mode": true}), None).await;
        self.put("sync", &json!({"leader": own, "sync_standby": other}), None)
            .await;
        self.put("status", &json!({"optime": 5000}), None).await;
        self.put(&format!("members/{own}"), &member("master"), TTL).await;
        self.put(&format!("members/{other}"), &member("replica"), TTL)
            .await;
        self.lead(&own).await;
    }

    async fn put(&self, key: &str, value: &Value, ttl: Option<Duration>) {
        let key = format!("{}/{key}", keyspace::scope(&self.id.instance));
        self.store.set(&key, &value.to_string(), ttl).await.unwrap();
    }

    /// Somebody takes, or renews, the leader key.
    pub(super) async fn lead(&self, name: &str) {
        let key = keyspace::leader(&self.id.instance);
        self.store.set(&key, name, TTL).await.unwrap();
    }

    pub(super) async fn leader(&self) -> Option<Entry> {
        let key = keyspace::leader(&self.id.instance);
        self.store.get(&key, Read::Quorum).await.unwrap()
    }

    fn home(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("home")
    }

    /// Something begins to work for the node.
    pub(super) fn work(&mut self) {
        let mut command = Command::new("/bin/sleep");
        command.arg("600").current_dir(self.home().join("data"));
        Account::choose(None).unwrap().apply(&mut command);
        self.workers.push(command.stdin(Stdio::null()).spawn().unwrap());
    }

    pub(super) fn dead(&self) -> DeadNode {
        let (memory, now) = (self.memory(), 1_000_000);
        DeadNode {
            store: Arc::<Etcd>::clone(&self.store),
            http: shared::cells::http_client().unwrap(),
            id: self.id.clone(),
            home: self.home(),
            uid: uid(),
            leftovers: certainly_working_in(&self.home(), uid()).unwrap(),
            shared: self.shared,
            last: limit::elapsed(&memory, now),
            memory,
            now,
        }
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.top.path().join("failover")
    }

    pub(super) fn working(&self) -> usize {
        certainly_working_in(&self.home(), uid()).unwrap().len()
    }
}
