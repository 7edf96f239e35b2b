//! Taking an instance away. It may be asked for at any time, also during a provision and on a half-made instance.
//!
//! Cells confirm -> allocation and projections -> port to quarantine -> bindings -> Patroni's keys, looked at again after
//! a loop -> tombstone -> record. The record goes last: while it is there, no new instance of that id can be made, and
//! every poll and every reconcile takes the next step.

use jiff::SignedDuration;

use super::{Decision, Situation, active, end, tell};
use crate::{
    effect::Effect,
    ids::NodeId,
    record::{OperationKind, OperationState, Phase, PortClaim, Record},
};

/// How long after Patroni's keys were cleared they are looked at again. The cells have confirmed that no Patroni of this
/// cluster runs; what can still come is a write that was under way when it was stopped.
const SECOND_LOOK: SignedDuration = SignedDuration::from_secs(2);

pub(super) fn decide(situation: &Situation<'_>) -> Decision {
    let mut record = situation.record.clone();
    let facts = situation.facts;
    for node in record.nodes.values_mut() {
        node.phase = Phase::Leaving;
    }
    let gone: Vec<NodeId> = record
        .nodes
        .keys()
        .copied()
        .filter(|node| facts.removed.contains(node))
        .collect();
    record.nodes.retain(|node, _| !gone.contains(node));
    record.retired.extend(&gone);
    if !record.nodes.is_empty() {
        return remove_nodes(record, situation);
    }
    let description = progress(&record);
    tell(&mut record, description.clone());

    if facts.port_released {
        record.port = PortClaim::Released;
    }
    let port = match record.port {
        PortClaim::Candidate { port, .. } | PortClaim::Owned { port } => Some(port),
        PortClaim::Released => None,
    };
    if port.is_some() {
        return Decision {
            record,
            effects: vec![Effect::ReleasePort(port)],
        };
    }
    if !facts.bindings_dropped {
        return Decision {
            record,
            effects: vec![Effect::DropBindings],
        };
    }
    // An instance that never had a node has nothing there: whatever it is, it is somebody else's.
    if situation.cluster.exists && !record.retired.is_empty() {
        record.scope_cleared = Some(situation.now);
        return Decision {
            record,
            effects: vec![active::clear_scope(situation)],
        };
    }
    match record.scope_cleared {
        Some(cleared) if situation.now.duration_since(cleared) < SECOND_LOOK => Decision {
            record,
            effects: vec![],
        },
        _ => {
            // A deprovision that ran out of time and was finished all the same has succeeded in the end. What a broker
            // abandoned while it was being provisioned stays failed.
            if let Some(last) = record
                .last_operation
                .take_if(|last| last.kind == OperationKind::Deprovision)
            {
                record.operation.get_or_insert(last);
            }
            end(&mut record, OperationState::Succeeded, description, situation.now);
            Decision {
                record,
                effects: vec![Effect::Bury],
            }
        }
    }
}

/// `removing nodes: 1 of 2 gone`. Counts the nodes that the instance had when the deprovision began.
fn progress(record: &Record) -> String {
    let gone = record.retired.len().saturating_sub(record.retired_earlier);
    format!("removing nodes: {gone} of {} gone", gone + record.nodes.len())
}

fn remove_nodes(mut record: Record, situation: &Situation<'_>) -> Decision {
    let description = progress(&record);
    let overdue = record
        .operation
        .as_ref()
        .is_some_and(|operation| situation.now >= operation.deadline);
    if overdue {
        let open: Vec<String> = record
            .nodes
            .iter()
            .map(|(node, placed)| {
                let reason = situation
                    .facts
                    .not_removed
                    .get(node)
                    .map_or("not confirmed", String::as_str);
                format!("node {node} on cell {}: {reason}", placed.cell)
            })
            .collect();
        let description = format!(
            "{description}; {}. The data of a cell that cannot be reached is not given up: the removal goes on when \
             the cell is back.",
            open.join("; ")
        );
        end(&mut record, OperationState::Failed, description, situation.now);
    } else {
        tell(&mut record, description);
    }
    let effects = record.nodes.keys().map(|node| Effect::Remove(*node)).collect();
    Decision { record, effects }
}
