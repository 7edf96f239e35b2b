//! A bootstrap that dies half-way is started over, and one that succeeded never is.

use std::num::NonZeroU64;

use super::fixture::{Case, at, cells, member, node};
use crate::{
    decide::Decision,
    effect::Effect,
    record::{OperationState, Phase},
};

/// Both nodes wait for a leader that never comes; `initialize` may be left of one that died.
fn stuck() -> Case {
    Case::assigned(2)
        .publishes(1, member("running custom bootstrap script", "uninitialized"))
        .publishes(2, member("stopped", "uninitialized"))
        .with(|case| {
            case.cluster.initialize = Some(String::new());
            case.facts.cells = Some(cells(6));
            let leaf = ("/service/f1/initialize".to_owned(), NonZeroU64::MIN);
            case.cluster.leaves.push(leaf);
        })
}

fn starts_over(decision: &Decision) -> bool {
    decision.leaving().len() == 2
}

#[test]
fn after_ninety_seconds_without_a_leader_all_nodes_go() {
    for (seconds, over) in [(1, false), (90, false), (91, true), (500, true)] {
        let decision = stuck().after(seconds).decide();
        assert_eq!(starts_over(&decision), over, "{seconds}");
        assert_eq!(decision.removes().len(), if over { 2 } else { 0 });
        assert_eq!(decision.told().0, OperationState::InProgress);
    }
}

#[test]
fn new_nodes_come_once_the_old_ones_are_gone_and_nothing_is_left_of_the_attempt() {
    let going = stuck().after(100).next();
    assert_eq!(
        (going.record.bootstrap_restarts, going.record.bootstrap_started),
        (1, at(100))
    );
    let one_gone = going.with(|case| {
        case.facts.removed.insert(node(1));
    });
    let decision = one_gone.decide();
    assert_eq!(decision.record.retired, [node(1)]);
    assert_eq!(decision.record.nodes.len(), 1);
    assert_eq!(decision.removes(), [node(2)]);

    let both_gone = one_gone.next().with(|case| {
        case.facts.removed.insert(node(2));
    });
    let decision = both_gone.decide();
    assert!(decision.record.nodes.is_empty());
    let leaves = both_gone.cluster.leaves.clone();
    let clear = Effect::ClearScope {
        leaves,
        directories: vec![],
    };
    assert!(decision.has(&clear), "{:?}", decision.effects);

    let cleared = both_gone.next().with(|case| case.cluster = Default::default());
    let decision = cleared.decide();
    assert_eq!(decision.record.nodes.len(), 2);
    assert_eq!(decision.starts().len(), 2);
    assert!(
        !decision
            .record
            .nodes
            .keys()
            .any(|id| [node(1), node(2)].contains(id))
    );
    assert_eq!(decision.record.retired, [node(1), node(2)]);
}

#[test]
fn the_second_attempt_has_ninety_seconds_of_its_own() {
    let second = stuck().after(100).with(|case| {
        case.record.bootstrap_restarts = 1;
        case.record.bootstrap_started = at(60);
    });
    assert!(!starts_over(&second.decide()));
    assert!(starts_over(&second.after(151).decide()));
}

#[test]
fn it_is_started_over_three_times_at_most() {
    for (restarts, over) in [(2, true), (3, false), (u32::MAX, false)] {
        let case = stuck()
            .after(200)
            .with(|case| case.record.bootstrap_restarts = restarts);
        assert_eq!(starts_over(&case.decide()), over, "{restarts}");
    }
}

#[test]
fn whoever_has_a_leader_is_not_started_over() {
    let case = stuck().after(500).led_by(1);
    assert_eq!(case.decide().leaving(), []);
    // Also when it is not known to run.
    let case = stuck()
        .after(500)
        .with(|case| case.cluster.leader = Some("x".to_owned()));
    assert_eq!(case.decide().leaving(), []);
}

#[test]
fn once_it_has_stood_it_is_never_started_over() {
    let stood = Case::assigned(2).led_by(1).next();
    assert!(stood.record.bootstrapped);
    let cleared = stood.clone().with(|case| case.cluster = Default::default());
    for case in [stood.leaderless(), cleared] {
        let decision = case.after(500).decide();
        assert_eq!((decision.leaving(), decision.removes()), (vec![], vec![]));
        assert!(decision.record.bootstrapped);
    }
}

#[test]
fn it_has_stood_when_a_node_of_the_record_leads_an_initialised_cluster() {
    let led = Case::assigned(2).led_by(1);
    let cases = [
        (led.clone(), true),
        (led.clone().publishes(1, member("running", "master")), true),
        // It is on its way out: another one must lead first.
        (led.clone().phase(1, Phase::Leaving), false),
        (led.clone().phase(2, Phase::Leaving), true),
        (
            led.clone()
                .with(|case| case.cluster.initialize = Some(String::new())),
            false,
        ),
        (led.clone().publishes(1, member("starting", "primary")), false),
        (led.leaderless(), false),
        (Case::assigned(2).led_by(77), false),
    ];
    for (case, stood) in cases {
        assert_eq!(case.decide().record.bootstrapped, stood, "{case:?}");
    }
}

#[test]
fn leavings_of_an_earlier_life_are_cleared_before_the_first_node() {
    let case = Case::owning(2).with(|case| {
        case.facts.cells = Some(cells(6));
        let leaf = ("/service/f1/initialize".to_owned(), NonZeroU64::MIN);
        case.cluster.leaves.push(leaf);
    });
    let decision = case.decide();
    assert!(decision.record.nodes.is_empty());
    let clears = |effect: &Effect| matches!(effect, Effect::ClearScope { .. });
    assert!(decision.effects.iter().any(clears));
}

#[test]
fn a_bootstrap_that_was_given_up_stays_given_up() {
    // All nodes were told to go; then one of them leads. Some cells may have removed theirs by now.
    let case = stuck().after(100).next().led_by(1).streams(2);
    let decision = case.decide();
    assert!(!decision.record.bootstrapped);
    assert_eq!(decision.removes(), [node(1), node(2)]);
    assert_eq!(decision.record.nodes.len(), 2);
}

#[test]
fn a_leader_that_was_given_up_hands_over_before_the_cluster_counts_as_one_that_stood() {
    // Its cell seemed to refuse it, but runs it; its cell will not let it go while it leads.
    let case = Case::assigned(3)
        .with(|case| case.record.node_count = 2)
        .phase(1, Phase::Leaving)
        .led_by(1)
        .streams(2)
        .streams(3);
    let decision = case.decide();
    let hands_over = Effect::Switchover {
        leader: node(1).to_string(),
        candidate: node(2).to_string(),
    };
    assert!(decision.has(&hands_over));
    assert_eq!(decision.told().0, OperationState::InProgress);
    let handed_over = case.led_by(2).passed_over(1);
    let decision = handed_over.decide();
    assert!(decision.record.bootstrapped);
    assert_eq!(decision.removes(), [node(1)]);
}

#[test]
fn a_clock_that_ran_backwards_starts_nothing_over() {
    let case = stuck().with(|case| case.record.bootstrap_started = at(1000));
    assert_eq!(case.after(1).decide().leaving(), []);
}
