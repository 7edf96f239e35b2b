//! An export of what nobody could find out anew: records, bindings, ports, and what became of former instances.
//!
//! **Guarantees.** There is no secret in it, as there is none in the records. An import overwrites nothing: it goes only into
//! an etcd that holds nothing else of this kind, and one that was interrupted can be repeated. Records come last: nobody acts
//! on an instance before everything that belongs to it is there.
//! **Assumes.** No broker runs during an import.
//! **Caveats.** Patroni's own keys are not in it: Patroni writes them again from what its nodes hold. Nor are the markers of
//! operations under way: reconcile writes those again. What has changed since an export is not known after its import, as
//! with any older state of etcd.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    keyspace,
    store::{Read, Store, StoreError},
};

/// The version of the shape.
const SCHEMA: u32 = 1;

/// What is exported, in this order: a port that a record names is seen after the record, not before it was handed out.
const DIRECTORIES: [&str; 3] = [keyspace::INSTANCES, keyspace::ROUTING, keyspace::TOMBSTONES];

/// Everything that must be kept, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    schema: u32,
    /// When it was made.
    pub taken: Timestamp,
    /// The leaves, by their absolute keys.
    keys: BTreeMap<String, Kept>,
}

/// A leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    value: String,
    /// What was left of its time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds_to_live: Option<u64>,
}

/// Why an import was refused or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not an export.
    #[error("this is not an export: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A newer program has made it.
    #[error("this export has schema {0}, newer than the {SCHEMA} that this program knows")]
    Newer(u32),
    /// It holds a key that no export holds.
    #[error("this is not an export: it holds {0}")]
    Foreign(String),
    /// Instances or ports are there that are not the export's. Nothing was written.
    #[error("etcd is not empty: {0} is there, and is not the export's. Nothing was imported")]
    NotEmpty(String),
    /// etcd.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Export {
    /// Reads what must be kept.
    ///
    /// # Errors
    /// When etcd cannot be read.
    pub async fn take(store: &dyn Store, now: Timestamp) -> Result<Self, StoreError> {
        Ok(Self {
            schema: SCHEMA,
            taken: now,
            keys: keys(store).await?,
        })
    }

    /// Reads an export as it was written.
    ///
    /// # Errors
    /// When it is none, or a newer program's.
    pub fn parse(text: &str) -> Result<Self, ImportError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let Versioned { schema } = serde_json::from_str(text)?;
        if schema > SCHEMA {
            return Err(ImportError::Newer(schema));
        }
        let export: Self = serde_json::from_str(text)?;
        match export.keys.keys().find(|key| !is_exported(key)) {
            Some(key) => Err(ImportError::Foreign(key.clone())),
            None => Ok(export),
        }
    }

    /// The export as it is written.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts and numbers only: serde_json cannot fail on them.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// How many instances are in it.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.keys.keys().filter(|key| is_record(key)).count()
    }

    /// Writes it all into an etcd that holds nothing of it, or a part of it; answers how many keys were written.
    ///
    /// # Errors
    /// When something else is there, or etcd cannot be written; then the import can be repeated.
    pub async fn import(&self, store: &dyn Store) -> Result<usize, ImportError> {
        let there = keys(store).await?;
        let is_ours =
            |(key, kept): &(&String, &Kept)| self.keys.get(*key).is_some_and(|own| own.value == kept.value);
        if let Some((key, _)) = there.iter().find(|leaf| !is_ours(leaf)) {
            return Err(ImportError::NotEmpty(key.clone()));
        }
        let (records, others): (Vec<_>, Vec<_>) = self
            .keys
            .iter()
            .filter(|(key, _)| !there.contains_key(*key))
            .partition(|(key, _)| is_record(key));
        let missing = others.into_iter().chain(records);
        let mut written = 0;
        for (key, kept) in missing {
            let ttl = kept.seconds_to_live.map(Duration::from_secs);
            store.create(key, &kept.value, ttl).await?;
            written += 1;
        }
        Ok(written)
    }
}

async fn keys(store: &dyn Store) -> Result<BTreeMap<String, Kept>, StoreError> {
    let mut keys = BTreeMap::new();
    for directory in DIRECTORIES {
        let leaves = store
            .tree(directory, Read::Quorum)
            .await?
            .unwrap_or_default()
            .leaves;
        keys.extend(leaves.into_iter().map(|(key, entry)| {
            let kept = Kept {
                value: entry.value,
                seconds_to_live: entry.ttl.map(|ttl| ttl.as_secs().max(1)),
            };
            (key, kept)
        }));
    }
    Ok(keys)
}

fn is_exported(key: &str) -> bool {
    DIRECTORIES.iter().any(|directory| {
        key.strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
    })
}

/// Whether a key is `/serviceinstances/<id>/record`.
fn is_record(key: &str) -> bool {
    let segments: Vec<&str> = key.split('/').collect();
    matches!(segments.as_slice(), ["", _, _, "record"])
}
