//! What holds whatever the situation.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{arbitrary::cases, fixture::Case};
use crate::{
    database::Reach,
    decide::{
        Decision, decide,
        shortcomings::{self, Shortcoming},
        whereabouts,
    },
    effect::{Effect, PortFact, StartAnswer},
    ids::NodeId,
    record::{OperationKind, OperationState, Phase, PortClaim, Record, State},
};

/// What the record of a decision lacks, with the operation that it ended still under way.
fn missing(case: &Case, decision: &Decision) -> Vec<Shortcoming> {
    shortcomings::of(&decision.record, &case.situation())
}

fn order(phase: Phase) -> u8 {
    match phase {
        Phase::Assigned => 0,
        Phase::Running => 1,
        Phase::Leaving => 2,
    }
}

/// Nodes of the next record that were not in the one before.
fn new_nodes(case: &Case, decision: &Decision) -> Vec<NodeId> {
    let nodes = decision.record.nodes.keys().copied();
    nodes.filter(|id| !case.record.nodes.contains_key(id)).collect()
}

/// The nodes of the next record that are where they should be.
fn fitting(case: &Case, decision: &Decision) -> BTreeSet<NodeId> {
    let situation = case.situation();
    let fitting = whereabouts::fitting(&decision.record, &situation);
    fitting.map(|(id, _)| id).collect()
}

fn staying(record: &Record) -> usize {
    record.staying().count()
}

fn ended(case: &Case, decision: &Decision) -> Option<OperationState> {
    let last = decision.record.last_operation.as_ref()?;
    (case.record.operation.is_some() && decision.record.operation.is_none()).then_some(last.state)
}

proptest! {
    #[test]
    fn a_decision_is_the_same_for_everybody(case in cases()) {
        let other = case.clone();
        prop_assert_eq!(decide(&case.situation()), decide(&other.situation()));
        prop_assert_eq!(other.record, case.record);
    }

    #[test]
    fn a_pass_comes_to_rest(mut case in cases()) {
        // Nothing new is found out: then nothing new is decided, but for what two rounds of catching up change.
        for _ in 0..6 {
            case = case.next();
        }
        prop_assert_eq!(&case.decide().record, &case.record);
    }

    #[test]
    fn what_an_instance_is_never_changes(case in cases()) {
        let (before, after) = (&case.record, case.decide().record);
        prop_assert_eq!(&after.instance_id, &before.instance_id);
        prop_assert_eq!(after.incarnation, before.incarnation);
        prop_assert_eq!(&after.request, &before.request);
        prop_assert_eq!(after.node_count, before.node_count);
        prop_assert_eq!(&after.cells, &before.cells);
        prop_assert_eq!(after.state, before.state);
        prop_assert_eq!(&after.master_key, &before.master_key);
        prop_assert_eq!(after.credential_generation, before.credential_generation);
        prop_assert!(after.bootstrapped >= before.bootstrapped);
        prop_assert!(after.bootstrap_restarts >= before.bootstrap_restarts);
    }

    #[test]
    fn former_passwords_go_only_when_all_that_stays_has_the_others(case in cases()) {
        let after = case.decide().record;
        prop_assert!(case.record.former_credentials.is_some() || after.former_credentials.is_none());
        if case.record.former_credentials.is_some() && after.former_credentials.is_none() {
            prop_assert_eq!(&case.facts.passwords, &Some(Ok(Reach::All)));
            prop_assert!(after.staying().all(|(_, node)| !node.credentials_due));
            prop_assert!(case.cluster.running_leader().is_some());
        }
    }

    #[test]
    fn phases_only_move_forward(case in cases()) {
        let decision = case.decide();
        for (id, after) in &decision.record.nodes {
            match case.record.nodes.get(id) {
                Some(before) => {
                    prop_assert!(order(after.phase) >= order(before.phase));
                    prop_assert_eq!((&after.cell, after.assigned), (&before.cell, before.assigned));
                }
                None => prop_assert_eq!(after.phase, Phase::Assigned),
            }
        }
    }

    #[test]
    fn a_node_that_goes_is_retired_and_never_comes_back(case in cases()) {
        let decision = case.decide();
        let (before, after) = (&case.record, &decision.record);
        prop_assert!(after.retired.starts_with(&before.retired));
        let gone: BTreeSet<_> = before.nodes.keys().filter(|id| !after.nodes.contains_key(id)).collect();
        prop_assert_eq!(gone.clone(), after.retired[before.retired.len()..].iter().collect());
        for id in &gone {
            prop_assert!(case.facts.removed.contains(id));
            prop_assert!(before.nodes[*id].phase == Phase::Leaving || before.state == State::Deleting);
        }
        for id in after.nodes.keys() {
            prop_assert!(!after.retired.contains(id), "{} came back", id);
        }
    }

    #[test]
    fn a_new_node_has_a_cell_of_its_own(case in cases()) {
        let decision = case.decide();
        for id in new_nodes(&case, &decision) {
            let own = &decision.record.nodes[&id].cell;
            let there = decision.record.nodes.values().filter(|node| node.cell == *own).count();
            prop_assert_eq!(there, 1);
            prop_assert!(case.record.cells.as_ref().is_none_or(|cells| cells.contains(own)));
            prop_assert!(case.facts.cells.as_ref().is_some_and(|cells| cells.iter().any(|cell| cell.guid == *own)));
        }
    }

    #[test]
    fn there_are_never_more_nodes_than_asked_for(case in cases()) {
        let decision = case.decide();
        let new = new_nodes(&case, &decision).len();
        let wanted = usize::try_from(case.record.node_count).unwrap();
        prop_assert!(new == 0 || fitting(&case, &decision).len() <= wanted);
        let lost = |(id, node)| whereabouts::is_lost(&decision.record, id, node, &case.situation());
        let may_grow = case.record.operation.is_some() || decision.record.staying().any(lost);
        prop_assert!(new == 0 || case.record.state == State::Active && may_grow);
    }

    #[test]
    fn only_what_leaves_is_removed_and_only_when_that_harms_nobody(case in cases()) {
        let decision = case.decide();
        for id in decision.removes() {
            prop_assert_eq!(decision.record.nodes[&id].phase, Phase::Leaving);
            if case.record.state == State::Deleting || !decision.record.bootstrapped {
                continue;
            }
            prop_assert!(!case.cluster.is_led_by(id), "the leader is removed");
            prop_assert!(staying(&decision.record) > 0, "the last node is removed");
            let (leader, _) = case.cluster.running_leader().unwrap();
            prop_assert!(decision.record.staying().any(|(id, _)| id.to_string() == leader));
            prop_assert!(case.cluster.member(id).is_none_or(|member| member.nofailover));
            let sound = shortcomings::sound(&decision.record, &case.situation());
            let enough = usize::try_from(decision.record.node_count).unwrap();
            let here = fitting(&case, &decision).intersection(&sound).count();
            prop_assert!(here >= enough || sound.len() == staying(&decision.record));
        }
    }

    #[test]
    fn of_a_cluster_that_has_stood_one_node_at_most_begins_to_leave_and_never_the_leader(case in cases()) {
        let decision = case.decide();
        let active = case.record.state == State::Active;
        if active && decision.record.bootstrapped {
            // A node that never ran, and that its cell has refused, is another matter: it is replaced.
            let replaced = |id: &NodeId| {
                case.record.nodes[id].phase == Phase::Assigned
                    && matches!(case.facts.started.get(id), Some(StartAnswer::Refused(_)))
            };
            let begin: Vec<_> = decision
                .leaving()
                .into_iter()
                .filter(|id| case.record.nodes[id].phase != Phase::Leaving && !replaced(id))
                .collect();
            prop_assert!(begin.len() <= 1);
            for id in begin {
                prop_assert!(!case.cluster.is_led_by(id));
                let others = decision.leaving().into_iter().filter(|other| {
                    let node = &decision.record.nodes[other];
                    *other != id && !whereabouts::is_out_of_reach(*other, node, &case.situation())
                });
                prop_assert_eq!(others.collect::<Vec<_>>(), vec![], "others are still leaving");
                // Without it as many as asked for stream, where they should be.
                let sound = shortcomings::sound(&decision.record, &case.situation());
                let here = fitting(&case, &decision).intersection(&sound).count();
                prop_assert!(here >= usize::try_from(case.record.node_count).unwrap());
            }
        }
    }

    #[test]
    fn a_running_leader_never_begins_to_leave(case in cases()) {
        let decision = case.decide();
        let led = case.cluster.running_leader().map(|(name, _)| name.to_owned());
        for (id, before) in &case.record.nodes {
            if case.record.state == State::Active
                && before.phase != Phase::Leaving
                && led == Some(id.to_string())
            {
                prop_assert!(decision.record.nodes[id].phase != Phase::Leaving);
            }
        }
    }

    #[test]
    fn nodes_are_started_where_the_record_says_and_never_in_a_deprovision(case in cases()) {
        let decision = case.decide();
        for id in decision.starts() {
            prop_assert_eq!(case.record.state, State::Active);
            let node = &decision.record.nodes[&id];
            // A node that leaves is only nudged.
            prop_assert!(node.phase != Phase::Leaving || case.cluster.member(id).is_some());
            prop_assert!(node.phase == Phase::Leaving || decision.record.port.owned().is_some());
        }
    }

    #[test]
    fn of_a_cluster_that_has_stood_a_node_is_asked_for_only_where_it_can_copy_the_data(case in cases()) {
        let decision = case.decide();
        // A node that leaves is only nudged.
        let stays = |id: &NodeId| decision.record.nodes[id].phase != Phase::Leaving;
        let asked = decision.starts().iter().any(stays) || !new_nodes(&case, &decision).is_empty();
        if case.record.state == State::Active && decision.record.bootstrapped && asked {
            let leader = case.cluster.running_leader().map(|(name, _)| name.to_owned());
            prop_assert!(case.record.nodes.keys().any(|id| Some(id.to_string()) == leader));
        }
    }

    #[test]
    fn the_port_of_a_living_instance_is_its_port(case in cases()) {
        let decision = case.decide();
        let (before, after) = (&case.record.port, &decision.record.port);
        if case.record.state == State::Active {
            match (before, after) {
                (PortClaim::Candidate { port, .. }, PortClaim::Owned { port: owned }) => {
                    prop_assert_eq!(port, owned);
                    prop_assert_eq!(case.facts.port, PortFact::Ours(*port));
                    prop_assert!(decision.has(&Effect::Allocate(*port)));
                }
                (PortClaim::Candidate { .. }, PortClaim::Candidate { .. }) => {}
                _ => prop_assert_eq!(before, after),
            }
            for effect in &decision.effects {
                let releases = matches!(effect, Effect::ReleasePort(_) | Effect::DropBindings | Effect::Bury);
                prop_assert!(!releases, "{:?}", effect);
                if let Effect::Allocate(port) = effect {
                    prop_assert_eq!(Some(*port), after.owned());
                }
            }
        } else {
            prop_assert!(after == before || case.facts.port_released && *after == PortClaim::Released);
        }
    }

    #[test]
    fn an_instance_is_buried_only_when_nothing_is_left(case in cases()) {
        let decision = case.decide();
        if decision.has(&Effect::Bury) {
            prop_assert_eq!(decision.record.state, State::Deleting);
            prop_assert!(decision.record.nodes.is_empty());
            prop_assert_eq!(&decision.record.port, &PortClaim::Released);
            prop_assert!(case.facts.bindings_dropped);
            // What is in the scope of an instance that never had a node is somebody else's.
            prop_assert!(decision.record.retired.is_empty() || !case.cluster.exists);
            prop_assert_eq!(&decision.effects, &vec![Effect::Bury]);
            prop_assert_eq!(&decision.record.operation, &None);
        }
    }

    #[test]
    fn patronis_keys_are_cleared_only_when_no_node_is_left(case in cases()) {
        let decision = case.decide();
        let clears = decision.effects.iter().any(|effect| matches!(effect, Effect::ClearScope { .. }));
        if clears {
            prop_assert!(decision.record.nodes.is_empty());
            prop_assert!(case.record.state == State::Deleting || !decision.record.bootstrapped);
        }
    }

    #[test]
    fn the_marker_goes_only_when_nothing_is_under_way(case in cases()) {
        let decision = case.decide();
        if decision.has(&Effect::Unmark) {
            prop_assert_eq!(&decision.record.operation, &None);
            prop_assert!(decision.record.is_at_rest());
        } else if ended(&case, &decision).is_some() {
            prop_assert!(!decision.record.is_at_rest());
        }
        if decision.has(&Effect::Mark) {
            prop_assert!(case.record.is_at_rest() && decision.effects.len() == 1);
            prop_assert_eq!(&decision.record, &case.record);
        }
        if case.record.is_at_rest() && !decision.record.is_at_rest() {
            prop_assert!(case.facts.marked);
        }
    }

    #[test]
    fn a_success_lacks_nothing_and_a_failure_has_a_reason(case in cases()) {
        let decision = case.decide();
        if case.record.state == State::Deleting {
            if decision.has(&Effect::Bury) {
                return Ok(());
            }
            if ended(&case, &decision) == Some(OperationState::Failed) {
                prop_assert!(case.now >= case.record.operation.as_ref().unwrap().deadline);
            }
            return Ok(());
        }
        let Some(operation) = &case.record.operation else {
            prop_assert_eq!(&decision.record.last_operation, &case.record.last_operation);
            return Ok(());
        };
        match ended(&case, &decision) {
            Some(OperationState::Succeeded) => {
                for one in missing(&case, &decision) {
                    let excused = match one {
                        Shortcoming::NotGone { out_of_reach, .. } => {
                            out_of_reach || operation.kind == OperationKind::Provision
                        }
                        _ => false,
                    };
                    prop_assert!(excused, "{}", one);
                }
                prop_assert_eq!(staying(&decision.record), usize::try_from(case.record.node_count).unwrap());
                let cells = &decision.record.cells;
                let elsewhere = decision.record.staying().find(|(_, node)| {
                    cells.as_ref().is_some_and(|cells| !cells.contains(&node.cell))
                });
                prop_assert_eq!(elsewhere, None);
            }
            Some(OperationState::Failed) => {
                let exhausted = case.facts.port == PortFact::Exhausted && decision.record.port.owned().is_none();
                prop_assert!(case.now >= operation.deadline || exhausted);
            }
            Some(OperationState::InProgress) => prop_assert!(false, "ended in progress"),
            None => {
                let asks = |effect: &Effect| {
                    matches!(
                        effect,
                        Effect::Prepare
                            | Effect::AskReplication
                            | Effect::AskSettings
                            | Effect::ChangePasswords
                            | Effect::RestoreLogins
                    )
                };
                prop_assert!(case.now < operation.deadline || decision.effects.iter().any(asks));
                prop_assert_eq!(decision.record.operation.as_ref().map(|o| o.id), Some(operation.id));
                prop_assert_eq!(&decision.record.last_operation, &case.record.last_operation);
            }
        }
        if let Some(last) = decision.record.last_operation.as_ref().filter(|_| decision.record.operation.is_none()) {
            prop_assert_eq!((last.id, last.kind, last.ended), (operation.id, operation.kind, Some(case.now)));
        }
    }

    #[test]
    fn the_leadership_goes_from_one_that_leaves_or_is_to_be_restarted_to_one_that_streams(case in cases()) {
        let decision = case.decide();
        let lame: Vec<NodeId> = missing(&case, &decision).into_iter().filter_map(|one| match one {
            Shortcoming::NotRunning { node, .. } | Shortcoming::NotStreaming { node, .. } => Some(node),
            _ => None,
        }).collect();
        for effect in &decision.effects {
            let Effect::Switchover { leader, candidate } = effect else { continue };
            prop_assert_eq!(Some(leader), case.cluster.leader.as_ref());
            let fitting = fitting(&case, &decision);
            let pending = |one: &Shortcoming| {
                matches!(one, Shortcoming::RestartPending { node, .. } if node.to_string() == *leader)
            };
            let is_pending = missing(&case, &decision).iter().any(pending);
            prop_assert!(is_pending || fitting.iter().all(|id| id.to_string() != *leader));
            let candidate: NodeId = candidate.parse().unwrap();
            prop_assert!(fitting.contains(&candidate));
            prop_assert!(!lame.contains(&candidate));
        }
    }

    #[test]
    fn one_node_at_a_time_is_restarted_that_needs_it_while_all_others_are_sound(case in cases()) {
        let decision = case.decide();
        let restarts: Vec<NodeId> = decision.effects.iter().filter_map(|effect| match effect {
            Effect::Restart { node, .. } => Some(*node),
            _ => None,
        }).collect();
        prop_assert!(restarts.len() <= 1);
        let hands_over = decision.effects.iter().any(|effect| matches!(effect, Effect::Switchover { .. }));
        for node in restarts {
            prop_assert!(!hands_over);
            prop_assert!(decision.record.operation.is_some());
            let missing = missing(&case, &decision);
            let is_pending = |one: &Shortcoming| matches!(one, Shortcoming::RestartPending { node: due, .. } if *due == node);
            prop_assert!(missing.iter().any(is_pending));
            let sound = shortcomings::sound(&decision.record, &case.situation());
            prop_assert_eq!(sound.len(), staying(&decision.record));
            // Where others could take over, the leader goes first only for what must not be more on a standby.
            let settings = case.facts.settings.as_ref().unwrap();
            let limit = |id: &NodeId| settings[id].limits["max_connections"];
            prop_assert!(!case.cluster.is_led_by(node) || staying(&decision.record) == 1 || limit(&node) > 200);
            // A replica that is too small for what comes is never behind the leader.
            let too_small = |id: &NodeId| settings[id].pending && limit(id) < 200;
            let mut replicas = decision.record.staying().map(|(id, _)| id).filter(|id| !case.cluster.is_led_by(*id));
            prop_assert!(!case.cluster.is_led_by(node) || !replicas.any(|id| too_small(&id)));
        }
    }

    #[test]
    fn settings_are_known_only_of_nodes_that_have_all_said_so(case in cases()) {
        let (before, after) = (&case.record.settings, case.decide().record.settings);
        if after.is_some() && after != *before {
            let settings = case.facts.settings.as_ref().unwrap();
            for (id, _) in case.decide().record.staying() {
                prop_assert_eq!(Some(&settings[&id].version), after.as_ref());
                prop_assert!(!settings[&id].pending);
            }
        }
    }

    #[test]
    fn effects_are_about_nodes_of_the_record(case in cases()) {
        let decision = case.decide();
        for effect in &decision.effects {
            match effect {
                Effect::Start(node) | Effect::Remove(node) | Effect::Project(node) => {
                    prop_assert!(decision.record.nodes.contains_key(node));
                }
                Effect::Forget(nodes) => {
                    prop_assert!(nodes.iter().all(|node| decision.record.retired.contains(node)));
                }
                _ => {}
            }
        }
        let distinct: BTreeSet<String> = decision.effects.iter().map(|effect| format!("{effect:?}")).collect();
        prop_assert_eq!(distinct.len(), decision.effects.len(), "an effect is called for twice");
    }
}

/// The strategies are worth nothing if they never lead to what the properties are about.
#[test]
fn every_kind_of_effect_and_end_comes_up() {
    use proptest::{
        strategy::{Strategy, ValueTree},
        test_runner::TestRunner,
    };
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..12_000 {
        let case = cases().new_tree(&mut runner).unwrap().current();
        let decision = case.decide();
        for effect in &decision.effects {
            let name = format!("{effect:?}");
            seen.insert(name.split(['(', ' ']).next().unwrap().to_owned());
        }
        if let Some(state) = ended(&case, &decision) {
            seen.insert(format!("{state:?}"));
        }
        if case.record.operation.is_none() && !new_nodes(&case, &decision).is_empty() {
            seen.insert("replacement of a lost node".to_owned());
        }
        if decision.record.bootstrapped
            && !decision.removes().is_empty()
            && case.record.state == State::Active
        {
            seen.insert("Remove of a cluster that stood".to_owned());
        }
    }
    for name in [
        "ListCells",
        "ClaimPort",
        "Allocate",
        "Project",
        "Start",
        "Remove",
        "Forget",
        "Prepare",
        "RestoreLogins",
        "ChangePasswords",
        "LeavePlan",
        "AskReplication",
        "Configure",
        "AskSettings",
        "Restart",
        "Switchover",
        "ReleasePort",
        "DropBindings",
        "ClearScope",
        "Bury",
        "Unmark",
        "Succeeded",
        "Failed",
        "Remove of a cluster that stood",
        "replacement of a lost node",
        "Mark",
    ] {
        assert!(seen.contains(name), "{name} never came up");
    }
}
