//! As many nodes as an instance shall have.

use std::collections::BTreeSet;

use super::super::{
    Situation,
    placement::{self, CellView, Wanted},
    whereabouts,
};
use crate::{
    cluster::Cluster,
    effect::Effect,
    ids::{CellGuid, NodeId},
    record::{Node, Phase, Record},
};

/// How long a bootstrap may go without a leader before it is started over. A bootstrap takes about 3 s on an idle
/// machine; twenty at once on two cores took 24 s (patroni-reference.md).
const BOOTSTRAP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);

/// What is said when [`is_somebody_elses`].
pub const SCOPE_IN_USE: &str = "a Patroni cluster that this broker does not know runs under this id";

/// How often a bootstrap that never got a leader is started over within one operation.
const BOOTSTRAP_RESTARTS: u32 = 3;

/// Starts a bootstrap over that has had no leader for too long: all nodes go, and new ones come once they are gone and
/// nothing of the attempt is left. Only before the cluster ever stood.
pub(super) fn start_over(record: &mut Record, situation: &Situation<'_>) {
    let started = record.bootstrap_started;
    let stuck = !record.bootstrapped
        && situation.cluster.leader.is_none()
        && record.staying().next().is_some()
        && record.bootstrap_restarts < BOOTSTRAP_RESTARTS
        && situation.now.duration_since(started).unsigned_abs() > BOOTSTRAP_PATIENCE
        && situation.now > started;
    if stuck {
        record.bootstrap_restarts += 1;
        record.bootstrap_started = situation.now;
        for node in record.nodes.values_mut() {
            node.phase = Phase::Leaving;
        }
    }
}

/// Places nodes until there are as many as asked for. Answers why that is not possible now.
pub(super) fn fill_up(
    record: &mut Record,
    effects: &mut Vec<Effect>,
    situation: &Situation<'_>,
) -> Option<String> {
    let placed = whereabouts::fitting(record, situation).count();
    let count = usize::try_from(record.node_count)
        .unwrap_or(usize::MAX)
        .saturating_sub(placed);
    if count == 0 {
        return None;
    }
    // A new node copies its data from the leader. Without one it would wait for ever, and nobody could say any more that
    // every copy is lost.
    if record.bootstrapped && !whereabouts::is_led(record, situation) {
        return None;
    }
    if !record.bootstrapped && placed == 0 {
        // A bootstrap that is started over: nothing of the last attempt may be left, or the new nodes would wait for
        // its leader for ever. A node that takes no part and whose cell is missing is not waited for, unless it may be the
        // one that initialises: should its machine only stand still, Patroni would go on there and take the leadership from
        // whoever has it by then (`take_leader` after a bootstrap).
        let may_initialise = |node: &Node| {
            let roll = situation.facts.roll.as_ref();
            situation.cluster.initialize.is_some() && !roll.is_some_and(|roll| roll.is_destroyed(&node.cell))
        };
        let is_waited_for = |(id, node): (&NodeId, &Node)| {
            !whereabouts::is_out_of_reach(*id, node, situation) || may_initialise(node)
        };
        if record.nodes.iter().any(is_waited_for) {
            return None;
        }
        if !situation.cluster.leaves.is_empty() {
            if is_somebody_elses(record, situation.cluster) {
                return Some(SCOPE_IN_USE.to_owned());
            }
            effects.push(clear_scope(situation));
            return None;
        }
    }
    let Some(cells) = &situation.facts.cells else {
        effects.push(Effect::ListCells);
        return None;
    };
    let is_missing = |cell: &CellView| {
        let roll = situation.facts.roll.as_ref();
        roll.is_some_and(|roll| roll.missing_since(&cell.guid).is_some())
    };
    let cells: Vec<CellView> = cells.iter().filter(|cell| !is_missing(cell)).cloned().collect();
    let chosen = match placement::choose(&cells, &wanted(record, count, situation)) {
        Ok(chosen) => chosen,
        Err(shortage) => return Some(shortage.to_string()),
    };
    for cell in chosen {
        let node = unused_node(record, situation);
        let placed = Node {
            cell: cell.guid.clone(),
            availability_zone: cell.availability_zone.clone(),
            phase: Phase::Assigned,
            assigned: situation.now,
            missing_since: None,
            credentials_due: false,
        };
        record.nodes.insert(node, placed);
        effects.push(Effect::Project(node));
    }
    None
}

/// Whether a cluster lives in the scope that this record knows nothing of: one of the original broker, or any other
/// Patroni. What an earlier life has left behind has no leader, once its ttl is over, and no members.
#[must_use]
pub fn is_somebody_elses(record: &Record, cluster: &Cluster) -> bool {
    let ours = |name: &String| {
        name.parse()
            .is_ok_and(|node| record.retired.contains(&node) || record.nodes.contains_key(&node))
    };
    cluster
        .leader
        .iter()
        .chain(cluster.members.keys())
        .any(|name| !ours(name))
}

/// A node id that the instance never had. The number makes ids differ within one seed.
fn unused_node(record: &Record, situation: &Situation<'_>) -> NodeId {
    let had = |node: &NodeId| record.nodes.contains_key(node) || record.retired.contains(node);
    let mut number = record.nodes.len() + record.retired.len();
    loop {
        let node = situation.fresh_node(number);
        if !had(&node) {
            return node;
        }
        number += 1;
    }
}

pub(in crate::decide) fn clear_scope(situation: &Situation<'_>) -> Effect {
    Effect::ClearScope {
        leaves: situation.cluster.leaves.clone(),
        directories: situation.cluster.directories.clone(),
    }
}

pub(in crate::decide) fn wanted<'a>(
    record: &'a Record,
    count: usize,
    situation: &Situation<'_>,
) -> Wanted<'a> {
    let occupied: BTreeSet<&CellGuid> = record.nodes.values().map(|node| &node.cell).collect();
    Wanted {
        count,
        zones: whereabouts::fitting(record, situation)
            .map(|(_, node)| node.availability_zone.as_str())
            .collect(),
        occupied,
        only: record.cells.as_deref(),
        turn: record.port.owned().map_or(0, |port| port.number().into()),
    }
}
