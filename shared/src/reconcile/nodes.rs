//! Nodes on cells: those that no record names, and those that their cell does not know.

use std::collections::BTreeSet;

use super::{drift::Run, mend::Mend, settled::Seen};
use crate::{
    act::{self, Directory, Scene},
    advance::{read_cluster, read_record},
    cell_api::{NodeState, NodeStatus},
    cells::RemoveAnswer,
    effect::{Effect, Facts, StartAnswer},
    error::Error,
    ids::{CellGuid, InstanceId, NodeId},
    keyspace,
    record::{Phase, Record, Tombstone},
    store::{Read, StoreError},
};

/// Nodes that a cell holds and that the record, read after the cell was asked, does not name there.
pub(super) async fn unknown_to_the_record(
    run: &Run<'_>,
    record: &Record,
    held: &[(CellGuid, NodeStatus)],
) -> Result<(), Error> {
    let named = |cell: &CellGuid, status: &NodeStatus| {
        let placed = record.nodes.get(&status.node_id);
        status.incarnation == record.incarnation && placed.is_some_and(|placed| placed.cell == *cell)
    };
    let unknown: Vec<_> = held
        .iter()
        .filter(|(cell, status)| !named(cell, status))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut retired: BTreeSet<NodeId> = record.retired.iter().copied().collect();
    let tombstone = tombstone(run, &record.instance_id).await?;
    retired.extend(tombstone.map(|tombstone| tombstone.retired).unwrap_or_default());
    for (cell, status) in unknown {
        leaves_or_stays_aside(run, cell, status, &retired).await;
    }
    Ok(())
}

/// What is kept of the last life of an instance that has ended.
pub(super) async fn tombstone(run: &Run<'_>, id: &InstanceId) -> Result<Option<Tombstone>, StoreError> {
    let entry = run
        .broker
        .store
        .get(&keyspace::tombstone(id), Read::Quorum)
        .await?;
    Ok(entry.and_then(|entry| serde_json::from_str(&entry.value).ok()))
}

/// A node that is known to be gone for good is removed. Of any other nobody knows: its cell keeps it aside, whose rule that is.
pub(super) async fn leaves_or_stays_aside(
    run: &Run<'_>,
    guid: &CellGuid,
    status: &NodeStatus,
    retired: &BTreeSet<NodeId>,
) {
    let (id, node) = (&status.instance_id, status.node_id);
    let Some(cell) = run.survey.cells.get(guid) else {
        return;
    };
    if !retired.contains(&node) {
        let text =
            "no record names this node: its cell stops it and keeps its data aside, for an operator to judge";
        // Its cell has warned when it set the node aside, and every round comes by here again.
        if status.state == NodeState::Quarantined {
            tracing::info!(instance = %id, %node, cell = %guid, state = ?status.state, "{text}");
        } else {
            tracing::warn!(instance = %id, %node, cell = %guid, state = ?status.state, "{text}");
        }
        return;
    }
    if status.state == NodeState::Stopping {
        return;
    }
    match run.broker.cells.remove(cell, node).await {
        RemoveAnswer::Gone => run.mended(
            id,
            Mend::NodeRemoved,
            &format!("node {node} was removed from cell {guid}"),
            "it is known to be gone for good, and was still there",
        ),
        RemoveAnswer::NotYet(reason) => {
            tracing::warn!(instance = %id, %node, reason, "a node that is gone for good is still there");
        }
    }
}

/// Nodes that once ran, and that their cell, which lives, does not know. Where another node leads they can be made again
/// from its data. Where none does, theirs may be the last copy: that is for an operator.
pub(super) async fn unknown_to_their_cell(run: &Run<'_>, seen: Seen<'_>) -> Result<(), Error> {
    let (broker, record) = (run.broker, seen.record);
    let id = &record.instance_id;
    let lost = |(node, cell): &(NodeId, &CellGuid)| {
        let held = run.survey.held.get(cell);
        held.is_some_and(|nodes| !nodes.contains(node))
    };
    let ran = record
        .nodes
        .iter()
        .filter(|(_, placed)| placed.phase == Phase::Running);
    for (node, guid) in ran.map(|(node, placed)| (*node, &placed.cell)).filter(lost) {
        let Some(cell) = run.survey.cells.get(guid) else {
            continue;
        };
        // The survey is older than the record: the node may have been made in between.
        let Ok(now) = broker.cells.status(cell).await else {
            continue;
        };
        if now.nodes.iter().any(|status| status.node_id == node) {
            continue;
        }
        let cluster = read_cluster(broker, id).await?;
        let current = read_record(broker, id).await?;
        if current.is_none_or(|current| current.index != seen.index) {
            return Ok(());
        }
        let others = |name: &str| {
            let mut others = record.staying().filter(|(other, _)| *other != node);
            others.any(|(other, _)| other.to_string() == name)
        };
        let is_safe = cluster.system_identifier().is_some()
            && cluster.running_leader().is_some_and(|(name, _)| others(name));
        if !is_safe {
            tracing::error!(
                instance = %id, %node, cell = %guid,
                "the cell does not know this node any more, and no other node of the instance leads: its data may be lost. \
                 Nothing is done; bring the cell's data directory back, or recreate or deprovision the instance"
            );
            continue;
        }
        let scene = Scene {
            record,
            index: seen.index,
            cluster: &cluster,
        };
        let mut facts = Facts::default();
        let mut directory = Directory::of(vec![cell.clone()]);
        act::act(broker, scene, &[Effect::Start(node)], &mut directory, &mut facts).await?;
        if matches!(facts.started.get(&node), Some(StartAnswer::Accepted(_))) {
            let what = format!("cell {guid} was asked for node {node} again");
            run.mended(
                id,
                Mend::NodeStarted,
                &what,
                "it did not know the node; its data is copied from the leader",
            );
        }
    }
    Ok(())
}
