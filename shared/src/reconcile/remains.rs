//! What is left of an instance that has no record.
//!
//! **Guarantees.** A provision that is about to write its record is left alone, and so is what an older broker, which wrote no
//! records, may have left: only a tombstone, or an incarnation, says that something was this broker's.

use std::collections::BTreeSet;

use super::{drift::Run, mend::Mend, nodes, reservations, settled::delete, survey::Traces};
use crate::{
    error::Error,
    ids::{InstanceId, Port},
    keyspace,
    marker::Marker,
    ports::{self, Owner, gone_or_other},
    store::{Entry, Read, Tree},
};

/// Tidies up after an instance. There was no record when `tree` was read, later than everything else.
pub(super) async fn check(run: &Run<'_>, id: &InstanceId, traces: &Traces, tree: &Tree) -> Result<(), Error> {
    let (broker, store) = (run.broker, &*run.broker.store);
    reservations::remove_superfluous(run, id, None, traces).await?;
    let is_legacy = |owner: &Owner| matches!(owner, Owner::Legacy(_));
    if traces.owners.iter().any(|key| is_legacy(&key.owner)) {
        return Ok(());
    }
    let marked = run.marker(id).await?;
    let is_awaited =
        |entry: Entry| Marker::parse(&entry.value).is_some_and(|marker| !marker.is_stale(broker.clock.now()));
    if marked.is_some_and(is_awaited) {
        return Ok(());
    }
    for key in &traces.owners {
        // A life without a record is over: its owner key was written after its record.
        if let Owner::Life(_, life) = key.owner
            && ports::release(store, id, life, key.port, broker.settings.quarantine).await?
        {
            let what = format!("port {} went to quarantine", key.port);
            run.mended(
                id,
                Mend::PortQuarantined,
                &what,
                "its owner is a life of the instance that is over",
            );
        }
    }
    let tombstone = nodes::tombstone(run, id).await?;
    if let Some(entry) = &traces.allocation
        && !traces
            .owners
            .iter()
            .any(|key| entry.value.trim() == key.port.to_string())
    {
        allocation(run, id, entry, tombstone.is_some()).await?;
    }
    if tombstone.is_some() {
        for (key, entry) in &tree.leaves {
            if delete(run, key, entry.index).await? {
                run.mended(
                    id,
                    Mend::Leftover,
                    &format!("{key} was removed"),
                    "its instance is gone",
                );
            }
        }
    }
    if tombstone.is_some() || tree.leaves.is_empty() {
        directories(run, id, tree).await?;
    }
    let retired: BTreeSet<_> = tombstone
        .into_iter()
        .flat_map(|tombstone| tombstone.retired)
        .collect();
    for (cell, status) in &traces.nodes {
        nodes::leaves_or_stays_aside(run, cell, status, &retired).await;
    }
    Ok(())
}

/// An allocation whose port has no owner that agrees.
async fn allocation(run: &Run<'_>, id: &InstanceId, entry: &Entry, was_ours: bool) -> Result<(), Error> {
    let store = &*run.broker.store;
    if was_ours {
        if delete(run, &keyspace::allocation(id), entry.index).await? {
            let what = format!("the allocation {} was removed", entry.value);
            run.mended(id, Mend::Leftover, &what, "its instance is gone");
        }
        return Ok(());
    }
    let Ok(port) = entry.value.trim().parse::<Port>() else {
        // Not a warning: every round comes by here again.
        tracing::info!(instance = %id, value = entry.value, "an allocation is not a port; it is left alone");
        return Ok(());
    };
    if ports::adopt(store, id.as_str(), port).await? {
        // A deprovisioned instance's is removed while its tombstone is there. Later nobody can tell it from an older router's,
        // which is a contract with a user; so its port stays owned, and is never handed out, until an operator deletes both.
        run.mended(
            id,
            Mend::PortAdopted,
            &format!("port {port} was adopted"),
            "an allocation had no owner, and nothing says that it is not an older router's",
        );
        return Ok(());
    }
    let owner = store.get(&keyspace::port(port), Read::Quorum).await?;
    let owner = owner.map(|owner| owner.value).unwrap_or_default();
    tracing::info!(instance = %id, %port, owner, "an allocation without a record has another's port; it is left alone");
    Ok(())
}

/// Empty directories, the inner ones first.
async fn directories(run: &Run<'_>, id: &InstanceId, tree: &Tree) -> Result<(), Error> {
    let store = &*run.broker.store;
    let mut inner_first: Vec<&String> = tree.directories.iter().collect();
    inner_first.sort_by_key(|directory| std::cmp::Reverse(directory.len()));
    for directory in inner_first {
        gone_or_other(store.remove_empty_directory(directory).await)?;
    }
    Ok(gone_or_other(
        store.remove_empty_directory(&keyspace::instance(id)).await,
    )?)
}
