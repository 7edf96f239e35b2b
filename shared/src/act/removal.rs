//! What goes, and only what is this life's of the instance.
//!
//! **Guarantees.** A handler that stood still, and goes on in another life of its instance, deletes nothing of that one: keys
//! go on the index at which they were seen, and what was listed goes only if the record, read after the list, is of the
//! same incarnation (design.md, 4, rule 2).

use jiff::Timestamp;

use crate::{
    advance::{Current, read_record},
    broker::Broker,
    cluster::Cluster,
    error::Error,
    ids::{CellGuid, InstanceId, NodeId, OperationId},
    keyspace,
    marker::{FENCE_TTL, Marker},
    ports::{self, gone_or_other},
    record::{PortClaim, Record, Tombstone},
    store::{Child, Index, Read, Store, StoreError},
};

use super::{Finding, Scene};

/// Removes what is left of a node that its cell has confirmed to be gone.
pub(super) async fn forget(
    store: &dyn Store,
    id: &InstanceId,
    node: NodeId,
    cluster: &Cluster,
) -> Result<(), StoreError> {
    if let Some(index) = cluster.member(node).and_then(|member| member.index) {
        gone_or_other(store.compare_and_delete(&keyspace::member(id, node), index).await)?;
    }
    delete_projection(store, id, node).await
}

/// Removes what a cell has announced of a node that is gone from it. The key names the node, whose id is never used again.
pub(super) async fn deregister(store: &dyn Store, cell: &CellGuid, node: NodeId) -> Result<(), StoreError> {
    delete_leaf(store, &keyspace::registration(cell, node)).await
}

async fn delete_leaf(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    if let Some(entry) = store.get(key, Read::Quorum).await? {
        gone_or_other(store.compare_and_delete(key, entry.index).await)?;
    }
    Ok(())
}

async fn delete_projection(store: &dyn Store, id: &InstanceId, node: NodeId) -> Result<(), StoreError> {
    delete_leaf(store, &keyspace::backend(id, node)).await?;
    gone_or_other(store.remove_empty_directory(&keyspace::node(id, node)).await)
}

/// The record as it is now, unless it is another life's. What was listed before that cannot be a later life's.
async fn still_lives(broker: &Broker, record: &Record) -> Result<Option<Record>, Error> {
    let current = read_record(broker, &record.instance_id).await?;
    Ok(current
        .map(|current| current.record)
        .filter(|current| current.incarnation == record.incarnation))
}

/// Deletes the projections of nodes that the instance does not have (any more).
pub(super) async fn sweep_projections(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let listed = store.list(&keyspace::nodes(id), Read::Quorum).await?;
    let Some(listed) = listed.filter(|nodes| !nodes.is_empty()) else {
        return Ok(());
    };
    let Some(current) = still_lives(broker, record).await? else {
        return Ok(());
    };
    let gone = |node: &NodeId| !current.nodes.contains_key(node);
    for node in listed.keys().filter_map(|name| name.parse().ok()).filter(gone) {
        delete_projection(store, id, node).await?;
    }
    Ok(())
}

/// Takes back what a handler has written that stood still meanwhile, and whose instance is gone, or lives another life, or
/// has let nodes go. Works on what carries this incarnation, or a node's id, only.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn take_back(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    if still_lives(broker, record).await?.is_some() {
        return sweep_projections(broker, record).await;
    }
    for node in record.nodes.keys().chain(&record.retired) {
        delete_projection(store, id, *node).await?;
    }
    if let PortClaim::Candidate { port, .. } | PortClaim::Owned { port } = record.port {
        ports::release(store, id, record.incarnation, port, broker.settings.quarantine).await?;
    }
    remove_directories(store, id).await?;
    Ok(())
}

/// Deletes the bindings that were there before the record is read again, and found to be of the same incarnation.
pub(super) async fn drop_bindings(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let directory = keyspace::bindings(id);
    let listed = store.list(&directory, Read::Quorum).await?.unwrap_or_default();
    if listed.is_empty() || still_lives(broker, record).await?.is_none() {
        return Ok(());
    }
    for (name, child) in listed {
        if let Child::Leaf(entry) = child {
            let key = format!("{directory}/{name}");
            gone_or_other(store.compare_and_delete(&key, entry.index).await)?;
        }
    }
    Ok(())
}

pub(super) async fn clear_scope(
    store: &dyn Store,
    id: &InstanceId,
    leaves: &[(String, Index)],
    directories: &[String],
) -> Result<(), StoreError> {
    for (key, index) in leaves {
        gone_or_other(store.compare_and_delete(key, *index).await)?;
    }
    let mut inner_first: Vec<&String> = directories.iter().collect();
    inner_first.sort_by_key(|directory| std::cmp::Reverse(directory.len()));
    for directory in inner_first {
        gone_or_other(store.remove_empty_directory(directory).await)?;
    }
    gone_or_other(store.remove_empty_directory(&keyspace::scope(id)).await)
}

/// The last steps of a deprovision. The record goes after the tombstone, so that there is no moment in which nobody
/// knows what became of the instance; what may be left after it (marker, empty directories) is swept by reconcile.
pub(super) async fn bury(broker: &Broker, scene: Scene<'_>) -> Result<Finding, Error> {
    let (store, record) = (&*broker.store, scene.record);
    let id = &record.instance_id;
    write_tombstone(broker, record).await?;
    match store.compare_and_delete(&keyspace::record(id), scene.index).await {
        Ok(()) | Err(StoreError::Missing { .. }) => {}
        // Somebody else moved it on: they finish it.
        Err(StoreError::Conflict { .. }) => return Ok(Finding::Nothing),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(instance = %id, incarnation = %record.incarnation, "the instance is gone");
    // The marker last: it leads reconcile to what a crash leaves here.
    remove_directories(store, id).await?;
    // Whatever was about this life is over. Another life's is of a provision that has seen the record gone. A fence takes
    // the marker's place: provisions that were asked for before this deprovision, and stood still since, make nothing.
    let key = keyspace::operation(id);
    if let Some(entry) = store.get(&key, Read::Quorum).await?
        && Marker::parse(&entry.value).is_none_or(|marker| marker.incarnation == record.incarnation)
    {
        let now = broker.clock.now();
        let asked_for = record
            .latest_operation()
            .map_or(now, |operation| operation.started);
        let fence = fence(broker, asked_for);
        let fenced = store
            .compare_and_swap(&key, &fence.to_json(), entry.index, Some(FENCE_TTL))
            .await;
        gone_or_other(fenced.map(drop))?;
    }
    Ok(Finding::Buried)
}

/// The fence of a deprovision that was asked for then.
#[must_use]
pub fn fence(broker: &Broker, asked_for: Timestamp) -> Marker {
    Marker::fence(broker.clock.random(), broker.clock.random(), asked_for)
}

/// Removes an instance's directories as far as they are empty.
///
/// # Errors
/// When etcd cannot be written.
pub async fn remove_directories(store: &dyn Store, id: &InstanceId) -> Result<(), StoreError> {
    for directory in [
        keyspace::nodes(id),
        keyspace::bindings(id),
        keyspace::instance(id),
    ] {
        gone_or_other(store.remove_empty_directory(&directory).await)?;
    }
    Ok(())
}

/// Removes Patroni's directories of an instance that is gone, as far as they are empty: a member that publishes itself while
/// its process ends makes them again, and its key runs out.
///
/// # Errors
/// When etcd cannot be written.
pub async fn remove_scope_directories(store: &dyn Store, id: &InstanceId) -> Result<(), StoreError> {
    let scope = keyspace::scope(id);
    for directory in [format!("{scope}/members"), format!("{scope}/optime"), scope] {
        gone_or_other(store.remove_empty_directory(&directory).await)?;
    }
    Ok(())
}

/// A handler that was frozen here may find the tombstone of a later life: the later one stays.
async fn write_tombstone(broker: &Broker, record: &Record) -> Result<(), StoreError> {
    let Some(operation) = record.latest_operation().cloned() else {
        return Ok(());
    };
    let tombstone = Tombstone {
        incarnation: record.incarnation,
        operation,
        retired: record.retired.clone(),
    };
    let value = serde_json::to_string(&tombstone).unwrap_or_default();
    let (store, ttl) = (&*broker.store, Some(broker.settings.tombstone_ttl));
    let key = keyspace::tombstone(&record.instance_id);
    match store.create(&key, &value, ttl).await {
        Err(StoreError::Conflict { .. }) => {}
        other => return other.map(drop),
    }
    let Some(there) = store.get(&key, Read::Quorum).await? else {
        return Ok(());
    };
    let later = serde_json::from_str::<Tombstone>(&there.value)
        .is_ok_and(|other| other.operation.started > tombstone.operation.started);
    if later || there.value == value {
        return Ok(());
    }
    store
        .compare_and_swap(&key, &value, there.index, ttl)
        .await
        .map(drop)
}

/// Deletes the marker of the operation that has ended. Any other one announces something that this handler may know
/// nothing of, for it may have stood still: it goes only if the record, read after it, has nothing under way.
pub(super) async fn unmark(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let key = keyspace::operation(id);
    let Some(entry) = store.get(&key, Read::Quorum).await? else {
        return Ok(());
    };
    let marker = Marker::parse(&entry.value);
    let latest = record.latest_operation().map(|operation| operation.id);
    if marker.is_none_or(|marker| Some(marker.operation) != latest) {
        let Some(Current { record: current, .. }) = read_record(broker, id).await? else {
            return Ok(());
        };
        // Another life's is of a provision that came too late: this one has the record.
        let says_nothing = marker.is_none_or(|marker| {
            marker.incarnation != current.incarnation || marker.is_stale(broker.clock.now())
        });
        if !current.is_at_rest() || !says_nothing {
            return Ok(());
        }
    }
    Ok(gone_or_other(store.compare_and_delete(&key, entry.index).await)?)
}

/// Writes a marker unless there is one. It has an id of its own, not that of the operation which ended last: a handler that
/// stood still before it deleted that one's marker must not take this for it.
pub(super) async fn mark(broker: &Broker, record: &Record) -> Result<(), Error> {
    let Some(operation) = record.latest_operation() else {
        return Ok(());
    };
    let marker = Marker {
        operation: OperationId::from(broker.clock.random()),
        since: broker.clock.now(),
        ..Marker::of(record.incarnation, operation)
    };
    let key = keyspace::operation(&record.instance_id);
    match broker.store.create(&key, &marker.to_json(), None).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
