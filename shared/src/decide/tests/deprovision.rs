//! Taking an instance away, in order, from whatever stage.

use std::num::NonZeroU64;

use super::fixture::{Case, DEADLINE, at, node, operation, port};
use crate::{
    cluster::Cluster,
    decide::Decision,
    effect::Effect,
    record::{OperationKind, OperationState, Phase, PortClaim, State},
};

/// All nodes are gone; the port is owned, Patroni's keys are there.
fn without_nodes() -> Case {
    Case::deprovision(2)
        .with(|case| {
            let leaf = ("/service/f1/config".to_owned(), NonZeroU64::MIN);
            case.cluster.leaves.push(leaf);
            case.cluster.directories.push("/service/f1/members".to_owned());
            case.facts.removed.extend([node(1), node(2)]);
        })
        .next()
}

fn without_port() -> Case {
    without_nodes()
        .with(|case| case.facts.port_released = true)
        .next()
}

fn without_bindings() -> Case {
    without_port().with(|case| case.facts.bindings_dropped = true)
}

/// Patroni's keys were cleared at 10 s, and are gone.
fn cleared() -> Case {
    let case = without_bindings().after(10).next();
    assert_eq!(case.record.scope_cleared, Some(at(10)));
    case.with(|case| case.cluster = Cluster::default())
}

fn buries(decision: &Decision) -> bool {
    decision.has(&Effect::Bury)
}

#[test]
fn cells_are_asked_first_and_nothing_else_is_done_before_all_have_confirmed() {
    let case = Case::deprovision(2);
    let remove = |n| Effect::Remove(node(n));
    let decision = case.decide();
    assert_eq!(decision.effects, [remove(1), remove(2)]);
    assert_eq!(
        decision.told(),
        (OperationState::InProgress, "removing nodes: 0 of 2 gone")
    );

    let half = case.with(|case| {
        case.facts.removed.insert(node(1));
    });
    let decision = half.decide();
    assert_eq!(decision.effects, [remove(2)]);
    assert_eq!(decision.record.retired, [node(1)]);
    assert_eq!(
        decision.told(),
        (OperationState::InProgress, "removing nodes: 1 of 2 gone")
    );
}

#[test]
fn nodes_that_were_gone_before_are_not_counted() {
    let shrunk = Case::deprovision(2).with(|case| {
        case.record.retired.push(node(3));
        case.record.retired_earlier = 1;
    });
    assert_eq!(shrunk.decide().told().1, "removing nodes: 0 of 2 gone");
    let half = shrunk.with(|case| {
        case.facts.removed.insert(node(1));
    });
    assert_eq!(half.decide().told().1, "removing nodes: 1 of 2 gone");
}

#[test]
fn the_leader_goes_as_well() {
    let decision = Case::deprovision(1).decide();
    assert_eq!(decision.removes(), [node(1)]);
}

#[test]
fn it_may_come_at_any_stage() {
    for case in [
        Case::claimed(2),
        Case::assigned(2),
        Case::standing(2),
        Case::update(3, 2).phase(3, Phase::Leaving),
    ] {
        let nodes: Vec<_> = case.record.nodes.keys().copied().collect();
        let case = case.with(|case| {
            case.record.state = State::Deleting;
            case.record.operation = Some(operation(OperationKind::Deprovision));
        });
        let decision = case.decide();
        assert_eq!(decision.removes(), nodes);
        assert_eq!(decision.leaving(), nodes);
        assert_eq!(decision.starts(), []);
    }
}

#[test]
fn then_the_port_goes_also_one_that_was_only_tried() {
    let release = [Effect::ReleasePort(Some(port(30000)))];
    assert_eq!(without_nodes().decide().effects, release);
    let tried = Case::claimed(2).with(|case| case.record.state = State::Deleting);
    assert_eq!(tried.decide().effects, release);
    assert_eq!(without_port().record.port, PortClaim::Released);
}

#[test]
fn then_the_bindings_then_patronis_keys() {
    assert_eq!(without_port().decide().effects, [Effect::DropBindings]);
    let decision = without_bindings().after(10).decide();
    let clear = Effect::ClearScope {
        leaves: vec![("/service/f1/config".to_owned(), NonZeroU64::MIN)],
        directories: vec!["/service/f1/members".to_owned()],
    };
    assert_eq!(decision.effects, [clear]);
    assert_eq!(decision.record.scope_cleared, Some(at(10)));
}

#[test]
fn an_empty_scope_is_cleared_too() {
    let case = without_bindings().with(|case| {
        case.cluster.leaves.clear();
        case.cluster.directories.clear();
        assert!(case.cluster.exists);
    });
    let clear = Effect::ClearScope {
        leaves: vec![],
        directories: vec![],
    };
    assert_eq!(case.decide().effects, [clear]);
}

#[test]
fn patronis_keys_are_looked_at_again_after_a_loop() {
    for (seconds, over) in [(10, false), (11, false), (12, true), (100, true)] {
        let decision = cleared().after(seconds).decide();
        assert_eq!(buries(&decision), over, "{seconds}");
        if !over {
            assert_eq!(decision.effects, []);
            assert_eq!(decision.told().0, OperationState::InProgress);
        }
    }
}

#[test]
fn a_key_that_was_written_meanwhile_is_cleared_and_looked_at_again() {
    let case = cleared().after(20).with(|case| {
        let leaf = ("/service/f1/status".to_owned(), NonZeroU64::MIN);
        case.cluster.leaves.push(leaf);
        case.cluster.exists = true;
    });
    let decision = case.decide();
    assert!(!buries(&decision));
    assert_eq!(decision.record.scope_cleared, Some(at(20)));
    let again = case.next().with(|case| case.cluster = Cluster::default());
    assert!(!buries(&again.clone().after(21).decide()));
    assert!(buries(&again.after(22).decide()));
}

#[test]
fn the_record_goes_last_and_the_operation_has_succeeded() {
    let decision = cleared().after(12).decide();
    assert_eq!(decision.effects, [Effect::Bury]);
    assert_eq!(
        decision.told(),
        (OperationState::Succeeded, "removing nodes: 2 of 2 gone")
    );
    assert_eq!(decision.record.state, State::Deleting);
    assert_eq!(decision.record.retired, [node(1), node(2)]);
}

#[test]
fn without_anything_of_patroni_there_is_nothing_to_wait_for() {
    let case = without_bindings().with(|case| case.cluster = Cluster::default());
    assert!(buries(&case.decide()));
}

#[test]
fn at_the_deadline_it_is_reported_as_failed_but_goes_on() {
    let late = Case::deprovision(2).after(DEADLINE).with(|case| {
        case.facts.removed.insert(node(1));
        case.facts
            .not_removed
            .insert(node(2), "cell c2 cannot be reached".to_owned());
    });
    let told = format!(
        "removing nodes: 1 of 2 gone; node {} on cell c2: cell c2 cannot be reached. The data of a cell that cannot \
         be reached is not given up: the removal goes on when the cell is back.",
        node(2)
    );
    let decision = late.decide();
    assert_eq!(decision.told(), (OperationState::Failed, told.as_str()));
    assert_eq!(decision.removes(), [node(2)]);

    let next = late.next();
    assert_eq!(next.decide().removes(), [node(2)]);
    let back = next.with(|case| {
        case.facts.removed.insert(node(2));
    });
    assert_eq!(back.decide().effects, [Effect::ReleasePort(Some(port(30000)))]);
    // In the end it has succeeded.
    let end = back
        .with(|case| {
            case.facts.port_released = true;
            case.facts.bindings_dropped = true;
            case.cluster = Cluster::default();
        })
        .decide();
    assert!(buries(&end));
    assert_eq!(
        end.told(),
        (OperationState::Succeeded, "removing nodes: 2 of 2 gone")
    );
}

#[test]
fn the_outcome_stays_the_same_when_the_last_step_is_repeated() {
    let decision = cleared().after(12).next().later(5).decide();
    assert_eq!(decision.effects, [Effect::Bury]);
    assert_eq!(decision.told().0, OperationState::Succeeded);
}

#[test]
fn a_provision_that_was_taken_back_stays_failed() {
    let case = cleared().after(12).with(|case| {
        let mut failed = operation(OperationKind::Provision);
        failed.state = OperationState::Failed;
        case.record.operation = None;
        case.record.last_operation = Some(failed);
    });
    let decision = case.decide();
    assert!(buries(&decision));
    assert_eq!(decision.told().0, OperationState::Failed);
}

#[test]
fn a_deprovision_never_fills_up_what_is_missing() {
    let case = Case::deprovision(2).with(|case| {
        case.record.node_count = 9;
        case.facts.cells = Some(super::fixture::cells(9));
        case.facts.removed.insert(node(1));
    });
    assert_eq!(case.decide().record.nodes.len(), 1);
}
