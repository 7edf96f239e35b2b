//! The store in memory and the real etcd, given the same calls, answer the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use shared::store::{Child, Entry, Index, Read, Store, StoreError, Tree, WatchEvent};
use tests::{etcd::EtcdServer, manual_clock::ManualClock, memory_store::MemoryStore};
use uuid::Uuid;

const CALLS: usize = 600;
const KEYS: &[&str] = &[
    "/", "/t", "/t/a", "/t/a/a", "/t/a/a/a", "/t/a/b", "/t/b", "/t/b/a", "/t/b/_h", "/t/_h", "/t/_h/a",
    "/t/ab", "/u",
];

/// A small generator of numbers (Knuth's constants), so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// What a call answered, with indexes counted from the beginning.
#[derive(Debug, PartialEq)]
enum Answer {
    Written(u64),
    Done,
    Leaf(Option<Entry>),
    Children(Option<BTreeMap<String, Child>>),
    Tree(Option<Tree>),
    Missing(String),
    Conflict(String),
    Unexpected(String),
}

/// A store, and its index when it was empty.
struct Counted {
    store: Box<dyn Store>,
    start: u64,
    /// The last index of each key that was written.
    written: BTreeMap<&'static str, Index>,
}

impl Counted {
    async fn new(store: Box<dyn Store>) -> Self {
        let tree = store.tree("/", Read::Quorum).await.unwrap().unwrap();
        Self {
            store,
            start: tree.at,
            written: BTreeMap::new(),
        }
    }

    fn count(&self, index: Index) -> Index {
        Index::new(index.get() - self.start).unwrap()
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry {
            index: self.count(entry.index),
            ..entry
        }
    }

    fn tree(&self, tree: Tree) -> Tree {
        let leaves = tree
            .leaves
            .into_iter()
            .map(|(key, entry)| (key, self.entry(entry)))
            .collect();
        Tree {
            leaves,
            at: tree.at - self.start,
            ..tree
        }
    }

    fn event(&self, event: WatchEvent) -> WatchEvent {
        match event {
            WatchEvent::Snapshot(tree) => WatchEvent::Snapshot(self.tree(tree)),
            WatchEvent::Put { key, entry } => WatchEvent::Put {
                key,
                entry: self.entry(entry),
            },
            WatchEvent::Removed { key, expired, index } => WatchEvent::Removed {
                key,
                expired,
                index: self.count(index),
            },
            lost @ WatchEvent::Lost(_) => panic!("{lost:?}"),
        }
    }

    async fn call(&mut self, kind: usize, key: &'static str, value: &str) -> Answer {
        let store = &self.store;
        let index = self.written.get(key).copied().unwrap_or(Index::MAX);
        let written = match kind {
            0 => store.create(key, value, None).await,
            1 | 2 => store.set(key, value, None).await,
            3 | 4 => store.compare_and_swap(key, value, index, None).await,
            _ => return self.other_call(kind, key, index).await,
        };
        match written {
            Ok(index) => {
                self.written.insert(key, index);
                Answer::Written(index.get() - self.start)
            }
            Err(error) => refused(error),
        }
    }

    async fn other_call(&self, kind: usize, key: &str, index: Index) -> Answer {
        let store = &self.store;
        let answer = match kind {
            5 | 6 => store.compare_and_delete(key, index).await.map(|()| Answer::Done),
            7 | 8 => store.remove_empty_directory(key).await.map(|()| Answer::Done),
            9 => store
                .get(key, Read::Quorum)
                .await
                .map(|entry| Answer::Leaf(entry.map(|entry| self.entry(entry)))),
            10 => store
                .tree(key, Read::Quorum)
                .await
                .map(|tree| Answer::Tree(tree.map(|tree| self.tree(tree)))),
            _ => store.list(key, Read::Quorum).await.map(|children| {
                let count = |child| match child {
                    Child::Leaf(entry) => Child::Leaf(self.entry(entry)),
                    Child::Directory => Child::Directory,
                };
                let children = children.map(|all| {
                    all.into_iter()
                        .map(|(name, child)| (name, count(child)))
                        .collect()
                });
                Answer::Children(children)
            }),
        };
        answer.unwrap_or_else(refused)
    }
}

fn refused(error: StoreError) -> Answer {
    match error {
        StoreError::Missing { key } => Answer::Missing(key),
        StoreError::Conflict { key, .. } => Answer::Conflict(key),
        StoreError::Unexpected { key, .. } => Answer::Unexpected(key),
        other => panic!("{other:?}"),
    }
}

async fn run(seed: u64) {
    eprintln!("seed {seed}");
    let server = EtcdServer::start().await;
    let mut etcd = Counted::new(Box::new(server.client())).await;
    let mut memory = Counted::new(Box::new(MemoryStore::new(Arc::new(ManualClock::new(0))))).await;
    let watched = ["/", "/t/a", "/t/_h"];
    let mut watches: Vec<_> = watched
        .map(|key| (etcd.store.watch(key), memory.store.watch(key)))
        .into();
    for (real, simulated) in &mut watches {
        let first = real.next().await;
        assert_eq!(etcd.event(first), memory.event(simulated.next().await));
    }
    let mut dice = Dice(seed);
    for number in 0..CALLS {
        let (kind, key, value) = (dice.roll(12), KEYS[dice.roll(KEYS.len())], number.to_string());
        let real = etcd.call(kind, key, &value).await;
        let simulated = memory.call(kind, key, &value).await;
        assert_eq!(
            real, simulated,
            "seed {seed}, call {number}: kind {kind} on {key}"
        );
    }
    // A last event for each watch, so that one event too many is seen.
    for key in ["/last", "/t/a/last", "/t/_h/last"] {
        // One of these directories may be a leaf in the end; then there is no event, in neither store.
        let real = etcd.call(1, key, "last").await;
        assert_eq!(real, memory.call(1, key, "last").await, "seed {seed}");
    }
    for ((real, simulated), key) in watches.iter_mut().zip(watched) {
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, simulated.next()).await {
            let expected = memory.event(event);
            let event = tokio::time::timeout(Duration::from_secs(20), real.next()).await;
            let event =
                event.unwrap_or_else(|_| panic!("seed {seed}, watch of {key}: {expected:?} does not come"));
            assert_eq!(etcd.event(event), expected, "seed {seed}, watch of {key}");
        }
    }
}

#[tokio::test]
async fn both_answer_the_same() {
    let random = Uuid::new_v4().as_u64_pair().0;
    for seed in [1, 2, 3, random] {
        run(seed).await;
    }
}

/// The twin, for a seed that has failed.
#[tokio::test]
async fn both_answer_the_same_with_this_seed() {
    run(7).await;
}
