//! What happens to an instance, as its record says: noted for those who count it, and checked where a rule is about the step
//! itself.

use shared::record::{Node, Operation, Phase, Record, State};

use super::World;

pub(super) fn note(world: &World, before: Option<&Record>, after: Option<&Record>) {
    let (before, after) = match (before, after) {
        (None, Some(_)) => return world.note("instance: made"),
        (Some(_), None) => return world.note("instance: gone"),
        (Some(before), Some(after)) if before.incarnation == after.incarnation => (before, after),
        _ => return,
    };
    let state = |operation: &Operation| format!("operation: {:?} {:?}", operation.kind, operation.state);
    if before.operation.is_some() && after.operation.is_none() {
        world.note(&after.last_operation.as_ref().map(state).unwrap_or_default());
    }
    match (&before.plan_change, &after.plan_change) {
        (None, Some(_)) => world.note("instance: another plan"),
        (Some(_), None) => world.note("instance: plan in force"),
        _ => {}
    }
    if after.bootstrap_restarts > before.bootstrap_restarts {
        world.note("instance: bootstrap started over");
    }
    for (id, node) in &after.nodes {
        let known = before.nodes.get(id);
        match (known.map(|node| node.phase), node.phase) {
            (None, _) if after.operation.is_none() => {
                world.note("node: replacement placed");
                check_replacement(world, before);
            }
            (None, _) => world.note("node: placed"),
            (Some(Phase::Assigned), Phase::Running) => world.note("node: runs"),
            (Some(Phase::Assigned | Phase::Running), Phase::Leaving) => world.note("node: leaves"),
            _ => {}
        }
        let was_missing = known.is_some_and(|node| node.missing_since.is_some());
        match (was_missing, node.missing_since.is_some()) {
            (false, true) => world.note("node: cell missing"),
            (true, false) => world.note("node: cell back"),
            _ => {}
        }
    }
    if after.retired.len() > before.retired.len() {
        world.note("node: retired");
    }
    let is_elsewhere = |node: &Node| {
        after
            .cells
            .as_ref()
            .is_some_and(|cells| !cells.contains(&node.cell))
    };
    if after.state == State::Active && before.cells != after.cells && after.nodes.values().any(is_elsewhere) {
        world.note("instance: moves");
    }
}

/// A node is replaced when its cell has been away for long, and not when many are.
fn check_replacement(world: &World, before: &Record) {
    if !before
        .staying()
        .any(|(_, node)| world.was_away_for_long(&node.cell))
    {
        world.blame(format!("{} got a replacement too early", before.instance_id));
    }
    let (away, all) = world.away();
    if away * 3 > all {
        world.blame(format!(
            "{} got a replacement while {away} of {all} cells were away",
            before.instance_id
        ));
    }
}
