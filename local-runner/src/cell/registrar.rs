//! Announces where each node's PostgreSQL listens: `/postgresql-patroni/<cell>:cf-<node>:5432`, as the original's
//! registrar did. The keys have no time to live, as the original's had none.

use std::collections::BTreeSet;

use shared::{
    ids::{CellGuid, NodeId},
    keyspace,
    store::{Read, Store, StoreError},
};

/// Writes a node's address unless it stands there already.
pub(super) async fn register(
    store: &dyn Store,
    cell: &CellGuid,
    node: NodeId,
    address: &str,
) -> Result<(), StoreError> {
    let key = keyspace::registration(cell, node);
    let there = store.get(&key, Read::Local).await?;
    if there.is_some_and(|entry| entry.value == address) {
        return Ok(());
    }
    store.set(&key, address, None).await.map(drop)
}

/// Removes a node's address. That it is gone already is no error.
pub(super) async fn deregister(store: &dyn Store, cell: &CellGuid, node: NodeId) -> Result<(), StoreError> {
    remove(store, &keyspace::registration(cell, node)).await
}

/// Removes the addresses of nodes that this cell does not hold, left behind by a removal that etcd's absence cut short.
pub(super) async fn sweep(
    store: &dyn Store,
    cell: &CellGuid,
    held: &BTreeSet<NodeId>,
) -> Result<usize, StoreError> {
    let Some(all) = store.list(keyspace::REGISTRAR, Read::Local).await? else {
        return Ok(0);
    };
    let mut removed = 0;
    for name in all.keys() {
        let stale = registered_node(name, cell).is_some_and(|node| !held.contains(&node));
        if stale {
            remove(store, &format!("{}/{name}", keyspace::REGISTRAR)).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn registered_node(name: &str, cell: &CellGuid) -> Option<NodeId> {
    name.strip_prefix(cell.as_str())?
        .strip_prefix(":cf-")?
        .strip_suffix(":5432")?
        .parse()
        .ok()
}

/// Deletes a leaf as it stands now, however often somebody else writes it meanwhile.
pub(super) async fn remove(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    for _ in 0..5 {
        let Some(entry) = store.get(key, Read::Quorum).await? else {
            return Ok(());
        };
        match store.compare_and_delete(key, entry.index).await {
            Ok(()) | Err(StoreError::Missing { .. }) => return Ok(()),
            // An answer that was lost is looked up by the next round.
            Err(StoreError::Conflict { .. } | StoreError::Ambiguous { .. }) => (),
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable {
        reason: format!("{key} changes all the time"),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_this_cells_registrations_are_recognised() {
        let cell: CellGuid = "10.244.21.8".parse().unwrap();
        let node: NodeId = Uuid::from_u128(5).into();
        let key = keyspace::registration(&cell, node);
        let name = keyspace::last_segment(&key);
        assert_eq!(registered_node(name, &cell), Some(node));
        assert_eq!(registered_node(name, &"10.244.21.80".parse().unwrap()), None);
        assert_eq!(registered_node(name, &"10.244.21".parse().unwrap()), None);
        assert_eq!(registered_node("10.244.21.8:cf-x:5432", &cell), None);
    }
}
