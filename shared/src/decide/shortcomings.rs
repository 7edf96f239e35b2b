//! What a cluster still lacks to be what was asked for.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use crate::{
    cluster::Member,
    decide::{Situation, credentials, dynamic_configuration, restarts, whereabouts},
    ids::{CellGuid, NodeId},
    record::{Operation, OperationKind, Phase, PortClaim, Record},
};

/// One thing that is not yet as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Shortcoming {
    /// The instance owns no public port yet.
    NoPort,
    /// Fewer nodes are placed than asked for.
    TooFewNodes {
        /// How many are placed.
        placed: usize,
        /// How many shall be.
        wanted: u32,
    },
    /// More nodes are placed than asked for.
    TooManyNodes {
        /// How many are placed.
        placed: usize,
        /// How many shall be.
        wanted: u32,
    },
    /// No node leads, or the leader is not ready.
    NoLeader,
    /// A node that is on its way out still leads.
    LeaderLeaves,
    /// The leader is not on one of the cells that are asked for.
    LeaderElsewhere {
        /// Where it is.
        cell: CellGuid,
    },
    /// The node does not run.
    NotRunning {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
        /// In Patroni's words.
        state: String,
    },
    /// The node runs, but does not stream from the leader on the leader's timeline.
    NotStreaming {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
        /// What is known of its replication.
        state: String,
    },
    /// The plan is synchronous, and Patroni has not named a standby yet that commits wait for: until then a failover could
    /// lose acknowledged ones (Patroni's documentation, "Replication modes").
    NoSynchronousStandby,
    /// The public port does not lead to the leader, or the database is not prepared.
    PortNotReady {
        /// Why.
        reason: String,
    },
    /// The cluster was made anew, and the bindings cannot log in yet.
    LoginsMissing {
        /// Why.
        reason: String,
    },
    /// Patroni's dynamic configuration is not the plan's.
    Settings {
        /// What must be patched.
        patch: Map<String, Value>,
    },
    /// The node is not known to have taken the plan's settings over.
    NotLoaded {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
    },
    /// The node must be restarted for the plan's settings.
    RestartPending {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
    },
    /// The roles that nodes and broker use are not known to have the passwords that take the place of former ones.
    FormerRoles {
        /// Why.
        reason: String,
    },
    /// The node's cell has not taken over the passwords that take the place of former ones.
    FormerPasswords {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
    },
    /// The node is to be removed and still there.
    NotGone {
        /// The node.
        node: NodeId,
        /// Where it is.
        cell: CellGuid,
        /// Why.
        reason: String,
        /// Its cell is missing, and it takes no part: it goes when its cell is back, and nothing waits for that.
        out_of_reach: bool,
    },
    /// The catalog does not hold the instance's plan any more.
    NoPlan,
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("no public port is owned"),
            Self::TooFewNodes { placed, wanted } => {
                write!(f, "{placed} of {wanted} nodes are placed on cells")
            }
            Self::TooManyNodes { placed, wanted } => {
                write!(f, "{placed} nodes are there instead of {wanted}")
            }
            Self::NoLeader => f.write_str("no leader runs"),
            Self::LeaderLeaves => f.write_str("the leader has not handed over yet"),
            Self::LeaderElsewhere { cell } => write!(f, "the leader is still on cell {cell}"),
            Self::NotRunning { node, cell, state } => write!(f, "node {node} on cell {cell} is {state}"),
            Self::NotStreaming { node, cell, state } => {
                write!(
                    f,
                    "node {node} on cell {cell} does not stream from the leader ({state})"
                )
            }
            Self::NoSynchronousStandby => f.write_str("no synchronous standby is named"),
            Self::PortNotReady { reason } => {
                write!(f, "the public port does not lead to the leader: {reason}")
            }
            Self::LoginsMissing { reason } => {
                write!(f, "the logins of the bindings are not made again: {reason}")
            }
            Self::Settings { .. } => f.write_str("the plan's settings are not in force"),
            Self::NotLoaded { node, cell } => {
                write!(
                    f,
                    "node {node} on cell {cell} has not taken the plan's settings over"
                )
            }
            Self::RestartPending { node, cell } => {
                write!(
                    f,
                    "node {node} on cell {cell} is still to be restarted for the plan's settings"
                )
            }
            Self::FormerRoles { reason } => {
                write!(f, "the nodes' roles do not have the new passwords: {reason}")
            }
            Self::FormerPasswords { node, cell } => {
                write!(
                    f,
                    "cell {cell} has not taken the new passwords over for node {node}"
                )
            }
            Self::NoPlan => f.write_str("the plan of this instance is not in the catalog any more"),
            Self::NotGone {
                node, cell, reason, ..
            } => {
                write!(f, "node {node} on cell {cell} is not removed: {reason}")
            }
        }
    }
}

/// Everything that is missing, in the order in which it usually comes about (design.md, 5, Provision). Empty: the cluster
/// is what was asked for.
///
/// `record` is the record as it shall be written, which may be ahead of `situation.record`.
#[must_use]
pub fn of(record: &Record, situation: &Situation<'_>) -> Vec<Shortcoming> {
    let (cluster, facts) = (situation.cluster, situation.facts);
    let mut missing = Vec::new();
    if !matches!(record.port, PortClaim::Owned { .. }) {
        missing.push(Shortcoming::NoPort);
    }
    let (placed, staying) = (
        whereabouts::fitting(record, situation).count(),
        record.staying().count(),
    );
    let wanted = record.node_count;
    let enough = usize::try_from(wanted).unwrap_or(usize::MAX);
    if placed < enough {
        missing.push(Shortcoming::TooFewNodes { placed, wanted });
    }
    if staying > enough {
        missing.push(Shortcoming::TooManyNodes {
            placed: staying,
            wanted,
        });
    }
    let leader = cluster
        .running_leader()
        .filter(|_| cluster.system_identifier().is_some());
    match leader {
        None => missing.push(Shortcoming::NoLeader),
        Some(_) => match record.staying().find(|(node, _)| cluster.is_led_by(*node)) {
            None => missing.push(Shortcoming::LeaderLeaves),
            Some((_, leader)) if !whereabouts::is_allowed(record, &leader.cell) => {
                let cell = leader.cell.clone();
                missing.push(Shortcoming::LeaderElsewhere { cell });
            }
            Some(_) => {}
        },
    }
    let timeline = leader.and_then(|(_, leader)| leader.timeline);
    for (node, placed) in record.staying() {
        let cell = placed.cell.clone();
        let member = cluster.member(node);
        match member {
            Some(member) if member.is_running() => {}
            _ => {
                let state =
                    member.map_or_else(|| not_reported(situation, node), |member| member.state.clone());
                missing.push(Shortcoming::NotRunning { node, cell, state });
                continue;
            }
        }
        if cluster.is_led_by(node) || leader.is_none() {
            continue;
        }
        if let Some(state) = member.and_then(|member| not_streaming(node, member, timeline, situation)) {
            missing.push(Shortcoming::NotStreaming { node, cell, state });
        }
    }
    if leader.is_some() {
        let mode = situation.plan.and_then(|plan| plan.get("synchronous_mode"));
        let synchronous = mode == Some(&Value::Bool(true));
        if synchronous && staying > 1 && cluster.synchronous.is_empty() {
            missing.push(Shortcoming::NoSynchronousStandby);
        }
        match &facts.prepared {
            Some(Ok(())) => {}
            Some(Err(reason)) => missing.push(Shortcoming::PortNotReady {
                reason: reason.clone(),
            }),
            None => missing.push(Shortcoming::PortNotReady {
                reason: "not tried yet".to_owned(),
            }),
        }
        let recreates = |operation: &Operation| operation.kind == OperationKind::Recreate;
        if record.operation.as_ref().is_some_and(recreates) {
            let reason = match &facts.logins {
                Some(Ok(())) => None,
                Some(Err(reason)) => Some(reason.clone()),
                None => Some("not tried yet".to_owned()),
            };
            missing.extend(reason.map(|reason| Shortcoming::LoginsMissing { reason }));
        }
        let current = cluster.config.as_ref().unwrap_or(&Value::Null);
        let patch = situation
            .plan
            .map(|plan| dynamic_configuration::patch(current, plan))
            .unwrap_or_default();
        if !patch.is_empty() {
            missing.push(Shortcoming::Settings { patch });
        }
        missing.extend(restarts::missing(record, situation));
    }
    missing.extend(credentials::missing(record, situation));
    if situation.plan.is_none() {
        missing.push(Shortcoming::NoPlan);
    }
    for (node, leaving) in record
        .nodes
        .iter()
        .filter(|(_, node)| node.phase == Phase::Leaving)
    {
        let reason = facts
            .not_removed
            .get(node)
            .cloned()
            .unwrap_or_else(|| "not asked yet".to_owned());
        missing.push(Shortcoming::NotGone {
            node: *node,
            cell: leaving.cell.clone(),
            reason,
            out_of_reach: whereabouts::is_out_of_reach(*node, leaving, situation),
        });
    }
    missing
}

/// The nodes that stay and are sound: the leader, if it is one of them, and those that stream from it. None when nobody
/// leads.
#[must_use]
pub fn sound(record: &Record, situation: &Situation<'_>) -> BTreeSet<NodeId> {
    let missing = of(record, situation);
    if missing
        .iter()
        .any(|one| matches!(one, Shortcoming::NoLeader | Shortcoming::LeaderLeaves))
    {
        return BTreeSet::new();
    }
    let lame = |id: NodeId| {
        missing.iter().any(|one| {
            matches!(one,
                Shortcoming::NotRunning { node, .. } | Shortcoming::NotStreaming { node, .. } if *node == id)
        })
    };
    record
        .staying()
        .map(|(id, _)| id)
        .filter(|id| !lame(*id))
        .collect()
}

/// What is known of a node that has not reported to Patroni.
fn not_reported(situation: &Situation<'_>, node: NodeId) -> String {
    use crate::effect::StartAnswer;
    match situation.facts.started.get(&node) {
        Some(StartAnswer::Refused(reason) | StartAnswer::Unclear(reason)) => format!("stopped ({reason})"),
        Some(StartAnswer::Accepted(_)) | None => "stopped".to_owned(),
    }
}

/// `None` when the replica streams on the leader's timeline, otherwise what it does instead.
///
/// Patroni's state `running` alone does not mean that: the first walreceiver attempts may fail. Patroni 4 writes
/// `replication_state`; Patroni 3 does not, so the leader is asked ([`crate::effect::Effect::AskReplication`]).
fn not_streaming(
    node: NodeId,
    member: &Member,
    timeline: Option<u64>,
    situation: &Situation<'_>,
) -> Option<String> {
    if let (Some(own), Some(leads)) = (member.timeline, timeline)
        && own != leads
    {
        return Some(format!("on timeline {own} instead of {leads}"));
    }
    let own = member.replication_state.as_deref();
    let seen_by_leader = situation
        .facts
        .replication
        .as_ref()
        .and_then(|by_name| by_name.get(&node.to_string()))
        .map(String::as_str);
    match (own, seen_by_leader) {
        (Some("streaming"), _) | (_, Some("streaming")) => None,
        (_, Some(other)) | (Some(other), None) => Some(other.to_owned()),
        (None, None) => Some("not connected".to_owned()),
    }
}
