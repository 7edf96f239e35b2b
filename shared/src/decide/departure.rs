//! Nodes on their way out: which ones, and when each may go (design.md, 5, Update).
//!
//! **Guarantees.** Of a cluster that has stood, the leader never begins to leave, one surplus node leaves at a time, and a
//! cell is asked to remove a node only while the nodes that stay, or as many of them as asked for, stream from a leader
//! among them.

use std::collections::BTreeSet;

use super::{
    Situation,
    active::wanted,
    credentials, placement,
    shortcomings::{self, Shortcoming},
    whereabouts,
};
use crate::{
    effect::{Effect, StartAnswer},
    ids::NodeId,
    record::{Node, Phase, Record},
};

/// Gives up nodes that their cells certainly do not run, provided that there is another cell for each. Until then the
/// same cell is asked again.
pub(super) fn replace_refused(record: &mut Record, effects: &mut Vec<Effect>, situation: &Situation<'_>) {
    let refused: Vec<NodeId> = record
        .nodes
        .iter()
        .filter(|(node, placed)| {
            placed.phase == Phase::Assigned
                && matches!(situation.facts.started.get(node), Some(StartAnswer::Refused(_)))
        })
        .map(|(node, _)| *node)
        .collect();
    if refused.is_empty() {
        return;
    }
    let Some(cells) = &situation.facts.cells else {
        effects.push(Effect::ListCells);
        return;
    };
    if placement::choose(cells, &wanted(record, refused.len(), situation)).is_err() {
        return;
    }
    for (_, node) in record.nodes.iter_mut().filter(|(node, _)| refused.contains(node)) {
        node.phase = Phase::Leaving;
    }
}

/// Lets one surplus node leave at a time, never the leader, and only when as many as asked for stream without it, where they
/// should be. When it goes is for [`remove_leaving`] to say.
pub(super) fn thin_out(record: &mut Record, situation: &Situation<'_>) {
    let staying: Vec<(NodeId, &Node)> = record.staying().collect();
    let enough = usize::try_from(record.node_count).unwrap_or(usize::MAX);
    let somebody_leaves = record.nodes.iter().any(|(id, node)| {
        node.phase == Phase::Leaving && !whereabouts::is_out_of_reach(*id, node, situation)
    });
    if staying.len() <= enough || somebody_leaves {
        return;
    }
    let fitting: BTreeSet<NodeId> = whereabouts::fitting(record, situation)
        .map(|(id, _)| id)
        .collect();
    let neighbours = |zone: &str| {
        staying
            .iter()
            .filter(|(_, node)| node.availability_zone == zone)
            .count()
    };
    let surplus = staying
        .iter()
        .filter(|(node, _)| !situation.cluster.is_led_by(*node))
        // A node that is not where it should be first, then one whose cell is missing, one that does not run, one of the
        // fullest zone.
        .max_by_key(|(id, node)| {
            let runs = situation
                .cluster
                .member(*id)
                .is_some_and(|member| member.is_running());
            let elsewhere = !fitting.contains(id);
            let is_missing = node.missing_since.is_some();
            (
                elsewhere,
                is_missing,
                !runs,
                neighbours(&node.availability_zone),
                *id,
            )
        })
        .map(|(id, _)| *id);
    let sound = shortcomings::sound(record, situation);
    let surplus = surplus.filter(|id| {
        let remain = sound
            .iter()
            .filter(|other| fitting.contains(other) && *other != id);
        remain.count() >= enough
    });
    if let Some(node) = surplus.and_then(|id| record.nodes.get_mut(&id)) {
        node.phase = Phase::Leaving;
    }
}

/// Asks cells to remove the nodes that leave, each as soon as that harms nobody.
pub(super) fn remove_leaving(record: &Record, situation: &Situation<'_>, effects: &mut Vec<Effect>) {
    let (cluster, facts) = (situation.cluster, situation.facts);
    let missing = shortcomings::of(record, situation);
    let sound = shortcomings::sound(record, situation);
    let enough = usize::try_from(record.node_count).unwrap_or(usize::MAX);
    let sound_here = whereabouts::fitting(record, situation).filter(|(id, _)| sound.contains(id));
    let others_stream =
        !sound.is_empty() && (sound_here.count() >= enough || sound.len() == record.staying().count());
    for (node, _) in record
        .nodes
        .iter()
        .filter(|(_, node)| node.phase == Phase::Leaving)
    {
        let member = cluster.member(*node);
        // Before the cluster ever stood there is nothing to lose.
        let nothing_to_lose = !record.bootstrapped;
        // Its cell has told Patroni that it must not lead any more, so that it cannot win an election that starts while
        // it is being stopped; or it does not take part at all.
        let passed_over = member.is_none_or(|member| member.nofailover);
        if nothing_to_lose || (passed_over && others_stream && !cluster.is_led_by(*node)) {
            effects.push(Effect::Remove(*node));
        } else if !passed_over && credentials::may_be_told(*node, record, situation) {
            // Asking again makes the cell look at the record at once, where it sees that the node leaves.
            effects.push(Effect::Start(*node));
        }
    }
    let unsure = missing
        .iter()
        .any(|one| matches!(one, Shortcoming::NotStreaming { .. }));
    if unsure && record.nodes.values().any(|node| node.phase == Phase::Leaving) && facts.replication.is_none()
    {
        effects.push(Effect::AskReplication);
    }
}
