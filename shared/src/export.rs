//! An export of what nobody could find out anew: records, bindings, ports, what became of former instances, and which cells
//! an operator has declared destroyed.
//!
//! **Guarantees.** There is no secret in it, as there is none in the records. An import overwrites nothing: it goes only into
//! an etcd that holds nothing else of this kind, and one that was interrupted can be repeated. Records come first: what
//! belongs to a life without a record is taken for leavings of one that is over. What is missing beside a record reconcile
//! writes again, as the import does, or leaves to it.
//! **Assumes.** No broker hands out ports during an import.
//! **Caveats.** Patroni's own keys are not in it: Patroni writes them again from what its nodes hold. Nor are the markers of
//! operations under way, and the reservations of plans with a quota: reconcile writes those again. What has changed since an export is not known after its import, as
//! with any older state of etcd.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    ids::CellGuid,
    keyspace,
    record::Record,
    roll,
    store::{Read, Store, StoreError},
};

/// The version of the shape. The second holds the destroyed cells.
const SCHEMA: u32 = 2;

/// What is exported, in this order: a port that a record names is seen after the record, not before it was handed out.
const DIRECTORIES: [&str; 3] = [keyspace::INSTANCES, keyspace::ROUTING, keyspace::TOMBSTONES];

/// What brokers write anew when they need it: it does not matter what is there.
const HINTS: [&str; 2] = [keyspace::NEXT_PORT, keyspace::PORTS_ADOPTED];

/// Everything that must be kept, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    schema: u32,
    /// When it was made.
    pub taken: Timestamp,
    /// The leaves, by their absolute keys.
    keys: BTreeMap<String, Kept>,
    /// The cells that an operator has declared destroyed, and when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    destroyed_cells: BTreeMap<CellGuid, Timestamp>,
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
    #[error("this is not an export")]
    Unreadable(#[from] serde_json::Error),
    /// A newer program has made it.
    #[error("this export has schema {0}, newer than the {SCHEMA} that this program knows")]
    Newer(u32),
    /// It holds a key that no export holds.
    #[error("this is not an export: it holds {0}")]
    Foreign(String),
    /// Something is there that is not the export's.
    #[error(
        "{0} is in etcd, and is not as it is in the export. Nothing was overwritten. An import needs an etcd that is empty, or that \
         holds nothing but what the same import had written when it was interrupted"
    )]
    NotEmpty(String),
    /// etcd.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The declarations of destroyed cells cannot be written. The rest is there.
    #[error("the destroyed cells are not declared yet; repeat the import")]
    Declaration(#[source] Error),
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
            destroyed_cells: roll::destroyed(store).await?,
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

    /// Writes it all into an etcd that holds nothing of it, or a part of it; answers how many keys were written, and cells
    /// declared destroyed. A cell that sends heartbeats is not declared.
    ///
    /// # Errors
    /// When something else is there, or etcd cannot be written; then the import can be repeated.
    pub async fn import(&self, store: &dyn Store, now: Timestamp) -> Result<usize, ImportError> {
        let there = keys(store).await?;
        let is_foreign = |(key, kept): &(&String, &Kept)| {
            !is_hint(key) && !self.keys.get(*key).is_some_and(|own| own.is_alike(kept))
        };
        if let Some((key, _)) = there.iter().find(is_foreign) {
            return Err(ImportError::NotEmpty(key.clone()));
        }
        let mut missing: Vec<_> = self
            .keys
            .iter()
            .filter(|(key, _)| !there.contains_key(*key))
            .collect();
        missing.sort_by_key(|(key, _)| turn(key));
        let mut written = 0;
        for (key, kept) in missing {
            if kept.write(store, key).await? {
                written += 1;
            }
        }
        for (cell, since) in &self.destroyed_cells {
            let declared = roll::declare_again(store, cell, *since, now).await;
            written += usize::from(declared.map_err(ImportError::Declaration)?);
        }
        Ok(written)
    }
}

impl Kept {
    /// Whether this is what stands there, or what upkeep has made of it since it was imported: a record says since when
    /// cells are missing.
    fn is_alike(&self, there: &Self) -> bool {
        let at_rest = |value: &str| {
            let mut record = Record::parse(value).ok()?;
            for node in record.nodes.values_mut() {
                node.missing_since = None;
            }
            Some(record)
        };
        self.value == there.value
            || at_rest(&self.value).is_some_and(|own| at_rest(&there.value).is_some_and(|other| own == other))
    }

    /// Writes it unless it is there. Answers whether it was not.
    async fn write(&self, store: &dyn Store, key: &str) -> Result<bool, ImportError> {
        let ttl = self.seconds_to_live.map(Duration::from_secs);
        let taken = match store.create(key, &self.value, ttl).await {
            Ok(_) => return Ok(true),
            Err(taken @ StoreError::Conflict { .. }) => taken,
            Err(error) => return Err(error.into()),
        };
        if is_hint(key) {
            return Ok(false);
        }
        // Reconcile may have written it again beside its record.
        match store.get(key, Read::Quorum).await? {
            Some(entry) if entry.value == self.value => Ok(false),
            Some(_) => Err(ImportError::NotEmpty(key.to_owned())),
            None => Err(taken.into()),
        }
    }
}

/// The order in which keys are written: the record of a life before anything else of it, then its port, which must be owned
/// when the allocation says so.
fn turn(key: &str) -> usize {
    let is_below = |directory: &str| {
        key.strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let in_turn = [
        is_record(key),
        is_below(keyspace::PORTS),
        is_below(keyspace::ALLOCATIONS),
        is_below(keyspace::INSTANCES),
    ];
    in_turn.iter().position(|is_its| *is_its).unwrap_or(in_turn.len())
}

fn is_hint(key: &str) -> bool {
    HINTS.contains(&key)
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
