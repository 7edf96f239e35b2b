//! An instance with a record: what differs from it.

use std::collections::BTreeMap;

use super::{
    drift::Run,
    mend::Mend,
    nodes, reservations,
    survey::{OwnerKey, Traces},
};
use crate::{
    act,
    advance::{Current, advance, read_cluster, read_record},
    binding::Binding,
    cluster::Cluster,
    decide::dynamic_configuration,
    error::Error,
    ids::{CellGuid, NodeId},
    keyspace,
    marker::Marker,
    ports::{self, Owner},
    record::{Node, Phase, PortClaim, Record},
    service::provision::withdraw,
    store::{Entry, Index, StoreError, Tree},
};

/// A record at rest, and everything that is beside it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'s> {
    pub(super) record: &'s Record,
    pub(super) index: Index,
    pub(super) tree: &'s Tree,
}

/// An instance that is under way must be marked, or nobody would come to it.
pub(super) async fn mark_again(run: &Run<'_>, record: Record, index: Index) -> Result<(), Error> {
    let id = record.instance_id.clone();
    let Some(operation) = record.latest_operation() else {
        return Ok(());
    };
    if run.marker(&id).await?.is_some() {
        return Ok(());
    }
    if is_unaccepted(&record) {
        let why = "its marker was withdrawn before it had begun, and its handler did not come to see that";
        let current = Current { record, index };
        if withdraw(run.broker, current, why).await? {
            run.mended(&id, Mend::Provision, "a provision was taken back", why);
        }
        return Ok(());
    }
    let marker = Marker::of(record.incarnation, operation);
    // Should the operation have ended meanwhile, its marker is one of those that say nothing.
    let (key, value) = (keyspace::operation(&id), marker.to_json());
    match run.broker.store.create(&key, &value, None).await {
        Ok(_) => run.mended(
            &id,
            Mend::Marker,
            "the marker was written again",
            "an operation was under way without one, and nobody would have come to it",
        ),
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Whether a provision has not got to the point yet at which its handler looks whether its marker is still there. Nobody was
/// told that it was accepted, and no cell was asked for anything.
pub(super) fn is_unaccepted(record: &Record) -> bool {
    let is_candidate = matches!(record.port, PortClaim::Candidate { .. });
    let is_assigned = |node: &Node| node.phase == Phase::Assigned;
    is_candidate
        && record.operation.is_some()
        && record.last_operation.is_none()
        && record.nodes.values().all(is_assigned)
}

/// Compares everything with the record, and mends what differs.
pub(super) async fn check(run: &Run<'_>, seen: Seen<'_>, traces: &Traces) -> Result<(), Error> {
    let (broker, record) = (run.broker, seen.record);
    let wrote = [projections(run, seen).await?, port(run, record, traces).await?];
    if wrote.contains(&true) {
        let now = read_record(broker, &record.instance_id).await?;
        if now.is_none_or(|now| now.index != seen.index) {
            act::take_back(broker, record).await?;
            return Ok(());
        }
    }
    superfluous_ports(run, record, traces).await?;
    bindings(run, seen).await?;
    reservations::restore_missing(run, record, traces).await?;
    reservations::remove_superfluous(run, &record.instance_id, Some(seen), traces).await?;
    nodes::unknown_to_the_record(run, record, &traces.nodes).await?;
    nodes::unknown_to_their_cell(run, seen).await?;
    settings(run, record).await?;
    let is_away = |cell: &CellGuid| {
        let cell = run.survey.cells.get(cell);
        cell.is_none_or(|cell| !cell.view.is_alive())
    };
    if record.nodes.values().any(|node| is_away(&node.cell)) {
        // The pass below asks for it only when something is to be decided; but a cell that a record names is not forgotten.
        let named = record.nodes.values().map(|node| node.cell.clone()).collect();
        act::call_roll(broker, &named).await?;
    }
    let is_away = |cell| !run.survey.cells.contains_key(cell);
    let mut nodes = record.nodes.values();
    if nodes.any(|node| node.missing_since.is_some() || is_away(&node.cell)) {
        advance(broker, &record.instance_id).await?;
    }
    Ok(())
}

/// Answers whether anything was written that must go if the record has moved.
async fn projections(run: &Run<'_>, seen: Seen<'_>) -> Result<bool, Error> {
    let (store, record) = (&*run.broker.store, seen.record);
    let id = &record.instance_id;
    let mut there: BTreeMap<NodeId, &Entry> = BTreeMap::new();
    let directory = format!("{}/", keyspace::nodes(id));
    for (key, entry) in &seen.tree.leaves {
        let node = key
            .strip_prefix(&directory)
            .and_then(|rest| rest.strip_suffix("/backend"));
        if let Some(node) = node.and_then(|node| node.parse().ok()) {
            there.insert(node, entry);
        }
    }
    let mut wrote = false;
    for (node, placed) in &record.nodes {
        let (key, cell) = (keyspace::backend(id, *node), placed.cell.as_str());
        let (written, why) = match there.remove(node) {
            Some(entry) if entry.value == cell => continue,
            Some(entry) => (
                store.compare_and_swap(&key, cell, entry.index, None).await,
                format!("it named {} as the cell", entry.value),
            ),
            None => (store.create(&key, cell, None).await, "it was missing".to_owned()),
        };
        match written {
            Ok(_) => run.mended(
                id,
                Mend::Projection,
                &format!("the projection of node {node}"),
                &why,
            ),
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        wrote = true;
    }
    for (node, entry) in there {
        remove_projection(run, record, node, entry.index).await?;
    }
    let is_named = |name: &str| name.parse().is_ok_and(|node| record.nodes.contains_key(&node));
    for empty in &seen.tree.directories {
        let inside = format!("{empty}/");
        let name = empty.strip_prefix(&directory);
        if name.is_some_and(|name| !is_named(name))
            && !seen.tree.leaves.keys().any(|key| key.starts_with(&inside))
        {
            ports::gone_or_other(store.remove_empty_directory(empty).await)?;
        }
    }
    Ok(wrote)
}

async fn remove_projection(run: &Run<'_>, record: &Record, node: NodeId, seen: Index) -> Result<(), Error> {
    let (store, id) = (&*run.broker.store, &record.instance_id);
    if delete(run, &keyspace::backend(id, node), seen).await? {
        ports::gone_or_other(store.remove_empty_directory(&keyspace::node(id, node)).await)?;
        let what = format!("the projection of node {node} was removed");
        run.mended(id, Mend::Projection, &what, "the record does not name the node");
    }
    Ok(())
}

/// Deletes a leaf that is still as it was seen. Answers whether it was.
pub(super) async fn delete(run: &Run<'_>, key: &str, seen: Index) -> Result<bool, StoreError> {
    match run.broker.store.compare_and_delete(key, seen).await {
        Ok(()) => Ok(true),
        Err(StoreError::Missing { .. } | StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Answers whether anything was written that must go if the record has moved.
async fn port(run: &Run<'_>, record: &Record, traces: &Traces) -> Result<bool, Error> {
    let (store, id) = (&*run.broker.store, &record.instance_id);
    let Some(port) = record.port.owned() else {
        return Ok(false);
    };
    let mut wrote = false;
    let ours = Owner::Life(id.clone(), record.incarnation);
    let is_owned = traces
        .owners
        .iter()
        .any(|key| key.port == port && key.owner == ours);
    if !is_owned && ports::restore(store, record, port).await? {
        wrote = true;
        run.mended(
            id,
            Mend::PortOwner,
            &format!("the owner key of port {port}"),
            "the record owns the port, and the key did not say so",
        );
    }
    let allocation = traces.allocation.as_ref();
    if allocation.is_none_or(|entry| entry.value != port.to_string())
        && ports::allocate(store, record, port, run.broker.settings.ports).await?
    {
        wrote = true;
        let why = allocation.map_or("it was missing".to_owned(), |entry| {
            format!("it was {}", entry.value)
        });
        run.mended(
            id,
            Mend::Allocation,
            &format!("the allocation of port {port}"),
            &why,
        );
    }
    Ok(wrote)
}

/// Owner keys of earlier lives, and those that this life has claimed and then not taken. The record, read after them, says
/// that they are nobody's.
async fn superfluous_ports(run: &Run<'_>, record: &Record, traces: &Traces) -> Result<(), Error> {
    let (store, id) = (&*run.broker.store, &record.instance_id);
    for OwnerKey { port, owner, entry } in &traces.owners {
        let why = match (owner, record.port.owned()) {
            (Owner::Life(_, life), _) if *life != record.incarnation => {
                "its owner is a life of the instance that is over"
            }
            (Owner::Life(..), Some(owned)) if owned != *port => "the instance has another port",
            _ => continue,
        };
        let how_long = run.broker.settings.quarantine;
        if ports::quarantine(store, *port, entry.index, how_long).await? {
            run.mended(
                id,
                Mend::PortQuarantined,
                &format!("port {port} went to quarantine"),
                why,
            );
        }
    }
    Ok(())
}

/// Patroni's dynamic configuration. A handler that stood still may have changed it after all others had ended the operation:
/// made it quick again, or given it another plan's settings.
async fn settings(run: &Run<'_>, record: &Record) -> Result<(), Error> {
    let (broker, id) = (run.broker, &record.instance_id);
    let Ok(plan) = broker.plan_configuration(record) else {
        return Ok(());
    };
    let differ = |cluster: &Cluster| {
        let config = cluster.config.as_ref();
        config.is_some_and(|config| {
            dynamic_configuration::mend(config, &plan, record.settings.as_deref()).is_some()
        })
    };
    if !record.bootstrapped || !differ(&read_cluster(broker, id).await?) {
        return Ok(());
    }
    let pass = advance(broker, id).await?;
    if pass.is_some_and(|pass| pass.record.is_at_rest() && !differ(&pass.cluster)) {
        run.mended(
            id,
            Mend::Settings,
            "Patroni's configuration",
            "it was not that of the instance, though nothing is under way",
        );
    }
    Ok(())
}

async fn bindings(run: &Run<'_>, seen: Seen<'_>) -> Result<(), Error> {
    let id = &seen.record.instance_id;
    let directory = format!("{}/", keyspace::bindings(id));
    for (key, entry) in &seen.tree.leaves {
        let is_over = |binding: Binding| binding.instance_incarnation != seen.record.incarnation;
        if key.starts_with(&directory)
            && Binding::parse(&entry.value).is_ok_and(is_over)
            && delete(run, key, entry.index).await?
        {
            let what = format!("the binding {} was removed", keyspace::last_segment(key));
            run.mended(
                id,
                Mend::Binding,
                &what,
                "it is of a life of the instance that is over",
            );
        }
    }
    Ok(())
}
