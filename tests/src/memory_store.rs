//! A store in memory that does what etcd's v2 API does, for simulations.
//!
//! **Guarantees.** It passes the same checks as the real etcd (`tests/store_conformance.rs`). Every call is done when
//! it answers, in one step: it never waits, so that a simulation alone decides on the order of things.
//! **Assumes.** Time is the given clock's. A time to live that has run out takes effect at the next call, or at
//! [`MemoryStore::tick`].
//! **Caveats.** It is never unavailable, no answer is ever lost, and a watch never loses it: whoever simulates that
//! wraps this store.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use shared::{
    clock::Clock,
    keyspace::last_segment,
    store::{Child, Entry, Index, NO_CONDITION, Read, Store, StoreError, Tree, Watch, WatchEvent},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where the index of a fresh etcd stands.
const FIRST: Index = Index::new(3).unwrap();

/// The store. Clones share their content.
#[derive(Clone)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

struct State {
    index: Index,
    /// Everything but the root by its absolute key. Whatever is here has its directories here.
    nodes: BTreeMap<String, Node>,
    watches: Vec<Watching>,
    /// Nothing runs out of time before this.
    next_end: Timestamp,
}

#[derive(Debug, Clone)]
enum Node {
    Directory,
    Leaf {
        value: String,
        index: Index,
        ends: Option<Timestamp>,
    },
}

struct Watching {
    key: String,
    events: UnboundedSender<WatchEvent>,
}

impl MemoryStore {
    /// An empty store with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            index: FIRST,
            nodes: BTreeMap::new(),
            watches: Vec::new(),
            next_end: Timestamp::MAX,
        };
        Self {
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Removes what has run out of time by now, and tells the watches.
    pub fn tick(&self) {
        self.with(|_, _| ());
    }

    /// Everything, for printing and comparing: each leaf's value, and `None` for a directory. Hidden names, too.
    #[must_use]
    pub fn content(&self) -> BTreeMap<String, Option<String>> {
        self.with(|state, _| {
            let shown = |(key, node): (&String, &Node)| match node {
                Node::Directory => (key.clone(), None),
                Node::Leaf { value, .. } => (key.clone(), Some(value.clone())),
            };
            state.nodes.iter().map(shown).collect()
        })
    }

    fn with<T>(&self, call: impl FnOnce(&mut State, Timestamp) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        state.expire(now);
        call(&mut state, now)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.content()).finish()
    }
}

impl State {
    /// What is at a key. The root is a directory; below a leaf nothing can be asked for.
    fn find(&self, key: &str) -> Result<Option<Node>, StoreError> {
        check(key)?;
        if key == "/" {
            return Ok(Some(Node::Directory));
        }
        for directory in directories_above(key) {
            match self.nodes.get(directory) {
                Some(Node::Directory) => {}
                Some(Node::Leaf { .. }) => return Err(unexpected(key, format!("{directory} is a leaf"))),
                None => return Ok(None),
            }
        }
        Ok(self.nodes.get(key).cloned())
    }

    /// The index of the leaf that a conditional write is about.
    fn find_leaf(&self, key: &str) -> Result<Index, StoreError> {
        match self.find(key)? {
            Some(Node::Leaf { index, .. }) => Ok(index),
            Some(Node::Directory) => Err(unexpected(key, "it is a directory".to_owned())),
            None => Err(StoreError::Missing { key: key.to_owned() }),
        }
    }

    /// What lies below a directory at any depth and is not hidden from it; `None` when there is no such directory.
    fn below(&self, directory: &str) -> Result<Option<Vec<(&String, &Node)>>, StoreError> {
        match self.find(directory)? {
            None => Ok(None),
            Some(Node::Leaf { .. }) => Err(unexpected(directory, "it is a leaf".to_owned())),
            Some(Node::Directory) => Ok(Some(self.seen_from(directory).collect())),
        }
    }

    fn seen_from(&self, directory: &str) -> impl Iterator<Item = (&String, &Node)> {
        let prefix = prefix(directory);
        let start = (Bound::Excluded(prefix.clone()), Bound::Unbounded);
        self.nodes
            .range::<String, _>(start)
            .take_while({
                let prefix = prefix.clone();
                move |(key, _)| key.starts_with(&prefix)
            })
            .filter(move |(key, _)| !is_hidden(&key[prefix.len()..]))
    }

    fn tree(&self, key: &str, now: Timestamp) -> Result<Option<Tree>, StoreError> {
        let Some(below) = self.below(key)? else {
            return Ok(None);
        };
        let mut tree = Tree {
            leaves: BTreeMap::new(),
            directories: Vec::new(),
            at: self.index.get(),
        };
        for (key, node) in below {
            match entry(node, now) {
                Some(entry) => drop(tree.leaves.insert(key.clone(), entry)),
                None => tree.directories.push(key.clone()),
            }
        }
        Ok(Some(tree))
    }

    /// What a watch begins with: nothing is an empty tree, and a leaf is a tree of that leaf.
    fn watched(&self, key: &str, now: Timestamp) -> Result<Tree, StoreError> {
        let empty = Tree {
            leaves: BTreeMap::new(),
            directories: Vec::new(),
            at: self.index.get(),
        };
        match self.find(key)? {
            None => Ok(empty),
            Some(Node::Directory) => Ok(self.tree(key, now)?.unwrap_or(empty)),
            Some(leaf) => {
                let leaves = entry(&leaf, now)
                    .map(|entry| (key.to_owned(), entry))
                    .into_iter()
                    .collect();
                Ok(Tree { leaves, ..empty })
            }
        }
    }

    fn write(&mut self, key: &str, value: &str, ttl: Option<Duration>, now: Timestamp) -> Index {
        for directory in directories_above(key) {
            self.nodes.insert(directory.to_owned(), Node::Directory);
        }
        let index = self.advance();
        let ends = ttl.map(|ttl| now.checked_add(whole_seconds(ttl)).expect("within a century"));
        self.next_end = ends.map_or(self.next_end, |ends| ends.min(self.next_end));
        let node = Node::Leaf {
            value: value.to_owned(),
            index,
            ends,
        };
        let entry = entry(&node, now).expect("a leaf");
        self.nodes.insert(key.to_owned(), node);
        self.tell(
            key,
            &WatchEvent::Put {
                key: key.to_owned(),
                entry,
            },
        );
        index
    }

    fn remove(&mut self, key: &str, expired: bool) {
        self.nodes.remove(key);
        let index = self.advance();
        self.tell(
            key,
            &WatchEvent::Removed {
                key: key.to_owned(),
                expired,
                index,
            },
        );
    }

    fn advance(&mut self) -> Index {
        self.index = self.index.checked_add(1).expect("fewer writes than that");
        self.index
    }

    fn tell(&mut self, key: &str, event: &WatchEvent) {
        self.watches.retain(|watching| {
            let prefix = prefix(&watching.key);
            let concerned =
                key == watching.key || key.strip_prefix(&prefix).is_some_and(|below| !is_hidden(below));
            if concerned {
                watching.events.send(event.clone()).is_ok()
            } else {
                !watching.events.is_closed()
            }
        });
    }

    /// Removes what has run out of time, the earliest first, as if somebody had looked at every moment.
    fn expire(&mut self, now: Timestamp) {
        if now < self.next_end {
            return;
        }
        let with_an_end = |(key, node): (&String, &Node)| match node {
            Node::Leaf { ends: Some(ends), .. } => Some((*ends, key.clone())),
            _ => None,
        };
        let all = self.nodes.iter().filter_map(with_an_end);
        let (mut ended, later): (Vec<_>, Vec<_>) = all.partition(|(ends, _)| *ends <= now);
        ended.sort_unstable();
        self.next_end = later
            .iter()
            .map(|(ends, _)| *ends)
            .min()
            .unwrap_or(Timestamp::MAX);
        for (_, key) in ended {
            self.remove(&key, true);
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str, _: Read) -> Result<Option<Entry>, StoreError> {
        self.with(|state, now| match state.find(key)? {
            None => Ok(None),
            Some(node) => match entry(&node, now) {
                Some(entry) => Ok(Some(entry)),
                None => Err(unexpected(key, "it is a directory".to_owned())),
            },
        })
    }

    async fn list(&self, directory: &str, _: Read) -> Result<Option<BTreeMap<String, Child>>, StoreError> {
        self.with(|state, now| {
            let Some(below) = state.below(directory)? else {
                return Ok(None);
            };
            let depth = prefix(directory).len();
            let children = below
                .into_iter()
                .filter(|(key, _)| !key[depth..].contains('/'))
                .map(|(key, node)| {
                    let child = entry(node, now).map_or(Child::Directory, Child::Leaf);
                    (last_segment(key).to_owned(), child)
                });
            Ok(Some(children.collect()))
        })
    }

    async fn tree(&self, directory: &str, _: Read) -> Result<Option<Tree>, StoreError> {
        self.with(|state, now| state.tree(directory, now))
    }

    async fn create(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.with(|state, now| {
            not_the_root(key)?;
            match state.find(key)? {
                Some(_) => Err(conflict(key, "it exists already")),
                None => Ok(state.write(key, value, ttl, now)),
            }
        })
    }

    async fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.with(|state, now| match state.find(key)? {
            Some(Node::Directory) => Err(unexpected(key, "it is a directory".to_owned())),
            Some(Node::Leaf { .. }) | None => Ok(state.write(key, value, ttl, now)),
        })
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        value: &str,
        index: Index,
        ttl: Option<Duration>,
    ) -> Result<Index, StoreError> {
        self.with(|state, now| {
            if state.find_leaf(key)? != index {
                return Err(conflict(key, "it has another index"));
            }
            Ok(state.write(key, value, ttl, now))
        })
    }

    async fn compare_and_delete(&self, key: &str, index: Index) -> Result<(), StoreError> {
        self.with(|state, _| {
            if state.find_leaf(key)? != index {
                return Err(conflict(key, "it has another index"));
            }
            state.remove(key, false);
            Ok(())
        })
    }

    async fn compare_value_and_delete(&self, key: &str, value: &str, index: Index) -> Result<(), StoreError> {
        self.with(|state, _| {
            if value.is_empty() {
                return Err(unexpected(key, NO_CONDITION.to_owned()));
            }
            if state.find_leaf(key)? != index {
                return Err(conflict(key, "it has another index"));
            }
            let held = matches!(state.find(key)?, Some(Node::Leaf { value: held, .. }) if held == value);
            if !held {
                return Err(conflict(key, "it holds another value"));
            }
            state.remove(key, false);
            Ok(())
        })
    }

    async fn remove_empty_directory(&self, directory: &str) -> Result<(), StoreError> {
        self.with(|state, _| {
            not_the_root(directory)?;
            match state.find(directory)? {
                None => {
                    return Err(StoreError::Missing {
                        key: directory.to_owned(),
                    });
                }
                Some(Node::Leaf { .. }) => return Err(unexpected(directory, "it is a leaf".to_owned())),
                Some(Node::Directory) => {}
            }
            // Also what is hidden keeps a directory.
            let prefix = prefix(directory);
            let start = (Bound::Excluded(prefix.clone()), Bound::Unbounded);
            if state
                .nodes
                .range::<String, _>(start)
                .next()
                .is_some_and(|(key, _)| key.starts_with(&prefix))
            {
                return Err(conflict(directory, "it is not empty"));
            }
            state.remove(directory, false);
            Ok(())
        })
    }

    fn watch(&self, key: &str) -> Box<dyn Watch> {
        let (sender, events) = unbounded_channel();
        self.with(|state, now| {
            let first = match state.watched(key, now) {
                Ok(tree) => WatchEvent::Snapshot(tree),
                Err(error) => WatchEvent::Lost(error.to_string()),
            };
            // The receiver is here.
            let _ = sender.send(first);
            state.watches.push(Watching {
                key: key.to_owned(),
                events: sender,
            });
        });
        Box::new(MemoryWatch { events })
    }
}

struct MemoryWatch {
    events: UnboundedReceiver<WatchEvent>,
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The store is gone, and nothing more happens in it.
            None => std::future::pending().await,
        }
    }
}

fn entry(node: &Node, now: Timestamp) -> Option<Entry> {
    let Node::Leaf { value, index, ends } = node else {
        return None;
    };
    let ttl = ends.map(|ends| {
        let left = Duration::try_from(ends.duration_since(now)).unwrap_or_default();
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    });
    Some(Entry {
        value: value.clone(),
        index: *index,
        ttl,
    })
}

/// As the client sends it: rounded up, at least one second, at most a century.
fn whole_seconds(ttl: Duration) -> Duration {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    Duration::from_secs(seconds.clamp(1, 100 * 365 * 24 * 3600))
}

fn prefix(directory: &str) -> String {
    format!("{}/", directory.trim_end_matches('/'))
}

fn directories_above(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').skip(1).map(|(end, _)| &key[..end])
}

/// Whether a path, which begins at some directory, leads through a hidden name.
fn is_hidden(path: &str) -> bool {
    path.split('/').any(|segment| segment.starts_with('_'))
}

fn check(key: &str) -> Result<(), StoreError> {
    let fits = key == "/"
        || key
            .strip_prefix('/')
            .is_some_and(|path| path.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    if fits {
        Ok(())
    } else {
        Err(unexpected(key, "this is not a key".to_owned()))
    }
}

fn not_the_root(key: &str) -> Result<(), StoreError> {
    if key == "/" {
        Err(unexpected(key, "the root is read only".to_owned()))
    } else {
        Ok(())
    }
}

fn unexpected(key: &str, reason: String) -> StoreError {
    StoreError::Unexpected {
        key: key.to_owned(),
        reason,
    }
}

fn conflict(key: &str, cause: &str) -> StoreError {
    StoreError::Conflict {
        key: key.to_owned(),
        cause: cause.to_owned(),
    }
}
