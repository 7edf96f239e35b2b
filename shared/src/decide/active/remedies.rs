//! What is done about each thing that is not as asked for.

use serde_json::Value;

use super::{
    super::{
        Situation, credentials, dynamic_configuration,
        restarts::{self, NextRestart},
        shortcomings::Shortcoming,
        whereabouts,
    },
    may_be_asked_again,
};
use crate::{effect::Effect, ids::NodeId, record::Record};

/// What may show that a shortcoming is none, unless it was asked in this pass.
pub(super) fn question(
    shortcoming: &Shortcoming,
    record: &Record,
    situation: &Situation<'_>,
) -> Option<Effect> {
    let facts = situation.facts;
    match shortcoming {
        Shortcoming::NotStreaming { .. } if facts.replication.is_none() => Some(Effect::AskReplication),
        Shortcoming::NotLoaded { .. } if facts.settings.is_none() => Some(Effect::AskSettings),
        Shortcoming::PortNotReady { .. } if record.port.owned().is_some() && facts.prepared.is_none() => {
            Some(Effect::Prepare)
        }
        Shortcoming::FormerRoles { .. } if record.port.owned().is_some() && facts.passwords.is_none() => {
            Some(Effect::ChangePasswords)
        }
        // They are made in a database that is prepared.
        Shortcoming::LoginsMissing { .. } if facts.logins.is_none() && facts.prepared == Some(Ok(())) => {
            Some(Effect::RestoreLogins)
        }
        _ => None,
    }
}

/// What can be done about one shortcoming now.
pub(super) fn remedy(
    shortcoming: &Shortcoming,
    missing: &[Shortcoming],
    record: &Record,
    situation: &Situation<'_>,
) -> Option<Effect> {
    let port_owned = record.port.owned().is_some();
    match shortcoming {
        Shortcoming::NotRunning { node, .. } => {
            // A node that reports to Patroni is its cell's business. One that does not may never have been asked for:
            // whoever placed it asked at once, so others give it a moment.
            let silent = situation.cluster.member(*node).is_none();
            let just_placed =
                !situation.record.nodes.contains_key(node) || situation.record.port.owned().is_none();
            let overdue = record
                .nodes
                .get(node)
                .is_some_and(|placed| may_be_asked_again(placed, situation.now));
            // An empty node may take the place of what its cell does not have any more only where it can copy the data. One
            // that is only down is started by its cell.
            let may_be_empty = !record.bootstrapped || whereabouts::is_led(record, situation);
            (port_owned && silent && may_be_empty && (just_placed || overdue))
                .then_some(Effect::Start(*node))
                .filter(|_| credentials::may_be_told(*node, record, situation))
        }
        Shortcoming::NotStreaming { .. }
        | Shortcoming::PortNotReady { .. }
        | Shortcoming::NotLoaded { .. }
        | Shortcoming::FormerRoles { .. }
        | Shortcoming::LoginsMissing { .. } => question(shortcoming, record, situation),
        Shortcoming::FormerPasswords { node, .. } => credentials::tell(*node, record, situation),
        Shortcoming::Settings { patch } => {
            let still_growing = missing.iter().any(|one| {
                // A node that goes does not make the cluster grow, and its cell may be away for long.
                !matches!(
                    one,
                    Shortcoming::Settings { .. }
                        | Shortcoming::PortNotReady { .. }
                        | Shortcoming::LoginsMissing { .. }
                        | Shortcoming::FormerRoles { .. }
                        | Shortcoming::FormerPasswords { .. }
                        | Shortcoming::NotGone { .. }
                )
            });
            if !still_growing {
                return Some(Effect::Configure(patch.clone()));
            }
            let current = situation.cluster.config.as_ref().unwrap_or(&Value::Null);
            let quick =
                dynamic_configuration::patch(current, &dynamic_configuration::while_growing(situation.plan?));
            (!quick.is_empty()).then_some(Effect::Configure(quick))
        }
        Shortcoming::RestartPending { .. } => match restarts::next(missing, record, situation)? {
            NextRestart::InPlace(node) => restarts::in_place(node, situation),
            NextRestart::AfterHandover => hand_over(1, missing, record, situation),
        },
        Shortcoming::LeaderLeaves => hand_over(1, missing, record, situation),
        Shortcoming::LeaderElsewhere { .. } => hand_over(record.node_count, missing, record, situation),
        _ => None,
    }
}

/// Hands the leadership to a node that streams where it should, once as many do.
fn hand_over(
    needed: u32,
    missing: &[Shortcoming],
    record: &Record,
    situation: &Situation<'_>,
) -> Option<Effect> {
    let leader = situation.cluster.leader.clone()?;
    let streams = |node: NodeId| {
        !missing.iter().any(|one| {
            matches!(one,
                Shortcoming::NotRunning { node: lame, .. } | Shortcoming::NotStreaming { node: lame, .. } if *lame == node)
        })
    };
    let able: Vec<String> = whereabouts::fitting(record, situation)
        .filter(|(node, _)| streams(*node))
        .map(|(node, _)| node.to_string())
        .collect();
    // In synchronous mode Patroni hands over to a synchronous standby only. It chooses one of these nodes when the others
    // have gone.
    let standbys = &situation.cluster.synchronous;
    let may_lead = |name: &String| *name != leader && (standbys.is_empty() || standbys.contains(name));
    let candidate = able.iter().find(|name| may_lead(name))?.clone();
    let are_enough = able.len() >= usize::try_from(needed).unwrap_or(usize::MAX);
    are_enough.then_some(Effect::Switchover { leader, candidate })
}
