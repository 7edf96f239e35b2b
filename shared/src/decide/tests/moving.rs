//! Moving a cluster that stands to other cells.

use super::fixture::{Case, cell, guid, member, node};
use crate::{
    effect::Effect,
    record::{OperationState, Phase, Record},
};

/// Two nodes on `c1` (leads) and `c2` that shall live on these cells.
fn to(names: &[&str]) -> Case {
    Case::update(2, 2).with(|case| case.record.cells = Some(names.iter().map(|name| guid(name)).collect()))
}

/// The same when nodes 3 and 4 have come to `c3` and `c4`, and were asked for.
fn grown() -> Case {
    to(&["c3", "c4"])
        .with_node(3, &cell("c3", "z3"), Phase::Running)
        .with_node(4, &cell("c4", "z1"), Phase::Running)
}

fn both_stream() -> Case {
    grown().streams(3).streams(4)
}

fn used(record: &Record) -> Vec<&str> {
    let mut cells: Vec<_> = record.staying().map(|(_, node)| node.cell.as_str()).collect();
    cells.sort_unstable();
    cells
}

fn hands_over(case: &Case) -> bool {
    let switches = |effect: &Effect| matches!(effect, Effect::Switchover { .. });
    case.decide().effects.iter().any(switches)
}

#[test]
fn a_move_first_grows_on_the_wanted_cells() {
    let decision = to(&["c3", "c4"]).decide();
    assert_eq!(used(&decision.record), ["c1", "c2", "c3", "c4"]);
    assert_eq!(decision.starts().len(), 2);
    assert_eq!((decision.leaving(), decision.removes()), (vec![], vec![]));
    // What is there already counts.
    assert_eq!(used(&to(&["c2", "c5"]).decide().record), ["c1", "c2", "c5"]);
    assert_eq!(used(&to(&["c1", "c2", "c6"]).decide().record), ["c1", "c2"]);
}

#[test]
fn nobody_leaves_and_nobody_hands_over_before_all_new_ones_stream() {
    for (why, case) in [
        ("both are silent", grown()),
        ("one is silent", grown().streams(3)),
        (
            "one does not stream",
            grown().streams(3).publishes(4, member("running", "replica")),
        ),
    ] {
        assert_eq!(case.decide().leaving(), [], "{why}");
        assert!(!hands_over(&case), "{why}");
    }
}

#[test]
fn the_leader_hands_over_to_a_new_one_by_name_and_does_not_leave_before() {
    let decision = both_stream().decide();
    let switchover = Effect::Switchover {
        leader: node(1).to_string(),
        candidate: node(3).to_string(),
    };
    assert!(decision.has(&switchover));
    assert_eq!(decision.leaving(), [node(2)]);
    assert_eq!(
        decision.record.operation.unwrap().state,
        OperationState::InProgress
    );
    let only_the_leader = both_stream().with(|case| {
        case.record.nodes.remove(&node(2));
    });
    assert!(hands_over(&only_the_leader));
    assert_eq!(only_the_leader.decide().leaving(), []);
}

#[test]
fn in_synchronous_mode_the_standby_takes_over() {
    let synchronous = |n| both_stream().with(|case| case.cluster.synchronous = vec![node(n).to_string()]);
    assert!(synchronous(4).decide().has(&Effect::Switchover {
        leader: node(1).to_string(),
        candidate: node(4).to_string(),
    }));
    // Patroni chooses another when this one, which leaves, has gone.
    assert!(!hands_over(&synchronous(2)));
    assert_eq!(synchronous(2).decide().leaving(), [node(2)]);
}

#[test]
fn a_move_ends_when_nobody_is_elsewhere() {
    let handed_over = both_stream().streams(1).led_by(3);
    let decision = handed_over.decide();
    assert!(!hands_over(&handed_over));
    assert_eq!(decision.leaving().len(), 1);
    let moved = handed_over.with(|case| {
        for n in [1, 2] {
            case.record.nodes.remove(&node(n));
            case.record.retired.push(node(n));
            case.cluster.members.remove(&node(n).to_string());
        }
    });
    assert_eq!(moved.decide().told().0, OperationState::Succeeded);
    let with_one_to_go = moved.with_node(2, &cell("c2", "z2"), Phase::Leaving);
    assert_eq!(with_one_to_go.decide().told().0, OperationState::InProgress);
}

#[test]
fn the_number_of_nodes_may_change_at_once() {
    let more = to(&["c3", "c4", "c5"]).with(|case| case.record.node_count = 3);
    assert_eq!(used(&more.decide().record), ["c1", "c2", "c3", "c4", "c5"]);
    let fewer = both_stream().with(|case| {
        case.record.node_count = 1;
        case.record.nodes.remove(&node(4));
        case.cluster.members.remove(&node(4).to_string());
    });
    assert!(hands_over(&fewer));
    assert_eq!(fewer.decide().leaving(), [node(2)]);
    let less = to(&["c2"]).with(|case| case.record.node_count = 1);
    assert!(hands_over(&less));
    assert_eq!(
        less.decide().leaving(),
        [],
        "the leader stays until it has handed over"
    );
}

#[test]
fn a_move_that_was_given_up_goes_on_but_takes_no_new_node() {
    let given_up = both_stream().idle();
    assert!(hands_over(&given_up));
    assert_eq!(given_up.decide().leaving(), [node(2)]);
    let not_grown = to(&["c3", "c4"]).idle();
    assert_eq!(not_grown.decide().record, not_grown.record);
}
