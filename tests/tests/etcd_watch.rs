//! Watches on the real etcd: its history, its quirks, and connections that break, freeze or end.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::{
    etcd::{Etcd, Settings},
    store::{Read, Store, StoreError, Tree, Watch, WatchEvent},
};
use tests::{
    canned::{CannedServer, Reaction},
    etcd::{EtcdCluster, EtcdServer},
    proxy::Proxy,
    wait::eventually,
};

const LONG: Duration = Duration::from_secs(60);

/// A client whose watches notice a dead connection within `limit`.
fn client(machines: Vec<String>, limit: Duration) -> Etcd {
    let mut settings = Settings::new(machines);
    settings.connect_timeout = Duration::from_millis(500);
    settings.request_timeout = Duration::from_secs(1);
    settings.stream_limit = limit;
    Etcd::new(&settings).unwrap()
}

/// A client whose watches leave a dead connection soon, and wait for the next one as long as it takes.
fn patient(proxy: &Proxy) -> Etcd {
    let mut settings = Settings::new(vec![proxy.url()]);
    settings.request_timeout = Duration::from_secs(20);
    settings.stream_limit = Duration::from_secs(1);
    Etcd::new(&settings).unwrap()
}

async fn next(watch: &mut Box<dyn Watch>) -> WatchEvent {
    tokio::time::timeout(LONG, watch.next()).await.unwrap()
}

async fn snapshot(watch: &mut Box<dyn Watch>) -> Tree {
    match next(watch).await {
        WatchEvent::Snapshot(tree) => tree,
        other => panic!("not a snapshot: {other:?}"),
    }
}

async fn put(watch: &mut Box<dyn Watch>) -> (String, String) {
    match next(watch).await {
        WatchEvent::Put { key, entry } => (key, entry.value),
        other => panic!("not a write: {other:?}"),
    }
}

async fn removed(watch: &mut Box<dyn Watch>) -> (String, bool) {
    match next(watch).await {
        WatchEvent::Removed { key, expired, .. } => (key, expired),
        other => panic!("not a removal: {other:?}"),
    }
}

/// What somebody who follows a watch believes.
#[derive(Default)]
struct Copy {
    leaves: BTreeMap<String, String>,
    at: u64,
    snapshots: usize,
    lost: usize,
}

impl Copy {
    fn apply(&mut self, event: WatchEvent) {
        let at = match &event {
            WatchEvent::Snapshot(tree) => tree.at,
            WatchEvent::Put { entry, .. } => entry.index.get(),
            WatchEvent::Removed { index, .. } => index.get(),
            WatchEvent::Lost(_) => self.at,
        };
        assert!(at >= self.at, "{event:?} after {}", self.at);
        self.at = at;
        match event {
            WatchEvent::Snapshot(tree) => {
                self.snapshots += 1;
                self.leaves = tree
                    .leaves
                    .into_iter()
                    .map(|(key, entry)| (key, entry.value))
                    .collect();
            }
            WatchEvent::Put { key, entry } => {
                self.leaves.insert(key, entry.value);
            }
            WatchEvent::Removed { key, .. } => {
                let below = format!("{key}/");
                self.leaves
                    .retain(|leaf, _| *leaf != key && !leaf.starts_with(&below));
            }
            WatchEvent::Lost(_) => self.lost += 1,
        }
    }

    /// Follows the watch until it shows what is there.
    async fn catch_up(&mut self, watch: &mut Box<dyn Watch>, etcd: &Etcd, directory: &str) {
        let tree = etcd
            .tree(directory, Read::Quorum)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{directory} is there"));
        let there: BTreeMap<_, _> = tree
            .leaves
            .into_iter()
            .map(|(key, entry)| (key, entry.value))
            .collect();
        while self.leaves != there {
            self.apply(next(watch).await);
        }
    }
}

#[tokio::test]
async fn etcd_s_quirks_are_reported_as_what_they_mean() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    etcd.set("/t/w/d/a", "1", None).await.unwrap();
    etcd.set("/t/w/d/b", "1", None).await.unwrap();
    etcd.set("/t/w/leaf", "1", None).await.unwrap();
    let mut watch = etcd.watch("/t/w");
    snapshot(&mut watch).await;
    let raw = |method: &str, target: &str, form: &str| {
        let form = (!form.is_empty()).then_some(form);
        let (status, answer) = server.raw(method, &format!("/v2/keys{target}"), form);
        assert!((200..300).contains(&status), "{answer}");
    };
    // Patroni's renewal of a time to live is not an event.
    raw("PUT", "/t/w/leaf", "prevExist=true&refresh=true&ttl=60");
    // A directory that is made is no leaf, and neither is one that gets a time to live.
    raw("PUT", "/t/w/empty", "dir=true");
    raw("PUT", "/t/w/empty", "dir=true&prevExist=true&ttl=60");
    // A leaf becomes a directory: the leaf is gone.
    raw("PUT", "/t/w/leaf", "dir=true");
    assert_eq!(removed(&mut watch).await, ("/t/w/leaf".to_owned(), false));
    // A recursive removal is one event, and so is the end of a directory's time to live.
    raw("DELETE", "/t/w/d?recursive=true", "");
    assert_eq!(removed(&mut watch).await, ("/t/w/d".to_owned(), false));
    etcd.set("/t/w/e/a", "1", None).await.unwrap();
    assert_eq!(put(&mut watch).await, ("/t/w/e/a".to_owned(), "1".to_owned()));
    raw("PUT", "/t/w/e", "dir=true&prevExist=true&ttl=1");
    assert_eq!(removed(&mut watch).await, ("/t/w/e".to_owned(), true));
    // The removal of a directory above names that one.
    raw("DELETE", "/t?recursive=true", "");
    assert_eq!(removed(&mut watch).await, ("/t".to_owned(), false));
    etcd.set("/t/w/new", "1", None).await.unwrap();
    assert_eq!(put(&mut watch).await, ("/t/w/new".to_owned(), "1".to_owned()));
}

/// A stream that begins in the past carries one event and then nothing, for ever.
#[tokio::test]
async fn events_from_the_history_come_all_and_in_order() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let direct = server.client();
    let mut watch = client(vec![proxy.url()], Duration::from_secs(2)).watch("/t/w");
    snapshot(&mut watch).await;
    direct.set("/t/w/first", "0", None).await.unwrap();
    put(&mut watch).await;
    // The connection dies without a word; new ones pass.
    proxy.freeze();
    for number in 1..=10 {
        direct
            .set(&format!("/t/w/{}", number % 3), &number.to_string(), None)
            .await
            .unwrap();
        direct
            .set("/t/elsewhere", &number.to_string(), None)
            .await
            .unwrap();
    }
    for number in 1..=10 {
        assert_eq!(
            put(&mut watch).await,
            (format!("/t/w/{}", number % 3), number.to_string())
        );
    }
    direct.set("/t/w/last", "11", None).await.unwrap();
    assert_eq!(put(&mut watch).await, ("/t/w/last".to_owned(), "11".to_owned()));
}

#[tokio::test]
async fn a_long_way_back_ends_in_a_snapshot() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let direct = server.client();
    let mut watch = patient(&proxy).watch("/t/w");
    let mut copy = Copy::default();
    copy.apply(next(&mut watch).await);
    direct.set("/t/w/first", "1", None).await.unwrap();
    copy.apply(next(&mut watch).await);
    proxy.freeze();
    proxy.hold();
    for number in 0..200 {
        direct.set(&format!("/t/w/{number}"), "1", None).await.unwrap();
    }
    proxy.release();
    copy.catch_up(&mut watch, &direct, "/t/w").await;
    assert_eq!((copy.snapshots, copy.lost), (2, 0));
}

#[tokio::test]
async fn a_history_that_is_gone_ends_in_a_snapshot() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let direct = Arc::new(server.client());
    let mut watch = patient(&proxy).watch("/t/w");
    snapshot(&mut watch).await;
    direct.set("/t/w/first", "1", None).await.unwrap();
    put(&mut watch).await;
    // The stream dies, and the next one does not begin before the history is gone.
    proxy.freeze();
    proxy.hold();
    direct.set("/t/w/missed", "1", None).await.unwrap();
    busy(&direct, 1_100).await;
    proxy.release();
    let tree = snapshot(&mut watch).await;
    assert_eq!(
        tree.leaves.keys().collect::<Vec<_>>(),
        ["/t/w/first", "/t/w/missed"]
    );
    direct.set("/t/w/last", "1", None).await.unwrap();
    assert_eq!(put(&mut watch).await.0, "/t/w/last");
}

/// So many writes that do not concern anybody.
async fn busy(etcd: &Arc<Etcd>, writes: usize) {
    let workers: Vec<_> = (0..10)
        .map(|worker| {
            let etcd = Arc::clone(etcd);
            tokio::spawn(async move {
                for _ in 0..writes.div_ceil(10) {
                    etcd.set(&format!("/t/busy/{worker}"), "1", None).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

/// Where a quiet tree is watched in a busy store, the watch must not fall out of the history.
#[tokio::test]
async fn a_quiet_tree_in_a_busy_store_needs_no_snapshots() {
    let server = EtcdServer::start().await;
    let etcd = client(vec![server.url().to_owned()], Duration::from_millis(200));
    let mut watch = etcd.watch("/t/w");
    snapshot(&mut watch).await;
    let direct = Arc::new(server.client());
    for _ in 0..8 {
        let before = etcd.traffic().requests;
        busy(&direct, 400).await;
        // Two streams (each with its probe) began meanwhile, of which the second knows where the first began.
        eventually("the watch opens new streams", LONG, async || {
            (etcd.traffic().requests >= before + 4).then_some(())
        })
        .await;
    }
    direct.set("/t/w/a", "1", None).await.unwrap();
    assert_eq!(put(&mut watch).await, ("/t/w/a".to_owned(), "1".to_owned()));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_replaced_in_silence() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let direct = server.client();
    let mut watch = client(vec![proxy.url()], LONG).watch("/t/w");
    snapshot(&mut watch).await;
    for number in 0..10 {
        proxy.cut();
        direct.set("/t/w/a", &number.to_string(), None).await.unwrap();
        assert_eq!(put(&mut watch).await.1, number.to_string());
    }
}

#[tokio::test]
async fn a_loss_is_reported_once_and_its_end_is_a_snapshot() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let direct = server.client();
    direct.set("/t/w/a", "1", None).await.unwrap();
    let mut watch = client(vec![proxy.url()], LONG).watch("/t/w");
    let before = snapshot(&mut watch).await;
    proxy.interrupt();
    let event = next(&mut watch).await;
    assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
    let silence = tokio::time::timeout(Duration::from_secs(2), watch.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    proxy.mend();
    // Although nothing has changed: how else would one know that it is over?
    assert_eq!(snapshot(&mut watch).await, before);
    proxy.interrupt();
    let event = next(&mut watch).await;
    assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
}

#[tokio::test]
async fn a_watch_may_begin_before_etcd_does() {
    let mut server = EtcdServer::start().await;
    server.client().set("/t/w/a", "1", None).await.unwrap();
    server.kill();
    let mut watch = client(vec![server.url().to_owned()], LONG).watch("/t/w");
    let event = next(&mut watch).await;
    assert!(
        matches!(&event, WatchEvent::Lost(reason) if reason.contains("refused")),
        "{event:?}"
    );
    server.restart().await;
    assert_eq!(snapshot(&mut watch).await.leaves.len(), 1);
}

#[tokio::test]
async fn a_stopped_etcd_is_noticed() {
    let server = EtcdServer::start().await;
    let mut watch = client(vec![server.url().to_owned()], Duration::from_secs(1)).watch("/t/w");
    snapshot(&mut watch).await;
    server.pause();
    let event = next(&mut watch).await;
    assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
    server.resume();
    snapshot(&mut watch).await;
}

/// A member that is cut off from the others keeps its streams open, and knows nothing new.
#[tokio::test]
async fn a_member_without_a_quorum_is_noticed() {
    let cluster = EtcdCluster::start(3).await;
    let alone = cluster.members[0].url().to_owned();
    let mut watch = client(vec![alone], Duration::from_secs(1)).watch("/t/w");
    snapshot(&mut watch).await;
    cluster.members[1].pause();
    cluster.members[2].pause();
    let event = next(&mut watch).await;
    assert!(matches!(event, WatchEvent::Lost(_)), "{event:?}");
    cluster.members[1].resume();
    cluster.members[2].resume();
    snapshot(&mut watch).await;
}

#[tokio::test]
async fn a_watch_moves_to_a_member_that_lives() {
    let mut cluster = EtcdCluster::start(3).await;
    let etcd = client(cluster.settings().machines, Duration::from_secs(2));
    etcd.set("/t/w/a", "0", None).await.unwrap();
    let mut watch = etcd.watch("/t/w");
    let mut copy = Copy::default();
    copy.apply(next(&mut watch).await);
    for down in 0..3 {
        cluster.members[down].kill();
        for number in 0..20 {
            eventually("a write is done with one member down", LONG, async || {
                etcd.set("/t/w/a", &format!("{down}/{number}"), None).await.ok()
            })
            .await;
        }
        copy.catch_up(&mut watch, &etcd, "/t/w").await;
        cluster.members[down].restart().await;
    }
}

/// While etcd is killed and started again, somebody who follows a watch ends up with what is there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_over_restarts() {
    let mut server = EtcdServer::start().await;
    let etcd = client(vec![server.url().to_owned()], Duration::from_millis(500));
    etcd.set("/t/w/0", "start", None).await.unwrap();
    let mut watch = etcd.watch("/t/w");
    let mut copy = Copy::default();
    let writer = {
        let etcd = etcd.clone();
        tokio::spawn(async move {
            for number in 0..600_u32 {
                let key = format!("/t/w/{}", number % 11);
                match etcd.get(&key, Read::Quorum).await {
                    Ok(Some(entry)) if number % 5 == 0 => {
                        let _ = etcd.compare_and_delete(&key, entry.index).await;
                    }
                    _ => {
                        let _ = etcd.set(&key, &number.to_string(), None).await;
                    }
                }
            }
        })
    };
    for _ in 0..4 {
        let until = Instant::now() + Duration::from_millis(400);
        while let Ok(event) = tokio::time::timeout_at(until.into(), watch.next()).await {
            copy.apply(event);
        }
        server.restart().await;
    }
    writer.await.unwrap();
    eventually("etcd answers", LONG, async || {
        etcd.set("/t/w/last", "1", None).await.ok()
    })
    .await;
    copy.catch_up(&mut watch, &etcd, "/t/w").await;
}

/// Somebody who reads events slowly blocks nobody, and misses nothing.
#[tokio::test]
async fn a_slow_reader_catches_up() {
    let server = EtcdServer::start().await;
    let etcd = Arc::new(client(vec![server.url().to_owned()], Duration::from_secs(2)));
    let mut watch = etcd.watch("/t/busy");
    let mut copy = Copy::default();
    copy.apply(next(&mut watch).await);
    busy(&etcd, 3_000).await;
    etcd.set("/t/busy/last", "1", None).await.unwrap();
    copy.catch_up(&mut watch, &etcd, "/t/busy").await;
    assert_eq!(copy.lost, 0);
}

#[tokio::test]
async fn a_dropped_watch_ends_at_once() {
    let server = EtcdServer::start().await;
    let proxy = Proxy::start(server.url());
    let etcd = client(vec![proxy.url()], LONG);
    let mut watches: Vec<_> = (0..3).map(|number| etcd.watch(&format!("/t/{number}"))).collect();
    for watch in &mut watches {
        snapshot(watch).await;
    }
    eventually("the streams begin", LONG, async || {
        (proxy.connections() >= 3).then_some(())
    })
    .await;
    let start = Instant::now();
    drop(watches);
    eventually("the connections end", Duration::from_secs(10), async || {
        (proxy.connections() == 0).then_some(())
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_watch_does_not_keep_a_runtime_from_ending() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, watch) = runtime.block_on(async {
        let server = EtcdServer::start().await;
        let mut watch = client(vec![server.url().to_owned()], LONG).watch("/t/w");
        snapshot(&mut watch).await;
        (server, watch)
    });
    let start = Instant::now();
    drop(runtime);
    assert!(start.elapsed() < Duration::from_secs(10));
    drop((watch, server));
}

#[tokio::test]
async fn an_impossible_watch_says_why() {
    let server = EtcdServer::start().await;
    let event = next(&mut server.client().watch("t/w")).await;
    assert!(
        matches!(&event, WatchEvent::Lost(reason) if reason.contains("not a key")),
        "{event:?}"
    );
    server.client().set("/t/leaf", "1", None).await.unwrap();
    let refused = server.client().get("/t/leaf/x", Read::Quorum).await;
    assert!(
        matches!(refused, Err(StoreError::Unexpected { .. })),
        "{refused:?}"
    );
    let event = next(&mut server.client().watch("/t/leaf/x")).await;
    assert!(
        matches!(&event, WatchEvent::Lost(reason) if reason.contains("Not a directory")),
        "{event:?}"
    );
}

/// Time that passes while nobody listens is no silence: what came meanwhile is read first.
#[tokio::test]
async fn an_event_that_waits_to_be_read_is_not_skipped() {
    let http = |status: &str, index: u64, body: &str| {
        let head = format!("HTTP/1.1 {status}\r\nX-Etcd-Index: {index}\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let missing = r#"{"errorCode":100,"message":"Key not found","cause":"/t","index":5}"#;
    let limit = Duration::from_millis(100);
    let server = CannedServer::start(move |_, request| {
        if request.contains("waitIndex=6") {
            let event = r#"{"action":"set","node":{"key":"/t/w/a","value":"1","modifiedIndex":7}}"#;
            let length = event.len() + 1;
            let head = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
            let chunk = format!("{length:x}\r\n{event}\n\r\n");
            Reaction::Pieces(vec![head.into(), chunk.into()])
        } else if request.contains("waitIndex") {
            Reaction::Silence
        } else {
            // The probe takes longer than the stream may be silent.
            if request.contains("_probe") {
                std::thread::sleep(3 * limit);
            }
            Reaction::Answer(http("404 Not Found", 5, missing))
        }
    });
    let mut watch = client(vec![server.url()], limit).watch("/t/w");
    snapshot(&mut watch).await;
    assert_eq!(put(&mut watch).await, ("/t/w/a".to_owned(), "1".to_owned()));
}
