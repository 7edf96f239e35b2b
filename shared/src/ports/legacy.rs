//! Ports of an older router, which wrote allocations and no owner keys (design.md, 5, Ports).
//!
//! **Guarantees.** Such an allocation is never replaced or deleted: it is a contract that this broker knows nothing of.

use super::{Owner, owner};
use crate::{
    ids::Port,
    keyspace,
    record::{Operation, OperationKind, OperationState, Record},
    store::{Child, Read, Store, StoreError},
};

/// Gives every allocation that an older router wrote an owner key. Its owner has no record, so it carries no incarnation;
/// nothing ever takes it away but an operator.
pub(super) async fn adopt_allocations(store: &dyn Store) -> Result<(), StoreError> {
    for (id, child) in store
        .list(keyspace::ALLOCATIONS, Read::Quorum)
        .await?
        .unwrap_or_default()
    {
        let Child::Leaf(entry) = child else { continue };
        let Ok(port) = entry.value.trim().parse::<Port>() else {
            tracing::warn!(
                instance = id,
                value = entry.value,
                "an allocation is not a port; it is left alone"
            );
            continue;
        };
        adopt(store, &id, port).await?;
    }
    match store
        .create(keyspace::PORTS_ADOPTED, "all allocations have an owner", None)
        .await
    {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives one allocation of an older router an owner key, unless the port has an owner. Answers whether it had none.
///
/// # Errors
/// When etcd cannot be written.
pub async fn adopt(store: &dyn Store, id: &str, port: Port) -> Result<bool, StoreError> {
    match store.create(&keyspace::port(port), id, None).await {
        Ok(_) => {
            let port = port.number();
            tracing::info!(
                instance = id,
                port,
                "adopted the port of an older router's allocation"
            );
            Ok(true)
        }
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an instance's allocation of another port is an older router's, which may not have been adopted yet. Without an
/// owner it is, unless there is a sign that this broker wrote allocations under this id: an operation of this life that
/// has succeeded, through the public port, or an update, a recreate or a rotate, however it ended, which only follow such a one; or a tombstone of
/// an earlier life.
pub(super) async fn is_legacy(store: &dyn Store, record: &Record, port: Port) -> Result<bool, StoreError> {
    let id = &record.instance_id;
    if let Some((owner, _)) = owner(store, port).await? {
        return Ok(owner == Owner::Legacy(id.clone()));
    }
    let once_stood = |operation: &Operation| {
        operation.state == OperationState::Succeeded
            || matches!(
                operation.kind,
                OperationKind::Update | OperationKind::Recreate | OperationKind::Rotate
            )
    };
    let mut operations = record.operation.iter().chain(&record.last_operation);
    if operations.any(once_stood) || store.get(&keyspace::tombstone(id), Read::Quorum).await?.is_some() {
        return Ok(false);
    }
    adopt(store, id.as_str(), port).await
}
