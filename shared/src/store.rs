//! What the broker asks of its key-value store: single-key conditional writes, as etcd's v2 API has them.
//!
//! **Guarantees.** Every conditional write takes its condition explicitly, and a condition that does not hold is an
//! error of its own ([`StoreError::Conflict`]), never mixed up with an unreachable store.
//! **Assumes.** Keys are absolute (`/a/b`), made by [`crate::keyspace`] from checked names.
//! **Caveats.** A write whose answer was lost is [`StoreError::Ambiguous`]: it may have happened, or may still happen.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use async_trait::async_trait;

/// etcd's modifiedIndex. Never zero: a condition on index 0 means "no condition" in etcd's v2 API.
pub type Index = NonZeroU64;

/// Why an empty value cannot be compared with: in etcd's v2 API it means "no condition".
pub const NO_CONDITION: &str = "an empty value is no condition";

/// A key's value and the index of the write that put it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value as text.
    pub value: String,
    /// The index of the last write: what a later conditional write compares.
    pub index: Index,
    /// What is left of the key's time to live, rounded up; `None` for a key that stays.
    pub ttl: Option<Duration>,
}

/// One thing directly below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child {
    /// A key with a value.
    Leaf(Entry),
    /// A directory, whose own children were not asked for.
    Directory,
}

/// Everything below one directory, and the state of the store it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Each leaf by its absolute key.
    pub leaves: BTreeMap<String, Entry>,
    /// Each directory below the one asked for (not itself) by its absolute key, empty ones included.
    pub directories: Vec<String>,
    /// The store's index at the time of reading: a watch from the next index misses nothing.
    pub at: u64,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Linearised (`quorum=true`): for everything that a decision hangs on.
    Quorum,
    /// From whichever member answers; may be stale. For listings that people look at and for hints.
    Local,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key, or a directory on the way to it, does not exist. (For reads absence is `None`, not an error.)
    #[error("{key} does not exist in etcd")]
    Missing {
        /// The key asked for.
        key: String,
    },
    /// The condition of a write did not hold: the key was there already, has another index, or a directory is not
    /// empty. Nothing was changed.
    #[error("{key} was changed by somebody else: {cause}")]
    Conflict {
        /// The key asked for.
        key: String,
        /// What etcd says about the condition.
        cause: String,
    },
    /// No machine of the store could be asked, or none answered in time, or it has no quorum. A write was not done.
    #[error("etcd is unavailable: {reason}")]
    Unavailable {
        /// What was tried, machine by machine. Holds no secrets.
        reason: String,
    },
    /// The answer to a write was lost: it may have been done, and may be done later still. Read back before deciding.
    #[error("it is not known whether {key} was written: {reason}")]
    Ambiguous {
        /// The key asked for.
        key: String,
        /// How the answer was lost.
        reason: String,
    },
    /// The store answered something that makes no sense for this request: a directory where a value must be, an
    /// answer that is not etcd's JSON, or a refusal of the request itself.
    #[error("unexpected answer from etcd for {key}: {reason}")]
    Unexpected {
        /// The key asked for.
        key: String,
        /// What was answered.
        reason: String,
    },
}

/// A change that a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The whole watched tree: always first, and again whenever events were missed (etcd keeps the last 1000 of the
    /// whole store) or may have been, and after each `Lost`. Whoever keeps a copy replaces it.
    Snapshot(Tree),
    /// A leaf was written.
    Put {
        /// Its absolute key.
        key: String,
        /// Its new state.
        entry: Entry,
    },
    /// A leaf, or a whole directory with everything below it, was deleted or expired.
    Removed {
        /// Its absolute key. Everything at or below it is gone.
        key: String,
        /// Whether it went because its time to live ran out.
        expired: bool,
        /// The index of the removal.
        index: Index,
    },
    /// The store cannot be reached now; what was reported so far may be stale. The watch goes on trying, and reports
    /// a snapshot when it succeeds, even if nothing has changed.
    Lost(String),
}

/// A running watch; dropping it ends it.
#[async_trait]
pub trait Watch: Send {
    /// The next event. Never ends by itself, and is cancel-safe.
    async fn next(&mut self) -> WatchEvent;
}

/// The key-value store: etcd in service, an in-memory one in simulations.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads one leaf; `None` when it does not exist.
    ///
    /// # Errors
    /// `Unavailable`; `Unexpected` when the key is a directory.
    async fn get(&self, key: &str, read: Read) -> Result<Option<Entry>, StoreError>;

    /// Reads what lies directly below a directory, by last path segment; `None` when it does not exist.
    /// Hidden names (leading underscore) are left out.
    ///
    /// # Errors
    /// `Unavailable`; `Unexpected` when the key is a leaf.
    async fn list(&self, directory: &str, read: Read) -> Result<Option<BTreeMap<String, Child>>, StoreError>;

    /// Reads everything below a directory; `None` when it does not exist.
    ///
    /// # Errors
    /// `Unavailable`; `Unexpected` when the key is a leaf.
    async fn tree(&self, directory: &str, read: Read) -> Result<Option<Tree>, StoreError>;

    /// Writes a key that must not exist, with its parents; answers the index of the write.
    ///
    /// # Errors
    /// `Conflict` when it exists; `Unavailable`, `Ambiguous`.
    async fn create(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError>;

    /// Writes a key whatever it was before. Only for effects that are the same whoever writes them, however late.
    ///
    /// # Errors
    /// `Unavailable`, `Ambiguous`.
    async fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError>;

    /// Writes a key that must still be at `index`.
    ///
    /// # Errors
    /// `Missing` when it is gone; `Conflict` when it is at another index; `Unavailable`, `Ambiguous`.
    async fn compare_and_swap(
        &self,
        key: &str,
        value: &str,
        index: Index,
        ttl: Option<Duration>,
    ) -> Result<Index, StoreError>;

    /// Deletes a leaf that must still be at `index`.
    ///
    /// # Errors
    /// `Missing` when it is gone; `Conflict` when it is at another index; `Unavailable`, `Ambiguous`.
    async fn compare_and_delete(&self, key: &str, index: Index) -> Result<(), StoreError>;

    /// Deletes a leaf that must still hold `value` and be at `index`: for a key of somebody else's, which must say what
    /// it was seen to say, whatever an index means in a store that was restored meanwhile. `value` is not empty: an empty
    /// one is no condition in etcd's v2 API.
    ///
    /// # Errors
    /// `Missing` when it is gone; `Conflict` when it holds another value or is at another index; `Unexpected` when `value`
    /// is empty; `Unavailable`, `Ambiguous`.
    async fn compare_value_and_delete(&self, key: &str, value: &str, index: Index) -> Result<(), StoreError>;

    /// Deletes a directory that must be empty. There is no recursive delete, on purpose (design.md, 4, rule 2).
    ///
    /// # Errors
    /// `Missing` when it is gone; `Conflict` when it is not empty; `Unavailable`, `Ambiguous`.
    async fn remove_empty_directory(&self, directory: &str) -> Result<(), StoreError>;

    /// Starts watching everything at and below a key. The first event is a snapshot (an empty one when nothing is there).
    fn watch(&self, key: &str) -> Box<dyn Watch>;
}
