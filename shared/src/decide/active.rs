//! Making a cluster what was asked for: provision and update.
//!
//! The wanted state is `node_count` nodes on cells (of `cells`, if restricted), all streaming, reached through the public
//! port. Each decision moves one step towards it from wherever the cluster is.

mod remedies;
mod staffing;

use jiff::Timestamp;

pub use self::staffing::{SCOPE_IN_USE, is_somebody_elses};
pub(super) use self::staffing::{clear_scope, wanted};
use self::{
    remedies::{question, remedy},
    staffing::{fill_up, start_over},
};
use super::{
    Decision, Situation, credentials, departure, describe, dynamic_configuration, end, restarts,
    shortcomings::{self, Shortcoming},
    tell, whereabouts,
};
use crate::{
    effect::{Effect, PortFact},
    ids::{CellGuid, NodeId},
    record::{Node, OperationKind, OperationState, Phase, PortClaim, Record},
};

/// Seconds after which a cell is asked again for a node that has not reported to Patroni.
const ASK_AGAIN: i64 = 5;

pub(super) fn decide(situation: &Situation<'_>) -> Decision {
    let mut record = situation.record.clone();
    let mut effects = take_in(&mut record, situation);
    let Some(operation) = record.operation.clone() else {
        keep(&mut record, &mut effects, situation);
        return Decision { record, effects };
    };
    // Found out by a handler that lost a race, it says nothing about a port that is owned by now.
    if situation.facts.port == PortFact::Exhausted && record.port.owned().is_none() {
        return fail(
            Decision { record, effects },
            "no public port is free: all ports of the range are owned or in quarantine",
            situation,
        );
    }
    let overdue = situation.now >= operation.deadline;
    let mut trouble = None;
    if !overdue {
        own_port(&mut record, &mut effects, situation);
        departure::replace_refused(&mut record, &mut effects, situation);
        look_for_cells(&record, &mut effects, situation);
        start_over(&mut record, situation);
        // The port says whose turn it is among the cells.
        if record.port.owned().is_some() {
            trouble = fill_up(&mut record, &mut effects, situation);
        }
        departure::thin_out(&mut record, situation);
    }
    restarts::take_in(&mut record, situation);

    let missing = shortcomings::of(&record, situation);
    credentials::settle(&mut record, &missing);
    let blocks = |shortcoming: &&Shortcoming| match shortcoming {
        // A node that never ran and whose cell does not answer does not keep a provision from being what was asked for:
        // it is removed when its cell comes back.
        Shortcoming::NotGone { out_of_reach, .. } => {
            !out_of_reach && operation.kind != OperationKind::Provision
        }
        _ => true,
    };
    if !missing.iter().any(|shortcoming| blocks(&shortcoming)) {
        // What has failed is not made good by an operation that is about something else.
        let is_update = operation.kind == OperationKind::Update;
        record.maintenance_change.take_if(|_| is_update);
        if let Some(change) = record.plan_change.take_if(|_| is_update) {
            record.failover = Some(change.failover);
            // The way back may have been the change.
            if !record.has_plan(&change.from) {
                effects.push(Effect::LeavePlan(change.from));
            }
        }
        let description = describe::cluster(&record, situation.cluster);
        end(&mut record, OperationState::Succeeded, description, situation.now);
        effects.extend(settle(&record));
        return Decision { record, effects };
    }
    if overdue {
        // It may have come about while no handler looked: what can be asked is asked before it is given up.
        let questions = missing.iter().filter_map(|one| question(one, &record, situation));
        let asked: Vec<Effect> = questions.collect();
        if !asked.is_empty() {
            effects.extend(asked);
            return Decision { record, effects };
        }
        let open: Vec<String> = missing.iter().filter(blocks).map(ToString::to_string).collect();
        let reason = format!("not finished in time: {}", open.join("; "));
        return fail(Decision { record, effects }, &reason, situation);
    }
    for shortcoming in &missing {
        effects.extend(remedy(shortcoming, &missing, &record, situation));
    }
    departure::remove_leaving(&record, situation, &mut effects);
    let states = describe::cluster(&record, situation.cluster);
    tell(
        &mut record,
        trouble.map_or(states.clone(), |trouble| format!("{states}; {trouble}")),
    );
    Decision { record, effects }
}

/// An instance without an operation: nodes that are lost are replaced, Patroni's configuration stays the plan's, and what an
/// operation has left unfinished goes on as far as that takes no new node.
fn keep(record: &mut Record, effects: &mut Vec<Effect>, situation: &Situation<'_>) {
    if record.bootstrapped {
        let all_report = record
            .staying()
            .all(|(id, node)| node.missing_since.is_none() && situation.cluster.member(id).is_some());
        if !all_report && situation.facts.roll.is_none() {
            effects.push(Effect::ListCells);
        }
        let is_lost = |(id, node)| whereabouts::is_lost(record, id, node, situation);
        if record.staying().any(is_lost)
            && let Some(trouble) = fill_up(record, effects, situation)
        {
            tracing::warn!(instance = %record.instance_id, trouble, "a node on a missing cell cannot be replaced");
        }
        departure::replace_refused(record, effects, situation);
        departure::thin_out(record, situation);
        let missing = shortcomings::of(record, situation);
        credentials::settle(record, &missing);
        for shortcoming in &missing {
            let called_for = match shortcoming {
                // An empty node may take the place of what its cell does not have any more only where it can copy the
                // data; of a last copy, an operator must see that it is missing.
                Shortcoming::NotRunning { node, cell, .. } => {
                    is_alive(cell, situation) && whereabouts::is_led_by_another(record, *node, situation)
                }
                Shortcoming::NotStreaming { .. }
                | Shortcoming::LeaderLeaves
                | Shortcoming::LeaderElsewhere { .. } => !record.is_at_rest(),
                Shortcoming::FormerRoles { .. } | Shortcoming::FormerPasswords { .. } => true,
                _ => false,
            };
            if called_for {
                effects.extend(remedy(shortcoming, &missing, record, situation));
            }
        }
        // A handler that stood still may have changed it after all others had ended the operation.
        let has_leader = situation.cluster.running_leader().is_some();
        if let (true, Some(config), Some(plan)) = (has_leader, &situation.cluster.config, situation.plan) {
            let patch = dynamic_configuration::mend(config, plan, record.settings.as_deref());
            effects.extend(patch.map(Effect::Configure));
        }
    }
    departure::remove_leaving(record, situation, effects);
    match (situation.record.is_at_rest(), record.is_at_rest()) {
        // The marker first, as for any operation: nobody would come soon to what a handler leaves that dies between the two.
        (true, false) if !situation.facts.marked => {
            record.clone_from(situation.record);
            *effects = vec![Effect::Mark];
        }
        (false, true) => effects.push(Effect::Unmark),
        _ => {}
    }
}

fn is_alive(cell: &CellGuid, situation: &Situation<'_>) -> bool {
    let mut cells = situation.facts.cells.iter().flatten();
    cells.any(|view| view.guid == *cell && view.is_alive())
}

/// The marker goes when nothing is under way. A node that is still to be removed is: without a marker nobody would come to
/// it when its cell is back.
fn unmark(record: &Record) -> Option<Effect> {
    record.is_at_rest().then_some(Effect::Unmark)
}

/// What must be true in etcd beside the record once an operation has ended. Also called for when an operation ended and
/// its marker is still there, since then nobody knows whether these were done.
#[must_use]
pub fn settle(record: &Record) -> Vec<Effect> {
    let allocation = record.port.owned().map(Effect::Allocate);
    let projections = record.staying().map(|(node, _)| Effect::Project(node));
    // Whoever retired a node may not have come to tidy up after it.
    let sweep = (!record.retired.is_empty()).then_some(Effect::SweepProjections);
    allocation
        .into_iter()
        .chain(projections)
        .chain(sweep)
        .chain(unmark(record))
        .collect()
}

/// Whether a node may be asked for by others than the handler that placed it.
#[must_use]
pub fn may_be_asked_again(node: &Node, now: Timestamp) -> bool {
    now.duration_since(node.assigned).as_secs() >= ASK_AGAIN
}

/// Gives the operation up. What was just found out is taken in all the same, and nothing new is begun.
fn fail(mut decision: Decision, reason: &str, situation: &Situation<'_>) -> Decision {
    let record = &mut decision.record;
    let advice = match record.operation.as_ref().map(|operation| operation.kind) {
        Some(OperationKind::Provision) => {
            "Delete the instance, or send the same request again to go on with it."
        }
        Some(OperationKind::Rotate) => "It goes on as soon as that is possible.",
        Some(OperationKind::Recreate) => "Give the command again to go on with it, or delete the instance.",
        _ => "Send the request again to go on with it.",
    };
    end(
        record,
        OperationState::Failed,
        format!("{reason}. {advice}"),
        situation.now,
    );
    decision.effects.extend(unmark(&decision.record));
    decision
}

/// Takes over what was observed and found out: the record catches up with the facts.
fn take_in(record: &mut Record, situation: &Situation<'_>) -> Vec<Effect> {
    let (cluster, facts) = (situation.cluster, situation.facts);
    let mut effects = Vec::new();
    whereabouts::note_missing(record, situation);
    match (&record.port, facts.port) {
        (PortClaim::Candidate { port, .. }, PortFact::Ours(claimed)) if *port == claimed => {
            record.port = PortClaim::Owned { port: claimed };
            effects.push(Effect::Allocate(claimed));
        }
        (PortClaim::Candidate { port, misses }, PortFact::Taken { port: tried, next }) if *port == tried => {
            record.port = PortClaim::Candidate {
                port: next,
                misses: misses.saturating_add(1),
            };
        }
        _ => {}
    }
    let gone: Vec<NodeId> = record
        .nodes
        .iter()
        .filter(|(node, placed)| placed.phase == Phase::Leaving && facts.removed.contains(node))
        .map(|(node, _)| *node)
        .collect();
    if !gone.is_empty() {
        record.nodes.retain(|node, _| !gone.contains(node));
        record.retired.extend(&gone);
        effects.push(Effect::Forget(gone));
    }
    for (id, node) in &mut record.nodes {
        if node.phase == Phase::Assigned && cluster.member(*id).is_some_and(|member| member.is_running()) {
            node.phase = Phase::Running;
            effects.push(Effect::Project(*id));
        }
    }
    credentials::take_in(record, situation);
    // A leader on its way out does not count: a bootstrap that was given up stays given up, for its cells may be removing
    // it already (they let its leader go as well). Another leader comes when it has handed over.
    record.bootstrapped |= cluster.system_identifier().is_some()
        && cluster
            .running_leader()
            .is_some_and(|(name, _)| record.staying().any(|(node, _)| node.to_string() == name));
    effects
}

fn own_port(record: &mut Record, effects: &mut Vec<Effect>, situation: &Situation<'_>) {
    match record.port {
        PortClaim::Candidate { port, .. } => effects.push(Effect::ClaimPort(port)),
        // The allocation may have been lost with the handler that should have written it, and then the router knows
        // nothing of the port.
        PortClaim::Owned { port } if matches!(situation.facts.prepared, Some(Err(_))) => {
            effects.push(Effect::Allocate(port));
        }
        PortClaim::Owned { .. } | PortClaim::Released => {}
    }
}

/// A node that ran once and does not report may be lost with its cell: then it is replaced, operation or not.
fn look_for_cells(record: &Record, effects: &mut Vec<Effect>, situation: &Situation<'_>) {
    let is_silent =
        |(id, node): (NodeId, &Node)| node.phase == Phase::Running && situation.cluster.member(id).is_none();
    if record.bootstrapped && situation.facts.roll.is_none() && record.staying().any(is_silent) {
        effects.push(Effect::ListCells);
    }
}
