//! Asking cells to run nodes, and what follows from their answers.

use super::fixture::{Case, cells, guid, member, node};
use crate::{
    cluster::Member,
    effect::{Effect, StartAnswer},
    record::{OperationState, Phase},
};

fn refused() -> StartAnswer {
    StartAnswer::Refused("cell c1 cannot be reached".to_owned())
}

fn unclear() -> StartAnswer {
    StartAnswer::Unclear("cell c1 did not answer".to_owned())
}

/// Node 1 of 2 was asked for, with this answer.
fn answered(answer: StartAnswer) -> Case {
    Case::assigned(2).with(|case| {
        case.facts.started.insert(node(1), answer);
    })
}

#[test]
fn others_ask_again_after_five_seconds_of_silence() {
    for (seconds, asked) in [
        (0, vec![]),
        (4, vec![]),
        (5, vec![node(1), node(2)]),
        (50, vec![node(1), node(2)]),
    ] {
        assert_eq!(
            Case::assigned(2).after(seconds).decide().starts(),
            asked,
            "{seconds}"
        );
    }
}

#[test]
fn a_node_that_reports_to_patroni_is_its_cells_business() {
    for state in ["stopped", "starting", "creating replica", "start failed"] {
        let case = Case::assigned(2)
            .publishes(1, member(state, "uninitialized"))
            .after(50);
        assert_eq!(case.decide().starts(), [node(2)], "{state}");
    }
}

#[test]
fn a_node_that_fell_silent_is_asked_for_again() {
    assert_eq!(Case::standing(2).silent(2).after(50).decide().starts(), [node(2)]);
}

#[test]
fn a_refusal_is_answered_by_a_look_for_other_cells() {
    let decision = answered(refused()).decide();
    assert!(decision.has(&Effect::ListCells));
    assert_eq!(decision.leaving(), []);
}

#[test]
fn a_node_that_was_refused_is_given_up_for_one_on_another_cell() {
    let case = answered(refused()).with(|case| case.facts.cells = Some(cells(3)));
    let decision = case.decide();
    assert_eq!(decision.leaving(), [node(1)]);
    assert_eq!(decision.removes(), [node(1)]);
    let new: Vec<_> = decision
        .record
        .nodes
        .iter()
        .filter(|(id, _)| !case.record.nodes.contains_key(id))
        .collect();
    let [(id, placed)] = new[..] else {
        panic!("{new:?}")
    };
    assert_eq!((placed.cell.as_str(), placed.phase), ("c3", Phase::Assigned));
    assert_eq!(decision.starts(), [*id]);
}

#[test]
fn without_another_cell_the_same_one_is_asked_again() {
    let case = answered(refused()).with(|case| case.facts.cells = Some(cells(2)));
    let decision = case.decide();
    assert_eq!(decision.record.nodes, case.record.nodes);
    let overdue = case.after(5).decide();
    assert_eq!(overdue.starts(), [node(1), node(2)]);
    assert_eq!(overdue.record.nodes, decision.record.nodes);
}

#[test]
fn without_another_cell_for_each_none_is_given_up() {
    let case = answered(refused()).with(|case| {
        case.facts.started.insert(node(2), refused());
        case.facts.cells = Some(cells(3));
    });
    assert_eq!(case.decide().leaving(), []);
}

#[test]
fn another_cell_must_be_among_those_asked_for() {
    let case = answered(refused()).with(|case| {
        case.record.cells = Some(vec![guid("c1"), guid("c2")]);
        case.facts.cells = Some(cells(6));
    });
    assert_eq!(case.decide().leaving(), []);
}

#[test]
fn nobody_knows_is_no_reason_to_give_a_node_up() {
    let case = answered(unclear()).with(|case| case.facts.cells = Some(cells(6)));
    assert_eq!(case.decide().leaving(), []);
}

#[test]
fn a_node_that_ran_is_not_given_up_for_a_refusal() {
    let case = Case::standing(2).silent(2).with(|case| {
        case.facts.started.insert(node(2), refused());
        case.facts.cells = Some(cells(6));
    });
    assert_eq!(case.decide().leaving(), []);
}

#[test]
fn a_node_that_was_given_up_does_not_keep_a_provision_from_success() {
    // Its cell is down, so nobody can confirm that it is gone.
    let case = Case::standing(3)
        .phase(1, Phase::Leaving)
        .silent(1)
        .led_by(2)
        .with(|case| case.record.node_count = 2);
    assert_eq!(case.decide().told().0, OperationState::Succeeded);
    // But in an update it does.
    let update = case.with(|case| {
        case.record.operation.as_mut().unwrap().kind = crate::record::OperationKind::Update;
    });
    assert_eq!(update.decide().told().0, OperationState::InProgress);
}

#[test]
fn a_running_member_makes_its_node_running_for_good() {
    let case = Case::assigned(2).publishes(1, member("running", "replica"));
    let decision = case.decide();
    assert_eq!(
        (decision.phase(1), decision.phase(2)),
        (Some(Phase::Running), Some(Phase::Assigned))
    );
    assert!(decision.has(&Effect::Project(node(1))));
    let crashed = case.next().publishes(1, member("crashed", "replica"));
    assert_eq!(crashed.decide().phase(1), Some(Phase::Running));
}

#[test]
fn other_members_of_the_scope_are_nobodys_node() {
    let stranger = Member {
        replication_state: Some("streaming".to_owned()),
        ..member("running", "replica")
    };
    let case = Case::assigned(2).publishes(77, stranger);
    assert_eq!(case.decide().record.nodes, case.record.nodes);
}
