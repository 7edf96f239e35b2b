//! etcd dead, stopped, restarted, without a quorum: what reads and writes say then, and within what time.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use shared::{
    etcd::{Etcd, Settings},
    store::{Index, Read, Store, StoreError},
};
use tests::{
    canned::{CannedServer, Reaction},
    etcd::{EtcdCluster, EtcdServer},
    ports::free_port,
    proxy::Proxy,
    wait::eventually,
};

/// How long a test machine may be busy with something else.
const SLACK: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

fn impatient(machines: Vec<String>) -> Etcd {
    let mut settings = Settings::new(machines);
    settings.connect_timeout = Duration::from_millis(500);
    settings.request_timeout = Duration::from_secs(1);
    Etcd::new(&settings).unwrap()
}

fn dead() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// A machine that takes connections and never says anything.
fn silent() -> CannedServer {
    CannedServer::start(|_, _| Reaction::Silence)
}

async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let result = call.await;
    let took = start.elapsed();
    assert!(took < limit + SLACK, "took {took:?}, more than {limit:?}");
    result
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable { reason }) => reason,
        other => panic!("not Unavailable: {other:?}"),
    }
}

#[track_caller]
fn ambiguous<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Ambiguous { reason, .. }) => reason,
        other => panic!("not Ambiguous: {other:?}"),
    }
}

#[tokio::test]
async fn a_dead_etcd_does_not_get_a_write() {
    let etcd = impatient(vec![dead(), dead(), dead()]);
    unavailable(within(Duration::ZERO, etcd.get("/t/a", Read::Quorum)).await);
    let reason = unavailable(within(Duration::ZERO, etcd.set("/t/a", "1", None)).await);
    assert_eq!(
        reason.matches("refused").count(),
        3,
        "each machine is named: {reason}"
    );
    unavailable(etcd.compare_and_delete("/t/a", Index::MIN).await);
    let unknown = impatient(vec!["http://etcd.invalid:2379".to_owned()]);
    unavailable(within(Duration::from_secs(1), unknown.set("/t/a", "1", None)).await);
}

#[tokio::test]
async fn dead_machines_are_passed_over_and_the_good_one_is_remembered() {
    let server = EtcdServer::start().await;
    let etcd = impatient(vec![dead(), dead(), server.url().to_owned()]);
    etcd.create("/t/a", "1", None).await.unwrap();
    assert_eq!(etcd.traffic().requests, 3);
    etcd.get("/t/a", Read::Quorum).await.unwrap().unwrap();
    etcd.set("/t/a", "2", None).await.unwrap();
    assert_eq!(etcd.traffic().requests, 5);
}

#[tokio::test]
async fn a_read_goes_on_to_the_next_machine_and_a_write_does_not() {
    let server = EtcdServer::start().await;
    let silent = silent();
    let machines = || vec![silent.url(), server.url().to_owned()];
    server.client().set("/t/a", "1", None).await.unwrap();

    let etcd = impatient(machines());
    let entry = within(Duration::from_secs(1), etcd.get("/t/a", Read::Quorum))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entry.value, "1");

    let etcd = impatient(machines());
    ambiguous(
        within(
            Duration::from_secs(1),
            etcd.compare_and_swap("/t/a", "2", entry.index, None),
        )
        .await,
    );
    assert_eq!(etcd.get("/t/a", Read::Quorum).await.unwrap().unwrap(), entry);
    // The machine that did not answer is not the first to be asked any more.
    etcd.compare_and_swap("/t/a", "3", entry.index, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn silent_machines_do_not_add_up() {
    let machines = [silent(), silent(), silent(), silent(), silent()];
    let etcd = impatient(machines.iter().map(CannedServer::url).collect());
    unavailable(within(Duration::from_secs(2), etcd.get("/t/a", Read::Quorum)).await);
    ambiguous(within(Duration::from_secs(1), etcd.set("/t/a", "1", None)).await);
}

#[tokio::test]
async fn a_stopped_etcd_is_unavailable_for_reads_and_ambiguous_for_writes() {
    let server = EtcdServer::start().await;
    let etcd = impatient(vec![server.url().to_owned()]);
    let index = etcd.create("/t/a", "1", None).await.unwrap();
    server.pause();
    unavailable(within(Duration::from_secs(1), etcd.get("/t/a", Read::Local)).await);
    unavailable(within(Duration::from_secs(1), etcd.tree("/t", Read::Quorum)).await);
    ambiguous(
        within(
            Duration::from_secs(1),
            etcd.compare_and_swap("/t/a", "2", index, None),
        )
        .await,
    );
    ambiguous(within(Duration::from_secs(1), etcd.create("/t/b", "1", None)).await);
    ambiguous(within(Duration::from_secs(1), etcd.compare_and_delete("/t/c", index)).await);
    server.resume();
    // It was not known, and now it is: etcd has found the request in its socket.
    eventually("the writes are done", LONG, async || {
        let tree = etcd.tree("/t", Read::Quorum).await.ok()??;
        (tree.leaves.get("/t/a")?.value == "2" && tree.leaves.contains_key("/t/b")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_ambiguous_and_sent_once() {
    let server = CannedServer::start(|_, _| Reaction::Last(Vec::new()));
    let etcd = impatient(vec![server.url(), server.url()]);
    ambiguous(etcd.set("/t/a", "1", None).await);
    assert_eq!(server.requests().len(), 1);
    ambiguous(etcd.append("/t/q", "1", None).await);
    assert_eq!(server.requests().len(), 2);
    unavailable(etcd.get("/t/a", Read::Quorum).await);
}

/// The connection that is kept for further requests may end just as the next one is sent.
#[tokio::test]
async fn a_kept_connection_that_ends_costs_a_read_nothing_and_sends_no_write_twice() {
    let answer = r#"{"action":"get","node":{"key":"/t/a","value":"1","modifiedIndex":5}}"#;
    let length = answer.len();
    let answer = format!("HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nContent-Length: {length}\r\n\r\n{answer}");
    let server = CannedServer::start(move |number, _| match number {
        0 => Reaction::Answer(answer.clone().into_bytes()),
        _ => Reaction::Last(Vec::new()),
    });
    let etcd = impatient(vec![server.url()]);
    for _ in 0..3 {
        etcd.get("/t/a", Read::Quorum).await.unwrap().unwrap();
    }
    let before = server.requests().len();
    ambiguous(etcd.set("/t/a", "1", None).await);
    assert_eq!(server.requests().len() - before, 1);
}

#[tokio::test]
async fn connections_from_before_a_restart_do_no_harm() {
    let mut server = EtcdServer::start().await;
    let etcd = server.client();
    for round in 0..3 {
        let write = |number: usize| {
            let etcd = etcd.clone();
            async move { etcd.create(&format!("/t/{round}/{number}"), "1", None).await }
        };
        let writes: Vec<_> = (0..12).map(|number| tokio::spawn(write(number))).collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        server.restart().await;
    }
    assert_eq!(
        etcd.tree("/t", Read::Quorum).await.unwrap().unwrap().leaves.len(),
        36
    );
}

/// A counter, advanced by compare-and-swap while etcd is killed under it: each advance that was acknowledged counted
/// once, and each ambiguous one at most once.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_or_doubled_while_etcd_is_killed() {
    let mut server = EtcdServer::start().await;
    let etcd = server.client();
    etcd.create("/t/counter", "0", None).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (etcd, over) = (etcd.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut done, mut unknown) = (0_u64, 0_u64);
                while !over.load(Ordering::SeqCst) {
                    let Ok(Some(entry)) = etcd.get("/t/counter", Read::Quorum).await else {
                        continue;
                    };
                    let next = (entry.value.parse::<u64>().unwrap() + 1).to_string();
                    match etcd
                        .compare_and_swap("/t/counter", &next, entry.index, None)
                        .await
                    {
                        Ok(_) => done += 1,
                        Err(StoreError::Ambiguous { .. }) => unknown += 1,
                        Err(StoreError::Conflict { .. } | StoreError::Unavailable { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (done, unknown)
            })
        })
        .collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.restart().await;
    }
    over.store(true, Ordering::SeqCst);
    let (mut done, mut unknown) = (0, 0);
    for worker in workers {
        let (more_done, more_unknown) = worker.await.unwrap();
        done += more_done;
        unknown += more_unknown;
    }
    let counter: u64 = etcd
        .get("/t/counter", Read::Quorum)
        .await
        .unwrap()
        .unwrap()
        .value
        .parse()
        .unwrap();
    assert!(
        done > 0 && done <= counter && counter <= done + unknown,
        "{done} {counter} {unknown}"
    );
}

#[tokio::test]
async fn a_cluster_with_one_member_down_goes_on() {
    let mut cluster = EtcdCluster::start(3).await;
    let etcd = impatient(cluster.settings().machines);
    etcd.set("/t/a", "1", None).await.unwrap();
    for down in 0..3 {
        cluster.members[down].kill();
        // The leader may have been the one that went: until there is another, writes are ambiguous.
        eventually("a write is done with one member down", LONG, async || {
            etcd.set("/t/a", "2", None).await.ok()
        })
        .await;
        for _ in 0..5 {
            etcd.set("/t/a", "2", None).await.unwrap();
            assert_eq!(etcd.get("/t/a", Read::Quorum).await.unwrap().unwrap().value, "2");
        }
        cluster.members[down].restart().await;
    }
}

#[tokio::test]
async fn a_cluster_with_one_member_stopped_goes_on() {
    let cluster = EtcdCluster::start(3).await;
    let etcd = impatient(cluster.settings().machines);
    etcd.set("/t/a", "1", None).await.unwrap();
    for stopped in &cluster.members {
        stopped.pause();
        eventually("a write is done with one member stopped", LONG, async || {
            etcd.set("/t/a", "2", None).await.ok()
        })
        .await;
        let entry = eventually("a read is done, too", LONG, async || {
            within(Duration::from_secs(2), etcd.get("/t/a", Read::Quorum))
                .await
                .ok()
        });
        assert_eq!(entry.await.unwrap().value, "2");
        stopped.resume();
    }
}

#[tokio::test]
async fn without_a_quorum_nothing_that_counts_is_answered() {
    let mut cluster = EtcdCluster::start(3).await;
    let etcd = impatient(cluster.settings().machines);
    let index = etcd.create("/t/a", "1", None).await.unwrap();
    for member in &mut cluster.members[..2] {
        member.kill();
    }
    unavailable(within(Duration::from_secs(2), etcd.get("/t/a", Read::Quorum)).await);
    ambiguous(
        within(
            Duration::from_secs(2),
            etcd.compare_and_swap("/t/a", "2", index, None),
        )
        .await,
    );
    ambiguous(within(Duration::from_secs(2), etcd.compare_and_delete("/t/a", index)).await);
    // A read that may be stale is answered by the member that is left.
    let entry = etcd.get("/t/a", Read::Local).await.unwrap().unwrap();
    assert_eq!((entry.value.as_str(), entry.index), ("1", index));
    // With the patience to hear etcd's own word, it is no different.
    let mut patient = cluster.settings();
    patient.request_timeout = Duration::from_secs(20);
    let patient = Etcd::new(&patient).unwrap();
    let reason = ambiguous(patient.set("/t/b", "1", None).await);
    assert!(
        reason.contains("answered 500") && reason.contains("timed out"),
        "{reason}"
    );
    let reason = unavailable(patient.get("/t/a", Read::Quorum).await);
    assert!(reason.contains("answered 500"), "{reason}");

    // Both together: alone the first one back would wait for the other in vain, if that one had led.
    let (first, others) = cluster.members.split_at_mut(1);
    tokio::join!(first[0].restart(), others[0].restart());
    let entry = eventually("there is a quorum again", LONG, async || {
        etcd.get("/t/a", Read::Quorum).await.ok()
    })
    .await;
    // Whether the ambiguous writes were done, nobody could know; here is the answer.
    assert!(entry.is_none_or(|entry| entry.value == "1" || entry.value == "2"));
    eventually("writes are done again", LONG, async || {
        etcd.set("/t/a", "3", None).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_frozen_connection_is_given_up_and_not_used_again() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let etcd = impatient(vec![proxy.url()]);
    etcd.set("/t/a", "1", None).await.unwrap();
    proxy.freeze();
    ambiguous(within(Duration::from_secs(1), etcd.set("/t/a", "2", None)).await);
    etcd.set("/t/a", "3", None).await.unwrap();
    proxy.cut();
    etcd.set("/t/a", "4", None).await.unwrap();
}
