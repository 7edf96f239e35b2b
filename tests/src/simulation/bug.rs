//! Safety rules of design.md, 4 and 5, broken on purpose: a simulation that does not notice is worth nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::{
    cluster::{Cluster, Member},
    decide::{Decision, Situation, decide, dynamic_configuration},
    effect::{Effect, Facts},
    record::{Phase, Record, State},
};

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// 4.1: records are written whatever stands there.
    SwapsWithoutComparing,
    /// 5: a handler that lost a compare-and-swap acts all the same.
    GoesOnAfterALostSwap,
    /// 9: a write whose answer was lost counts as done.
    TakesSilenceForSuccess,
    /// 5: the operation is not announced.
    WritesNoMarker,
    /// 4.2: leaves are deleted whatever stands there.
    DeletesWithoutComparing,
    /// 4.2: directories go with what is in them.
    DeletesDirectoriesWithContent,
    /// 4.3: a node that goes is not written down.
    ForgetsRetiredNodes,
    /// 4.3: a cell takes any node that it is sent: it neither remembers whom it was told to remove, nor reads the record.
    CellTakesWhateverComes,
    /// 4.3: a cell does not read the record of what it runs.
    CellNeverLooksAgain,
    /// 4.3: a cell looks at the record at a member of etcd that lags behind.
    CellReadsStaleRecords,
    /// 4.4: a cell deletes nodes that no record names.
    CellDeletesStrangers,
    /// 4.4: cells are not believed when they say what they hold.
    TakesCellsForEmpty,
    /// 4.4: a read that fails finds nothing.
    TakesAnErrorForAbsence,
    /// 4.4: a cluster that has stood is bootstrapped anew.
    BootstrapsAgain,
    /// 4.5: a cell that does not answer has confirmed.
    SilenceOfACellIsConsent,
    /// 4.5: the record goes before the cells have confirmed.
    BuriesBeforeCellsConfirm,
    /// 5: the owner key of a port is written whoever owns it.
    OwnsPortsOfOthers,
    /// 5: the port counts as owned before its owner key is there.
    TakesPortsUnasked,
    /// 4.2, 5: an allocation is written whoever has another one.
    AllocatesForAnyLife,
    /// 4.2, 5: the port of another life of the instance is handed back.
    ReleasesForAnyLife,
    /// 5: two nodes are placed on one cell.
    PlacesTwoOnACell,
    /// 5: the leader is the one to leave.
    LetsTheLeaderGo,
    /// 5: nodes go before they say that they must not lead any more.
    RemovesBeforeTheTag,
    /// 5: nodes go before others stream.
    TakesMembersForStreaming,
    /// 5: nodes are replaced as soon as their cell is missed.
    ReplacesAtOnce,
    /// 5: nodes are replaced when many cells are missing.
    ReplacesThoughManyAreMissing,
    /// 5: Patroni's keys are cleared and not looked at again.
    LooksOnceAtTheScope,
    /// 5: an operation that takes too long goes on for ever.
    KnowsNoDeadline,
    /// The leader is restarted before the replicas.
    RestartsTheLeaderFirst,
    /// Nodes are restarted whether they still need it or not.
    RestartsUnconditionally,
    /// Passwords of an earlier generation are taken over, by cells and PostgreSQL.
    TakesFormerPasswords,
    /// Former passwords are given up before every cell has taken the others over.
    ForgetsFormerPasswords,
    /// Nodes are taken for settled that have not taken the settings over.
    TakesSettingsForLoaded,
    /// Instances of a plan are counted before there is a reservation.
    CountsBeforeItReserves,
    /// Reservations without a record are removed at once.
    RemovesFreshReservations,
    /// Reservations are removed while a change of the plan may still come.
    RemovesReservationsUnderAChange,
    /// A change of the plan releases the reservation of a later one.
    ReleasesLaterReservations,
}

/// Those that come to light by chance. The others need a situation of their own.
pub const BUGS: [Bug; 22] = [
    Bug::SwapsWithoutComparing,
    Bug::GoesOnAfterALostSwap,
    Bug::TakesSilenceForSuccess,
    Bug::WritesNoMarker,
    Bug::DeletesWithoutComparing,
    Bug::DeletesDirectoriesWithContent,
    Bug::ForgetsRetiredNodes,
    Bug::CellTakesWhateverComes,
    Bug::CellNeverLooksAgain,
    Bug::CellReadsStaleRecords,
    Bug::TakesAnErrorForAbsence,
    Bug::BootstrapsAgain,
    Bug::SilenceOfACellIsConsent,
    Bug::BuriesBeforeCellsConfirm,
    Bug::OwnsPortsOfOthers,
    Bug::TakesPortsUnasked,
    Bug::PlacesTwoOnACell,
    Bug::LetsTheLeaderGo,
    Bug::TakesMembersForStreaming,
    Bug::ReplacesAtOnce,
    Bug::ReplacesThoughManyAreMissing,
    Bug::LooksOnceAtTheScope,
];

type Decide = fn(&Situation<'_>) -> Decision;

impl Bug {
    /// What moves instances on where this rule is broken: the real [`decide`], deceived or corrected.
    pub(super) fn decide(self) -> Decide {
        match self {
            Self::ForgetsRetiredNodes => |situation| {
                let mut decision = decide(situation);
                decision.record.retired.clear();
                decision
            },
            Self::BootstrapsAgain => |situation| {
                let record = Record {
                    bootstrapped: false,
                    ..situation.record.clone()
                };
                decide(&Situation {
                    record: &record,
                    ..*situation
                })
            },
            Self::BuriesBeforeCellsConfirm => |situation| {
                let mut facts = situation.facts.clone();
                if situation.record.state == State::Deleting {
                    facts.removed.extend(situation.record.nodes.keys());
                }
                with_facts(situation, &facts)
            },
            Self::TakesPortsUnasked => |situation| {
                let mut facts = situation.facts.clone();
                if let shared::record::PortClaim::Candidate { port, .. } = situation.record.port {
                    facts.port = shared::effect::PortFact::Ours(port);
                }
                with_facts(situation, &facts)
            },
            Self::PlacesTwoOnACell => |situation| {
                let mut decision = decide(situation);
                let first = decision
                    .record
                    .nodes
                    .values()
                    .next()
                    .map(|node| node.cell.clone());
                for (id, node) in &mut decision.record.nodes {
                    if let Some(cell) = first.clone().filter(|_| !situation.record.nodes.contains_key(id)) {
                        node.cell = cell;
                    }
                }
                decision
            },
            Self::LetsTheLeaderGo => |situation| {
                let mut decision = decide(situation);
                let leader = situation
                    .cluster
                    .leader
                    .as_ref()
                    .and_then(|name| name.parse().ok());
                let begins = |id| {
                    let before = situation.record.nodes.get(id);
                    before.is_some_and(|node| node.phase != Phase::Leaving)
                };
                let nodes = &mut decision.record.nodes;
                let chosen = nodes
                    .iter()
                    .find(|(id, node)| node.phase == Phase::Leaving && begins(*id));
                if let (Some((chosen, _)), Some(leader)) = (chosen, leader)
                    && nodes.contains_key(&leader)
                    && situation.record.state == State::Active
                {
                    let chosen = *chosen;
                    nodes.get_mut(&chosen).unwrap().phase = Phase::Running;
                    nodes.get_mut(&leader).unwrap().phase = Phase::Leaving;
                }
                let leaving = decision
                    .record
                    .nodes
                    .iter()
                    .filter(|(_, node)| node.phase == Phase::Leaving);
                let removes = leaving.map(|(id, _)| Effect::Remove(*id));
                decision.effects.extend(removes);
                decision
            },
            Self::RemovesBeforeTheTag => |situation| {
                let mut cluster: Cluster = situation.cluster.clone();
                for member in cluster.members.values_mut() {
                    member.nofailover = true;
                }
                decide(&Situation {
                    cluster: &cluster,
                    ..*situation
                })
            },
            Self::LooksOnceAtTheScope => |situation| {
                let long_ago = Some(Timestamp::MIN);
                let record = Record {
                    scope_cleared: situation.record.scope_cleared.and(long_ago),
                    ..situation.record.clone()
                };
                let mut decision = decide(&Situation {
                    record: &record,
                    ..*situation
                });
                if decision.record.scope_cleared == long_ago {
                    decision.record.scope_cleared = situation.record.scope_cleared;
                }
                decision
            },
            Self::TakesMembersForStreaming => |situation| {
                let mut cluster: Cluster = situation.cluster.clone();
                let timeline = cluster.running_leader().and_then(|(_, leader)| leader.timeline);
                for (id, _) in situation.record.staying() {
                    let member: &mut Member = cluster.members.entry(id.to_string()).or_default();
                    if !member.is_primary() {
                        "running".clone_into(&mut member.state);
                        member.timeline = timeline;
                        member.replication_state = Some("streaming".to_owned());
                    }
                }
                decide(&Situation {
                    cluster: &cluster,
                    ..*situation
                })
            },
            Self::ReplacesAtOnce => |situation| {
                let mut facts = situation.facts.clone();
                for presence in facts.roll.iter_mut().flat_map(|roll| roll.cells.values_mut()) {
                    presence.missing_since = presence.missing_since.map(|_| Timestamp::MIN);
                }
                with_facts(situation, &facts)
            },
            Self::ReplacesThoughManyAreMissing => |situation| {
                let mut facts = situation.facts.clone();
                for presence in facts.roll.iter_mut().flat_map(|roll| roll.cells.values_mut()) {
                    presence.destroyed = presence
                        .missing_since
                        .filter(|since| situation.now.duration_since(*since) > situation.replace_after);
                }
                with_facts(situation, &facts)
            },
            Self::RestartsTheLeaderFirst => |situation| {
                let mut decision = decide(situation);
                let leader = situation.cluster.running_leader();
                let leader = leader.and_then(|(name, member)| Some((name.parse().ok()?, &member.role)));
                for effect in &mut decision.effects {
                    if let (Effect::Restart { node, role }, Some((leads, its_role))) = (effect, leader) {
                        *node = leads;
                        role.clone_from(its_role);
                    }
                }
                decision
            },
            Self::ForgetsFormerPasswords => |situation| {
                let mut decision = decide(situation);
                for node in decision.record.nodes.values_mut() {
                    node.credentials_due = false;
                }
                decision
            },
            Self::TakesSettingsForLoaded => |situation| {
                let mut facts = situation.facts.clone();
                let version = situation.plan.and_then(dynamic_configuration::version);
                for settings in facts.settings.iter_mut().flat_map(BTreeMap::values_mut) {
                    version.unwrap_or_default().clone_into(&mut settings.version);
                }
                with_facts(situation, &facts)
            },
            Self::KnowsNoDeadline => |situation| {
                let mut record = situation.record.clone();
                let deadline = record.operation.as_ref().map(|operation| operation.deadline);
                if let Some(operation) = &mut record.operation {
                    operation.deadline = Timestamp::MAX;
                }
                let mut decision = decide(&Situation {
                    record: &record,
                    ..*situation
                });
                if let (Some(operation), Some(deadline)) = (&mut decision.record.operation, deadline) {
                    operation.deadline = deadline;
                }
                decision
            },
            _ => decide,
        }
    }
}

fn with_facts(situation: &Situation<'_>, facts: &Facts) -> Decision {
    decide(&Situation { facts, ..*situation })
}
