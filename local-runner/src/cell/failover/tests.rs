//! The steps on a real etcd and real processes, standing still before each of them while the world goes on.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use ::tests::{etcd::EtcdServer, wait::eventually};
use axum::{Router, routing::get};
use serde_json::{Value, json};
use shared::{
    etcd::Etcd,
    ids::NodeId,
    keyspace,
    record::{Failover, Phase},
    store::{Entry, Index, Read, Store, StoreError},
};
use tokio::{net::TcpListener, sync::Notify};
use uuid::Uuid;

use super::{
    super::{account::Account, evidence::Unreadable, fixture, process::certainly_working_in},
    steps::Hands,
    verdict::{Reason, Verdict},
    *,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TTL: Option<Duration> = Some(Duration::from_secs(30));

/// A leader that has died on a cell, and a replica elsewhere that could take over.
struct Scene {
    etcd: EtcdServer,
    store: Arc<Etcd>,
    top: tempfile::TempDir,
    id: Identity,
    replica: NodeId,
    workers: Vec<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
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
    async fn set() -> Self {
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
    async fn lead(&self, name: &str) {
        let key = keyspace::leader(&self.id.instance);
        self.store.set(&key, name, TTL).await.unwrap();
    }

    async fn leader(&self) -> Option<Entry> {
        let key = keyspace::leader(&self.id.instance);
        self.store.get(&key, Read::Quorum).await.unwrap()
    }

    fn home(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("home")
    }

    /// Something begins to work for the node.
    fn work(&mut self) {
        let mut command = Command::new("/bin/sleep");
        command.arg("600").current_dir(self.home().join("data"));
        Account::choose(None).unwrap().apply(&mut command);
        self.workers.push(command.stdin(Stdio::null()).spawn().unwrap());
    }

    fn dead(&self) -> DeadNode {
        let (memory, now) = (self.memory(), 1_000_000);
        DeadNode {
            store: Arc::<Etcd>::clone(&self.store),
            http: shared::cells::http_client().unwrap(),
            id: self.id.clone(),
            home: self.home(),
            uid: uid(),
            leftovers: certainly_working_in(&self.home(), uid()).unwrap(),
            last: limit::elapsed(&memory, now),
            memory,
            now,
        }
    }

    fn memory(&self) -> PathBuf {
        self.top.path().join("failover")
    }

    fn working(&self) -> usize {
        certainly_working_in(&self.home(), uid()).unwrap().len()
    }
}

/// Where a cell stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Ending,
    Judging,
    Looking,
    Remembering,
    Deleting,
}

const ALL: [Before; 5] = [
    Before::Ending,
    Before::Judging,
    Before::Looking,
    Before::Remembering,
    Before::Deleting,
];

/// A cell that stands still at one place until it is woken.
struct Frozen {
    node: DeadNode,
    at: Before,
    reached: Notify,
    wake: Notify,
    woken: std::sync::atomic::AtomicBool,
}

impl Frozen {
    fn new(node: DeadNode, at: Before) -> Self {
        Self {
            node,
            at,
            reached: Notify::new(),
            wake: Notify::new(),
            woken: false.into(),
        }
    }

    async fn at(&self, place: Before) {
        use std::sync::atomic::Ordering::SeqCst;
        if place == self.at && !self.woken.swap(true, SeqCst) {
            self.reached.notify_one();
            self.wake.notified().await;
        }
    }
}

impl Hands for Frozen {
    async fn end_processes(&self) -> std::io::Result<bool> {
        self.at(Before::Ending).await;
        self.node.end_processes().await
    }
    async fn nothing_works(&self) -> std::io::Result<bool> {
        self.at(Before::Looking).await;
        self.node.nothing_works().await
    }
    async fn judge(&self) -> Result<Verdict, Unreadable> {
        self.at(Before::Judging).await;
        self.node.judge().await
    }
    async fn remember(&self) -> std::io::Result<()> {
        self.at(Before::Remembering).await;
        self.node.remember().await
    }
    async fn give_up(&self, index: Index) -> Result<(), StoreError> {
        self.at(Before::Deleting).await;
        self.node.give_up(index).await
    }
}

/// Lets a cell begin, lets the world go on while it stands still, and wakes it.
async fn frozen(scene: &mut Scene, at: Before, meanwhile: impl AsyncFnOnce(&mut Scene)) -> Outcome {
    let cell = Arc::new(Frozen::new(scene.dead(), at));
    let begun = Arc::clone(&cell);
    let task = tokio::spawn(async move { carry_out(&*begun).await });
    timeout(PATIENCE, cell.reached.notified())
        .await
        .unwrap_or_else(|_| panic!("{at:?} is never reached"));
    meanwhile(scene).await;
    cell.wake.notify_one();
    task.await.unwrap()
}

#[tokio::test]
async fn leftovers_are_ended_and_the_place_is_given_up_once_a_minute() {
    let mut scene = Scene::set().await;
    scene.work();
    scene.work();
    let outcome = carry_out(&scene.dead()).await;
    assert!(matches!(outcome, Outcome::GivenUp), "{outcome:?}");
    assert_eq!((scene.leader().await, scene.working()), (None, 0));
    // It leads again, and dies again: a cell that was started meanwhile knows.
    scene.lead(&scene.id.node.to_string()).await;
    let outcome = carry_out(&scene.dead()).await;
    assert!(
        matches!(outcome, Outcome::Left(Cause::Verdict(Reason::Recent))),
        "{outcome:?}"
    );
    assert!(scene.leader().await.is_some());
}

#[tokio::test]
async fn a_cell_that_stood_still_takes_no_place_from_another_leader() {
    for at in ALL {
        let mut scene = Scene::set().await;
        scene.work();
        let outcome = frozen(&mut scene, at, async |scene| {
            scene.lead(&scene.replica.to_string()).await;
        })
        .await;
        assert!(matches!(outcome, Outcome::Left(_)), "{at:?}: {outcome:?}");
        let leader = scene.leader().await.unwrap();
        assert_eq!(leader.value, scene.replica.to_string(), "{at:?}");
    }
}

#[tokio::test]
async fn a_cell_that_stood_still_does_nothing_to_a_node_that_leads_again() {
    for at in ALL {
        let mut scene = Scene::set().await;
        let outcome = frozen(&mut scene, at, async |scene| {
            // Somebody started the node by hand: Patroni renews the key.
            scene.work();
            scene.lead(&scene.id.node.to_string()).await;
        })
        .await;
        assert!(
            matches!(outcome, Outcome::Left(Cause::Uncertain)),
            "{at:?}: {outcome:?}"
        );
        let leader = scene.leader().await.unwrap();
        assert_eq!(leader.value, scene.id.node.to_string(), "{at:?}");
        assert_eq!(scene.working(), 1, "{at:?}: it goes on");
    }
}

#[tokio::test]
async fn a_cell_that_stood_still_finds_a_key_that_has_run_out() {
    for at in ALL {
        let mut scene = Scene::set().await;
        let outcome = frozen(&mut scene, at, async |scene| {
            let entry = scene.leader().await.unwrap();
            let key = keyspace::leader(&scene.id.instance);
            scene.store.compare_and_delete(&key, entry.index).await.unwrap();
        })
        .await;
        assert!(matches!(outcome, Outcome::Left(_)), "{at:?}: {outcome:?}");
        assert_eq!(scene.leader().await, None);
    }
}

/// What the dead Patroni had sent arrives late: the key is renewed, and nobody is there.
#[tokio::test]
async fn a_last_renewal_that_was_under_way_is_looked_at_again() {
    let mut scene = Scene::set().await;
    let outcome = frozen(&mut scene, Before::Deleting, async |scene| {
        scene.lead(&scene.id.node.to_string()).await;
    })
    .await;
    assert!(matches!(outcome, Outcome::GivenUp), "{outcome:?}");
    assert_eq!(scene.leader().await, None);
}

#[tokio::test]
async fn without_etcd_the_key_is_left_alone() {
    for at in [Before::Ending, Before::Judging, Before::Deleting] {
        let mut scene = Scene::set().await;
        let outcome = frozen(&mut scene, at, async |scene| scene.etcd.kill()).await;
        assert!(matches!(outcome, Outcome::Left(_)), "{at:?}: {outcome:?}");
        scene.etcd.restart().await;
        let leader = scene.leader().await.unwrap();
        assert_eq!(leader.value, scene.id.node.to_string(), "{at:?}");
    }
}

#[tokio::test]
async fn somebody_elses_process_in_the_directory_is_not_certain() {
    let mut scene = Scene::set().await;
    let node = scene.dead();
    scene.work();
    let outcome = carry_out(&node).await;
    assert!(matches!(outcome, Outcome::Left(Cause::Uncertain)), "{outcome:?}");
    assert_eq!(scene.working(), 1);
    assert!(scene.leader().await.is_some());
    assert!(limit::elapsed(&scene.memory(), 0).is_none(), "nothing was begun");
}

/// A stopped process dies of SIGKILL all the same; one that its parent has not reaped is dead.
#[tokio::test]
async fn a_process_that_is_stopped_is_ended_too() {
    let mut scene = Scene::set().await;
    scene.work();
    let pid = i32::try_from(scene.workers[0].id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let stopped = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("stat");
    eventually("a stopped process", PATIENCE, async || {
        fs::read_to_string(&stopped)
            .unwrap()
            .contains(") T ")
            .then_some(())
    })
    .await;
    let outcome = carry_out(&scene.dead()).await;
    assert!(matches!(outcome, Outcome::GivenUp), "{outcome:?}");
}
