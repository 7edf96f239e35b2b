//! Which instances are looked at next. The cursor in etcd is the last one of the slice before, so that all brokers
//! together go through all instances in turn.

use std::{collections::BTreeSet, ops::Bound};

use crate::{
    ids::InstanceId,
    keyspace,
    store::{Read, Store, StoreError},
};

/// How many instances one run looks at.
pub const SLICE: usize = 100;

/// Takes the next slice of these sorted ids; after the last one it starts over. Empty when another broker has just taken
/// it, which then looks at it.
///
/// # Errors
/// When etcd cannot be read or written.
pub(super) async fn take_slice(
    store: &dyn Store,
    ids: &BTreeSet<&InstanceId>,
) -> Result<Vec<InstanceId>, StoreError> {
    let cursor = store.get(keyspace::RECONCILE_CURSOR, Read::Quorum).await?;
    let written = cursor.as_ref().map_or("", |entry| entry.value.as_str());
    // Whatever else is there begins a new round.
    let after = written.parse::<InstanceId>().ok();
    let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let rest = ids.range::<InstanceId, _>((after, Bound::Unbounded));
    let mut slice: Vec<&InstanceId> = rest.take(SLICE).copied().collect();
    if slice.is_empty() {
        slice = ids.iter().take(SLICE).copied().collect();
    }
    let last = slice.last().filter(|last| ids.last() != Some(last));
    let next = last.map_or("", |last| last.as_str());
    if next == written {
        return Ok(slice.into_iter().cloned().collect());
    }
    let moved = match &cursor {
        Some(entry) => {
            store
                .compare_and_swap(keyspace::RECONCILE_CURSOR, next, entry.index, None)
                .await
        }
        None => store.create(keyspace::RECONCILE_CURSOR, next, None).await,
    };
    match moved {
        // To look at a slice twice does no harm.
        Ok(_) | Err(StoreError::Ambiguous { .. }) => Ok(slice.into_iter().cloned().collect()),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
