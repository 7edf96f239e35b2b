//! Finding operations that nobody polls, what handlers that died left behind, and ([`drift`]) whatever else differs from the
//! records.
//!
//! **Guarantees.** If only this ever runs, every operation still ends, also where a run is cut off before it has come to all
//! of them: each run takes them in an order of chance. Passes that overlap, in one process or in several, do no harm: each
//! step is an [`advance`](mod@crate::advance) like any other.

mod cursor;
pub mod drift;
pub mod mend;
mod nodes;
mod remains;
mod reservations;
mod settled;
mod survey;

use std::{collections::BTreeSet, str::FromStr};

use futures_util::{StreamExt, future::ready, stream};
use uuid::Uuid;

use crate::{
    act::{self, Directory, Scene},
    advance::{Current, Pass, advance_from, read_record},
    broker::Broker,
    decide::active,
    effect::Facts,
    error::Error,
    ids::{Incarnation, InstanceId},
    keyspace,
    marker::{FENCE_TTL, Marker},
    ports::gone_or_other,
    record::{OperationKind, Tombstone},
    service::provision::withdraw,
    store::{Child, Entry, Read, Store, StoreError},
};

/// How many instances are advanced at once.
const AT_ONCE: usize = 8;

/// What a pass found to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Operations under way.
    pub in_progress: usize,
    /// Instances that wait for something that may take long: a cell that has to come back, a marker to become stale.
    pub waiting: usize,
}

/// Moves every instance on that has an operation under way.
///
/// # Errors
/// When the operations cannot be listed. What is wrong with a single instance is logged, and does not keep the others.
pub async fn operations(broker: &Broker) -> Result<Found, Error> {
    if let Err(error) = act::call_roll(broker, &BTreeSet::new()).await {
        tracing::warn!(%error, "it is not known which cells are there");
    }
    let marked = broker
        .store
        .list(keyspace::OPERATIONS, Read::Quorum)
        .await?
        .unwrap_or_default();
    let mut marked: Vec<(InstanceId, Entry)> = marked
        .into_iter()
        .filter_map(|(name, child)| match (InstanceId::from_str(&name), child) {
            (Ok(id), Child::Leaf(entry)) => Some((id, entry)),
            _ => {
                // Not a warning: every run comes by here again.
                tracing::debug!(
                    name,
                    "what stands among the operations is not one; it is left alone"
                );
                None
            }
        })
        .collect();
    // Those that wait for a cell that hangs take long, and with many of them a run may not come to the others.
    let seed = broker.clock.random();
    marked.sort_by_cached_key(|(id, _)| Uuid::new_v5(&seed, id.as_str().as_bytes()));
    let passes = marked.into_iter().map(|(id, entry)| async move {
        instance(broker, &id, &entry).await.unwrap_or_else(|error| {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(instance = %id, %error, reason, "the operation could not be moved on; it is tried again");
            Found { in_progress: 0, waiting: 1 }
        })
    });
    let found = stream::iter(passes).buffer_unordered(AT_ONCE);
    let sum = |sum: Found, one: Found| Found {
        in_progress: sum.in_progress + one.in_progress,
        waiting: sum.waiting + one.waiting,
    };
    Ok(found
        .fold(Found::default(), |so_far, one| ready(sum(so_far, one)))
        .await)
}

/// Moves one instance on that is marked as having an operation under way.
async fn instance(broker: &Broker, id: &InstanceId, marker: &Entry) -> Result<Found, Error> {
    let in_progress = Found {
        in_progress: 1,
        waiting: 0,
    };
    let waiting = Found {
        in_progress: 0,
        waiting: 1,
    };
    let parsed = Marker::parse(&marker.value);
    if parsed.is_some_and(|marker| marker.is_fresh(broker.clock.now())) {
        return Ok(in_progress);
    }
    let pass = match read_record(broker, id).await? {
        None => None,
        Some(current) if is_taken_back(broker, &current, marker).await? => {
            let why = "it was asked for before a deprovision that found nothing, and its handler did not come to see that";
            withdraw(broker, current, why).await?;
            return Ok(waiting);
        }
        Some(current) => Some(advance_from(broker, current).await?),
    };
    match pass {
        Some(pass) if pass.is_gone() => Ok(Found::default()),
        Some(pass) if pass.record.operation.is_some() => Ok(in_progress),
        Some(pass) if pass.record.is_at_rest() => settle(broker, &pass).await.map(|()| waiting),
        // A node leaves, or a deprovision that ran out of time goes on: the marker stays until that is over.
        Some(_) => Ok(waiting),
        None => sweep(broker, id, marker).await.map(|()| waiting),
    }
}

/// Whether the marker is that of a deprovision which came when this provision had not written its record yet, though it was
/// on its way. Clocks may differ, so the order of the two writes counts first: a provision that announces itself writes over
/// a fence, so one whose record was written while the fence stood had been announced before, and its handler accepts nothing.
/// The time tells of a fence that was written after the record by a deprovision that had not seen it.
async fn is_taken_back(broker: &Broker, current: &Current, entry: &Entry) -> Result<bool, StoreError> {
    let (store, record) = (&*broker.store, &current.record);
    let (Some(marker), Some(operation)) = (Marker::parse(&entry.value), &record.operation) else {
        return Ok(false);
    };
    if marker.kind != OperationKind::Deprovision || !settled::is_unaccepted(record) {
        return Ok(false);
    }
    // Of this very life: whoever was about to end it has died before the record said so. If it is one who withdraws, its
    // marker has taken the place of the fence.
    if marker.incarnation == record.incarnation {
        return Ok(operation.kind == OperationKind::Provision);
    }
    if marker.ends_what_began(operation.started) {
        return Ok(true);
    }
    // The marker was read before the record. And one of an earlier life, written late, is no fence.
    let (id, key) = (&record.instance_id, keyspace::operation(&record.instance_id));
    let now = store.get(&key, Read::Quorum).await?;
    let stands = now.is_some_and(|now| now.index == entry.index);
    Ok(stands && entry.index < current.index && !is_over(store, id, marker.incarnation).await?)
}

/// The operation has ended, but whoever ended it did not come to delete the marker. Nobody knows what else they did not
/// come to, so all of it is done again.
async fn settle(broker: &Broker, pass: &Pass) -> Result<(), Error> {
    let scene = Scene {
        record: &pass.record,
        index: pass.index,
        cluster: &pass.cluster,
    };
    let effects = active::settle(&pass.record);
    act::act(
        broker,
        scene,
        &effects,
        &mut Directory::default(),
        &mut Facts::default(),
    )
    .await
}

/// There is no record: the marker was written for a provision that never claimed the id, by a deprovision that found
/// nothing, or a deprovision was stopped after its last deciding step.
async fn sweep(broker: &Broker, id: &InstanceId, entry: &Entry) -> Result<(), Error> {
    let (store, key) = (&*broker.store, keyspace::operation(id));
    let marker = Marker::parse(&entry.value).filter(|marker| !marker.is_stale(broker.clock.now()));
    let fence = match marker {
        None => None,
        Some(marker) => match tombstone_of(store, id, marker.incarnation).await? {
            // Whoever ended this life may have died before the marker became a fence, or comes too late for that now.
            Some(tombstone) => Some(act::fence(broker, tombstone.operation.started)),
            None => return Ok(()),
        },
    };
    let becomes = if fence.is_some() {
        "becomes a fence"
    } else {
        "is removed"
    };
    tracing::info!(instance = %id, "a marker without an instance {becomes}");
    act::remove_directories(store, id).await?;
    act::remove_scope_directories(store, id).await?;
    let done = match fence {
        Some(fence) => {
            let (value, ttl) = (fence.to_json(), Some(FENCE_TTL));
            store
                .compare_and_swap(&key, &value, entry.index, ttl)
                .await
                .map(drop)
        }
        None => store.compare_and_delete(&key, entry.index).await,
    };
    Ok(gone_or_other(done)?)
}

/// Whether this life of an instance is known to have ended.
async fn is_over(store: &dyn Store, id: &InstanceId, incarnation: Incarnation) -> Result<bool, StoreError> {
    Ok(tombstone_of(store, id, incarnation).await?.is_some())
}

/// What was left of this life of an instance, if that was the last one to end.
async fn tombstone_of(
    store: &dyn Store,
    id: &InstanceId,
    incarnation: Incarnation,
) -> Result<Option<Tombstone>, StoreError> {
    let entry = store.get(&keyspace::tombstone(id), Read::Quorum).await?;
    let tombstone = entry.and_then(|entry| serde_json::from_str::<Tombstone>(&entry.value).ok());
    Ok(tombstone.filter(|tombstone| tombstone.incarnation == incarnation))
}
