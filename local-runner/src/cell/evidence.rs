//! What is read from etcd before anything is decided about a node. All reads have a quorum.

use shared::{
    ids::InstanceId,
    keyspace,
    record::{CorruptDocument, Record, Tombstone},
    store::{Read, Store, StoreError},
};

use super::judgement::{Dismissal, Identity, Judgement, dismiss, judge};

/// Why nothing can be decided now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// etcd did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds is not understood.
    #[error("{key} cannot be understood and is left alone: {cause}")]
    Corrupt {
        /// The key.
        key: String,
        /// What is wrong with its value.
        cause: CorruptDocument,
    },
}

/// The record of an instance; `None` when there is none.
pub(super) async fn record(store: &dyn Store, instance: &InstanceId) -> Result<Option<Record>, Unreadable> {
    let key = keyspace::record(instance);
    let Some(entry) = store.get(&key, Read::Quorum).await? else {
        return Ok(None);
    };
    match Record::parse(&entry.value) {
        Ok(record) => Ok(Some(record)),
        Err(cause) => Err(Unreadable::Corrupt { key, cause }),
    }
}

/// What is kept of the last life of an instance that has ended; `None` when there is nothing.
async fn tombstone(store: &dyn Store, instance: &InstanceId) -> Result<Option<Tombstone>, Unreadable> {
    let key = keyspace::tombstone(instance);
    let Some(entry) = store.get(&key, Read::Quorum).await? else {
        return Ok(None);
    };
    match serde_json::from_str(&entry.value) {
        Ok(tombstone) => Ok(Some(tombstone)),
        Err(error) => Err(Unreadable::Corrupt {
            key,
            cause: CorruptDocument::Json(error.to_string()),
        }),
    }
}

/// The name of the node that leads an instance's cluster, as Patroni wrote it.
async fn leader(store: &dyn Store, instance: &InstanceId) -> Result<Option<String>, StoreError> {
    let key = keyspace::leader(instance);
    Ok(store.get(&key, Read::Quorum).await?.map(|entry| entry.value))
}

/// Judges a caller's wish to remove a node by what etcd holds now.
pub(super) async fn consult_on_dismissal(store: &dyn Store, id: &Identity) -> Result<Dismissal, Unreadable> {
    let record = record(store, &id.instance).await?;
    let leader = leader(store, &id.instance).await?;
    let (record, leader) = (record.as_ref(), leader.as_deref());
    match dismiss(record, None, leader, id) {
        // As below.
        Dismissal::Unnamed => {
            let tombstone = tombstone(store, &id.instance).await?;
            Ok(dismiss(record, tombstone.as_ref(), leader, id))
        }
        decided => Ok(decided),
    }
}

/// Judges a node by what etcd holds now.
pub(super) async fn consult(store: &dyn Store, id: &Identity) -> Result<Judgement, Unreadable> {
    let record = record(store, &id.instance).await?;
    match judge(record.as_ref(), None, id) {
        // The record goes after its tombstone was written, so read in this order neither is missed.
        Judgement::SetAside => {
            let tombstone = tombstone(store, &id.instance).await?;
            Ok(judge(record.as_ref(), tombstone.as_ref(), id))
        }
        decided => Ok(decided),
    }
}
