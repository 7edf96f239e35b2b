//! The steps on a real etcd and real processes, standing still before each of them while the world goes on.

mod scene;

use std::{fs, path::Path, sync::Arc, time::Duration};

use ::tests::wait::eventually;
use shared::{
    keyspace,
    store::{Index, Store, StoreError},
};
use tokio::{sync::Notify, time::timeout};

use self::scene::{Scene, line, python};
use super::{
    super::evidence::Unreadable,
    steps::Hands,
    verdict::{Reason, Verdict},
    *,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Where a cell stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Ending,
    Judging,
    Looking,
    Remembering,
    Deleting,
    /// Step 6. The key is gone.
    Starting,
}

/// Before the key is deleted.
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
        let answer = self.node.give_up(index).await;
        self.at(Before::Starting).await;
        answer
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

#[tokio::test]
async fn a_cell_that_stood_still_after_the_delete_does_nothing_more_to_the_key() {
    for leads_again in [false, true] {
        let mut scene = Scene::set().await;
        let next = if leads_again { scene.id.node } else { scene.replica }.to_string();
        let outcome = frozen(&mut scene, Before::Starting, async |scene| {
            assert_eq!(scene.leader().await, None);
            scene.work();
            scene.lead(&next).await;
        })
        .await;
        assert!(matches!(outcome, Outcome::GivenUp), "{outcome:?}");
        assert_eq!(scene.leader().await.unwrap().value, next);
        assert_eq!(scene.working(), 1, "it goes on");
    }
}

/// A backend can have left the data directory: it is not found there, and could confirm commits all the same.
#[tokio::test]
async fn whoever_has_the_servers_memory_attached_keeps_the_place() {
    let mut scene = Scene::set().await;
    let attach = format!(
        "assert libc.shmat({}, None, 0) + 1\nprint(1, flush=True)\ntime.sleep(600)",
        scene.shared.id
    );
    let mut backend = python(&attach);
    assert_eq!(line(&mut backend), "1");
    scene.workers.push(backend);
    assert_eq!(scene.working(), 0);
    let outcome = carry_out(&scene.dead()).await;
    assert!(matches!(outcome, Outcome::Left(Cause::Uncertain)), "{outcome:?}");
    assert!(scene.leader().await.is_some());
    assert!(
        !scene.dead().end_processes().await.unwrap(),
        "before the keys are read"
    );
    assert!(!scene.dead().nothing_works().await.unwrap(), "and after");

    scene.workers[0].kill().unwrap();
    scene.workers[0].wait().unwrap();
    let outcome = carry_out(&scene.dead()).await;
    assert!(matches!(outcome, Outcome::GivenUp), "{outcome:?}");
}

/// Whoever starts PostgreSQL anew removes the old segment, and can have done so before it is looked at.
#[tokio::test]
async fn a_servers_memory_that_is_gone_is_not_certain() {
    let scene = Scene::set().await;
    let mut node = scene.dead();
    node.shared.creator += 1;
    let outcome = carry_out(&node).await;
    assert!(matches!(outcome, Outcome::Left(Cause::Uncertain)), "{outcome:?}");
    assert!(scene.leader().await.is_some());
}

/// Something of the node may be left when the keys would be read, and be gone when it is looked for again.
struct Doubtful(DeadNode);

impl Hands for Doubtful {
    async fn end_processes(&self) -> std::io::Result<bool> {
        Ok(false)
    }
    async fn nothing_works(&self) -> std::io::Result<bool> {
        self.0.nothing_works().await
    }
    async fn judge(&self) -> Result<Verdict, Unreadable> {
        self.0.judge().await
    }
    async fn remember(&self) -> std::io::Result<()> {
        self.0.remember().await
    }
    async fn give_up(&self, index: Index) -> Result<(), StoreError> {
        self.0.give_up(index).await
    }
}

#[tokio::test]
async fn processes_that_may_have_outlived_the_kill_keep_the_place() {
    let scene = Scene::set().await;
    let outcome = carry_out(&Doubtful(scene.dead())).await;
    assert!(matches!(outcome, Outcome::Left(Cause::Uncertain)), "{outcome:?}");
    assert!(scene.leader().await.is_some());
}

/// etcd has done what it was told, or not, and its answer is lost.
struct Deaf {
    node: DeadNode,
    arrives: bool,
}

impl Hands for Deaf {
    async fn end_processes(&self) -> std::io::Result<bool> {
        self.node.end_processes().await
    }
    async fn nothing_works(&self) -> std::io::Result<bool> {
        self.node.nothing_works().await
    }
    async fn judge(&self) -> Result<Verdict, Unreadable> {
        self.node.judge().await
    }
    async fn remember(&self) -> std::io::Result<()> {
        self.node.remember().await
    }
    async fn give_up(&self, index: Index) -> Result<(), StoreError> {
        if self.arrives {
            self.node.give_up(index).await?;
        }
        let (key, reason) = ("leader".to_owned(), "no answer".to_owned());
        Err(StoreError::Ambiguous { key, reason })
    }
}

#[tokio::test]
async fn a_delete_without_an_answer_is_never_called_undone() {
    for arrives in [true, false] {
        let scene = Scene::set().await;
        let node = scene.dead();
        let outcome = carry_out(&Deaf { node, arrives }).await;
        assert!(matches!(outcome, Outcome::Unclear(_)), "{outcome:?}");
        assert!(outcome.is_passing());
        assert_eq!(scene.leader().await.is_none(), arrives);
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
