//! Where a world keeps its keys: in memory, or in a real etcd.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use shared::{
    etcd::Etcd,
    store::{Child, Entry, Index, Read, Store, StoreError, Tree, Watch},
};
use tokio::runtime::Handle;

use crate::memory_store::MemoryStore;

/// A store that answers without letting its caller wait for others, and that can be seen whole.
pub trait Ground: Store {
    /// Everything: each leaf's value, and `None` for a directory.
    fn content(&self) -> BTreeMap<String, Option<String>>;

    /// Whether keys run out of time by the world's clock, and not by the one on the wall.
    fn follows_the_clock(&self) -> bool;
}

impl Ground for MemoryStore {
    fn content(&self) -> BTreeMap<String, Option<String>> {
        self.content()
    }

    fn follows_the_clock(&self) -> bool {
        true
    }
}

/// A real etcd, by the client that the brokers have.
///
/// **Caveats.** Its calls block: it is not for the threads that run futures.
#[derive(Clone)]
pub struct EtcdGround {
    client: Etcd,
    runtime: Handle,
}

impl EtcdGround {
    /// An etcd in which nothing is yet, and what runs its client's futures.
    #[must_use]
    pub fn new(client: Etcd, runtime: Handle) -> Self {
        Self { client, runtime }
    }
}

impl fmt::Debug for EtcdGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.content()).finish()
    }
}

impl Ground for EtcdGround {
    fn content(&self) -> BTreeMap<String, Option<String>> {
        let tree = self.runtime.block_on(self.client.tree("/", Read::Quorum));
        let Some(tree) = tree.unwrap() else {
            return BTreeMap::new();
        };
        let leaves = tree.leaves.into_iter();
        let leaves = leaves.map(|(key, entry)| (key, Some(entry.value)));
        let directories = tree.directories.into_iter().map(|key| (key, None));
        leaves.chain(directories).collect()
    }

    fn follows_the_clock(&self) -> bool {
        false
    }
}

#[async_trait]
impl Store for EtcdGround {
    async fn get(&self, key: &str, read: Read) -> Result<Option<Entry>, StoreError> {
        self.runtime.block_on(self.client.get(key, read))
    }

    async fn list(&self, directory: &str, read: Read) -> Result<Option<BTreeMap<String, Child>>, StoreError> {
        self.runtime.block_on(self.client.list(directory, read))
    }

    async fn tree(&self, directory: &str, read: Read) -> Result<Option<Tree>, StoreError> {
        self.runtime.block_on(self.client.tree(directory, read))
    }

    async fn create(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.runtime.block_on(self.client.create(key, value, ttl))
    }

    async fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.runtime.block_on(self.client.set(key, value, ttl))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        value: &str,
        index: Index,
        ttl: Option<Duration>,
    ) -> Result<Index, StoreError> {
        let written = self.client.compare_and_swap(key, value, index, ttl);
        self.runtime.block_on(written)
    }

    async fn compare_and_delete(&self, key: &str, index: Index) -> Result<(), StoreError> {
        self.runtime.block_on(self.client.compare_and_delete(key, index))
    }

    async fn compare_value_and_delete(&self, key: &str, value: &str, index: Index) -> Result<(), StoreError> {
        let deleted = self.client.compare_value_and_delete(key, value, index);
        self.runtime.block_on(deleted)
    }

    async fn remove_empty_directory(&self, directory: &str) -> Result<(), StoreError> {
        self.runtime
            .block_on(self.client.remove_empty_directory(directory))
    }

    fn watch(&self, key: &str) -> Box<dyn Watch> {
        self.client.watch(key)
    }
}
