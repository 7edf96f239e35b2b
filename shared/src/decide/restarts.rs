//! Bringing the nodes of a cluster to other settings: who has to be restarted, and in which order.
//!
//! **Guarantees.** One node at a time, and only while all others run and stream; the leader last, after it has handed over,
//! so that clients wait for a switchover only. Two rules of PostgreSQL turn that round. A standby must not have less of
//! the [`STANDBY_LIMITS`] than its primary: where they grow, replicas go first in any case. Where they shrink, a replica keeps
//! what its primary has until that one runs with less (Patroni starts it with the value of `pg_control`): so the leader is
//! restarted where it is, and the replicas follow.
//! **Assumes.** Patroni reports a pending restart wherever PostgreSQL does.
//! **Caveats.** The flag `pending_restart` of the member keys is not used: it comes one or two loops after the configuration, and
//! goes a loop after the restart. PostgreSQL is asked, which knows.

use serde_json::Value;

use super::{
    Situation,
    dynamic_configuration::{self, STANDBY_LIMITS},
    shortcomings::Shortcoming,
};
use crate::{database::NodeSettings, effect::Effect, ids::NodeId, record::Record};

/// The settings that all nodes shall run with, while that is not known of them.
fn wanted<'s>(record: &Record, situation: &Situation<'s>) -> Option<&'s str> {
    let version = dynamic_configuration::version(situation.plan?)?;
    (record.settings.as_deref() != Some(version)).then_some(version)
}

/// Whether Patroni's configuration holds the plan's settings.
fn is_configured(situation: &Situation<'_>) -> bool {
    let configured = situation.cluster.config.as_ref().and_then(Value::as_object);
    let version = situation.plan.and_then(dynamic_configuration::version);
    configured.and_then(dynamic_configuration::version) == version
}

/// Writes down whether all nodes are known to run with the plan's settings. What they run with is unknown from the moment in
/// which the configuration is about to be changed.
pub(super) fn take_in(record: &mut Record, situation: &Situation<'_>) {
    if !is_configured(situation) && situation.cluster.config.is_some() {
        record.settings = None;
    }
    let Some(version) = wanted(record, situation) else {
        return;
    };
    if is_configured(situation)
        && situation.facts.settings.is_some()
        && record.staying().next().is_some()
        && missing(record, situation).is_empty()
    {
        record.settings = Some(version.to_owned());
    }
}

/// The nodes that are not known to run with the plan's settings.
pub(super) fn missing(record: &Record, situation: &Situation<'_>) -> Vec<Shortcoming> {
    let Some(version) = wanted(record, situation) else {
        return Vec::new();
    };
    let leader = leader(situation);
    let shortcoming = |(node, placed): (NodeId, &crate::record::Node)| {
        let cell = placed.cell.clone();
        match runs_with(node, situation) {
            Some(settings) if settings.version == version => {
                needs_restart(settings, leader).then_some(Shortcoming::RestartPending { node, cell })
            }
            _ => Some(Shortcoming::NotLoaded { node, cell }),
        }
    };
    record.staying().filter_map(shortcoming).collect()
}

fn runs_with<'s>(node: NodeId, situation: &Situation<'s>) -> Option<&'s NodeSettings> {
    situation.facts.settings.as_ref()?.get(&node)
}

fn leader<'s>(situation: &Situation<'s>) -> Option<&'s NodeSettings> {
    let (name, _) = situation.cluster.running_leader()?;
    runs_with(name.parse().ok()?, situation)
}

/// A replica that was started with its primary's limits keeps them, and says nothing, when that one has less by now.
fn needs_restart(settings: &NodeSettings, leader: Option<&NodeSettings>) -> bool {
    let exceeds = |leader: &NodeSettings| {
        let mut limits = settings.limits.iter();
        limits.any(|(name, value)| leader.limits.get(name).is_some_and(|leads| value > leads))
    };
    settings.pending || leader.is_some_and(|leader| !leader.pending && exceeds(leader))
}

/// What is done next about nodes that are to be restarted; `None` while another node is not sound.
pub(super) fn next(
    missing: &[Shortcoming],
    record: &Record,
    situation: &Situation<'_>,
) -> Option<NextRestart> {
    if !missing.iter().all(leaves_room) || !is_configured(situation) {
        return None;
    }
    let (plan, leader) = (situation.plan?, leader(situation)?);
    let (name, _) = situation.cluster.running_leader()?;
    let leading: NodeId = name.parse().ok()?;
    let any_limit = |settings: &NodeSettings, differs: fn(i64, i64) -> bool| {
        STANDBY_LIMITS.iter().any(|(name, usual)| {
            let wanted = dynamic_configuration::limit(plan, name, *usual);
            settings.limits.get(*name).is_some_and(|is| differs(*is, wanted))
        })
    };
    let due = missing.iter().filter_map(|one| match one {
        Shortcoming::RestartPending { node, .. } if *node != leading => Some(*node),
        _ => None,
    });
    let replicas: Vec<NodeId> = due.collect();
    let too_small = |node: &&NodeId| {
        runs_with(**node, situation).is_some_and(|settings| any_limit(settings, |is, wanted| is < wanted))
    };
    let shrinks = leader.pending && any_limit(leader, |is, wanted| is > wanted);
    if let Some(node) = replicas.iter().find(too_small) {
        return Some(NextRestart::InPlace(*node));
    }
    if shrinks {
        return Some(NextRestart::InPlace(leading));
    }
    if let Some(node) = replicas.first() {
        return Some(NextRestart::InPlace(*node));
    }
    leader.pending.then(|| {
        if record.staying().count() > 1 {
            NextRestart::AfterHandover
        } else {
            NextRestart::InPlace(leading)
        }
    })
}

/// Who is restarted next, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextRestart {
    /// This node, as it is.
    InPlace(NodeId),
    /// The leader. Patroni restarts it when it has handed over.
    AfterHandover,
}

/// A restart as Patroni is asked for it, in the role that the node has.
pub(super) fn in_place(node: NodeId, situation: &Situation<'_>) -> Option<Effect> {
    let role = situation.cluster.member(node)?.role.clone();
    Some(Effect::Restart { node, role })
}

/// Whether nodes may be restarted although this is missing: everybody else must be there.
fn leaves_room(shortcoming: &Shortcoming) -> bool {
    match shortcoming {
        Shortcoming::RestartPending { .. }
        | Shortcoming::Settings { .. }
        | Shortcoming::PortNotReady { .. } => true,
        Shortcoming::NotGone { out_of_reach, .. } => *out_of_reach,
        _ => false,
    }
}
