//! Whether nodes are where they should be, and whether their cells are there at all.

use super::Situation;
use crate::{
    ids::{CellGuid, NodeId},
    record::{Node, Record},
};

/// Writes down since when the cells of nodes have been missing, as far as this pass knows. Taken back when a cell is there.
pub(super) fn note_missing(record: &mut Record, situation: &Situation<'_>) {
    let Some(roll) = &situation.facts.roll else {
        return;
    };
    for node in record.nodes.values_mut() {
        node.missing_since = roll.missing_since(&node.cell);
    }
}

/// Whether a node may live on this cell.
pub(super) fn is_allowed(record: &Record, cell: &CellGuid) -> bool {
    record.cells.as_ref().is_none_or(|cells| cells.contains(cell))
}

/// Whether a node is to be replaced: its cell has been missing for long, or is destroyed, it does not report, and another
/// node of the record leads. Never when many cells are missing, since then it is not the cells that are at fault.
pub(super) fn is_lost(record: &Record, id: NodeId, node: &Node, situation: &Situation<'_>) -> bool {
    let Some(roll) = &situation.facts.roll else {
        return false;
    };
    // Whoever stood still since it looked has not watched meanwhile: what counts is the time of the look.
    let looked = roll.looked;
    let for_long = roll
        .missing_since(&node.cell)
        .is_some_and(|since| looked.duration_since(since) > situation.replace_after);
    let gone = roll.is_destroyed(&node.cell) || (for_long && !roll.many_are_missing(looked));
    gone && situation.cluster.member(id).is_none() && is_led_by_another(record, id, situation)
}

/// Whether another node of the record leads, and runs.
pub(super) fn is_led_by_another(record: &Record, id: NodeId, situation: &Situation<'_>) -> bool {
    situation.cluster.running_leader().is_some_and(|(name, _)| {
        record
            .staying()
            .any(|(other, _)| other != id && other.to_string() == name)
    })
}

/// Whether a node of the record leads, and runs; one on its way out does as well, for data can be copied from it.
pub(super) fn is_led(record: &Record, situation: &Situation<'_>) -> bool {
    let leader = situation.cluster.running_leader();
    leader.is_some_and(|(name, _)| record.nodes.keys().any(|id| id.to_string() == name))
}

/// The nodes that stay where they are: on cells that are wanted, and not lost.
pub(super) fn fitting<'r>(
    record: &'r Record,
    situation: &Situation<'_>,
) -> impl Iterator<Item = (NodeId, &'r Node)> {
    record
        .staying()
        .filter(|(id, node)| is_allowed(record, &node.cell) && !is_lost(record, *id, node, situation))
}

/// Whether a node that is on its way out cannot be asked to go, for its cell is missing, and takes no part either.
pub(super) fn is_out_of_reach(id: NodeId, node: &Node, situation: &Situation<'_>) -> bool {
    node.missing_since.is_some() && situation.cluster.member(id).is_none() && !situation.cluster.is_led_by(id)
}
