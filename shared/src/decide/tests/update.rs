//! Growing, shrinking and moving an instance that stands.

use std::collections::BTreeMap;

use super::fixture::{Case, DEADLINE, at, cell, cells, guid, member, node};
use crate::{
    cluster::{Cluster, Member},
    effect::Effect,
    record::{OperationState, Phase},
};

/// Three nodes, of which the third is on its way out and will not become the leader.
fn shrinking() -> Case {
    Case::update(3, 2).phase(3, Phase::Leaving).passed_over(3)
}

#[test]
fn growing_adds_nodes_on_other_cells_at_once() {
    let decision = Case::update(2, 4).decide();
    let new: Vec<_> = decision
        .record
        .nodes
        .keys()
        .copied()
        .filter(|id| ![node(1), node(2)].contains(id))
        .collect();
    assert_eq!(new.len(), 2);
    assert_eq!(decision.starts(), new);
    assert_eq!(decision.removes(), []);
    let zones: Vec<_> = decision
        .record
        .nodes
        .values()
        .map(|node| node.availability_zone.as_str())
        .collect();
    assert!(["z1", "z2", "z3"].iter().all(|zone| zones.contains(zone)));
}

#[test]
fn growing_succeeds_when_all_stream() {
    let case = Case::update(2, 3).with_node(3, &cell("c3", "z3"), Phase::Assigned);
    assert_eq!(
        case.clone().streams(3).decide().told(),
        (
            OperationState::Succeeded,
            "master running; replicas running, running"
        )
    );
    let starting = case.publishes(3, member("starting", "replica"));
    let told = "master running; replicas running, starting";
    assert_eq!(starting.decide().told(), (OperationState::InProgress, told));
}

#[test]
fn nothing_is_placed_or_started_where_nobody_leads() {
    // One node is lost, and an update has found room for another.
    let lost = |count: u32| {
        let mut case = Case::update(count, count + 1).leaderless();
        for n in 1..=count.into() {
            case = case.silent(n);
        }
        case.after(100)
    };
    for (why, case) in [
        ("the only one is silent", lost(1)),
        ("all are silent", lost(2)),
        (
            "etcd knows nothing of it",
            lost(1).with(|case| case.cluster = Cluster::default()),
        ),
        (
            "a stranger leads",
            lost(1).with(|case| case.cluster.leader = Some("stranger".to_owned())),
        ),
        (
            "one that was placed earlier waits for its data",
            lost(1).with_node(2, &cell("c2", "z2"), Phase::Assigned),
        ),
        (
            "the leader's key has outlived it",
            lost(1).with(|case| case.cluster.leader = Some(node(1).to_string())),
        ),
    ] {
        let decision = case.decide();
        assert_eq!(decision.record.nodes, case.record.nodes, "{why}");
        assert_eq!(decision.starts(), [], "{why}");
        let overdue = case.after(DEADLINE + 1).decide();
        assert_eq!(overdue.told().0, OperationState::Failed, "{why}");
    }
    // It goes on when a leader is back.
    let back = lost(1).led_by(1).decide();
    assert_eq!((back.record.nodes.len(), back.starts().len()), (2, 1));
    let back = lost(1).led_by(1).with_node(2, &cell("c2", "z2"), Phase::Assigned);
    assert_eq!(back.decide().starts(), [node(2)]);
}

#[test]
fn shrinking_lets_one_replica_leave_at_a_time() {
    let case = Case::update(4, 1);
    let decision = case.decide();
    assert_eq!(decision.leaving().len(), 1);
    assert_ne!(decision.leaving(), [node(1)]);
    assert_eq!(case.next().decide().leaving(), decision.leaving());
}

#[test]
fn the_leader_is_not_the_one_to_leave() {
    for leader in 1..=3 {
        let mut case = Case::update(3, 2).led_by(leader);
        for other in (1..=3).filter(|other| *other != leader) {
            case = case.streams(other);
        }
        let decision = case.decide();
        assert_eq!(decision.leaving().len(), 1);
        assert_ne!(decision.leaving(), [node(leader)]);
    }
}

#[test]
fn nobody_leaves_while_nobody_leads() {
    assert_eq!(Case::update(3, 2).leaderless().decide().leaving(), []);
    let demoted = Case::update(3, 2).publishes(1, member("running", "replica"));
    assert_eq!(demoted.decide().leaving(), []);
}

#[test]
fn the_one_that_does_not_run_leaves_first_then_one_of_the_fullest_zone() {
    let lame = Case::update(3, 2).publishes(2, member("stopped", "replica"));
    assert_eq!(lame.decide().leaving(), [node(2)]);
    // c1 and c4 share a zone.
    assert_eq!(Case::update(4, 3).decide().leaving(), [node(4)]);
    let led_by_4 = Case::update(4, 3).streams(1).led_by(4);
    assert_eq!(led_by_4.decide().leaving(), [node(1)]);
}

#[test]
fn a_node_goes_only_after_patroni_passes_it_over() {
    let told_to_leave = Case::update(3, 2).phase(3, Phase::Leaving);
    let decision = told_to_leave.decide();
    assert_eq!(decision.removes(), []);
    // Its cell is nudged, so that it sets the tag at once.
    assert_eq!(decision.starts(), [node(3)]);
    let passed_over = shrinking().decide();
    assert_eq!(
        (passed_over.removes(), passed_over.starts()),
        (vec![node(3)], vec![])
    );
    // A node that does not take part cannot win an election either.
    assert_eq!(shrinking().silent(3).decide().removes(), [node(3)]);
}

#[test]
fn a_node_goes_only_while_the_others_stream() {
    let behind = Member {
        replication_state: Some("in archive recovery".to_owned()),
        ..member("running", "replica")
    };
    let strayed = Member {
        timeline: Some(9),
        replication_state: Some("streaming".to_owned()),
        ..member("running", "replica")
    };
    for (why, case) in [
        ("no leader", shrinking().leaderless()),
        (
            "the other is stopped",
            shrinking().publishes(2, member("stopped", "replica")),
        ),
        ("the other is silent", shrinking().silent(2)),
        ("the other is behind", shrinking().publishes(2, behind)),
        (
            "the other is on another timeline",
            shrinking().publishes(2, strayed),
        ),
        (
            "it leads",
            shrinking().with(|case| case.cluster.leader = Some(node(3).to_string())),
        ),
    ] {
        assert_eq!(case.decide().removes(), [], "{why}");
    }
}

#[test]
fn where_patroni_does_not_say_who_streams_the_leader_is_asked_before_a_node_goes() {
    let patroni_3 = shrinking().publishes(2, member("running", "replica"));
    let decision = patroni_3.decide();
    assert_eq!(decision.removes(), []);
    assert!(decision.has(&Effect::AskReplication));
    let answered = patroni_3.clone().with(|case| {
        case.facts.replication = Some(BTreeMap::from([(node(2).to_string(), "streaming".to_owned())]));
    });
    assert_eq!(answered.decide().removes(), [node(3)]);
    // Also when the operation has ended meanwhile.
    let idle = patroni_3.idle().decide();
    assert_eq!(
        (idle.removes(), idle.effects),
        (vec![], vec![Effect::AskReplication])
    );
}

#[test]
fn a_node_that_is_gone_is_retired_and_tidied_up_after() {
    let gone = shrinking().with(|case| {
        case.facts.removed.insert(node(3));
    });
    let decision = gone.decide();
    assert_eq!(decision.record.retired, [node(3)]);
    assert!(decision.has(&Effect::Forget(vec![node(3)])));
    assert!(decision.has(&Effect::SweepProjections));
    assert_eq!(
        decision.told(),
        (OperationState::Succeeded, "master running; replicas running")
    );
    assert_eq!(decision.effects.last(), Some(&Effect::Unmark));
}

#[test]
fn only_a_node_that_leaves_can_be_gone() {
    let case = Case::update(3, 3).with(|case| {
        case.facts.removed.insert(node(3));
    });
    assert_eq!(case.decide().record.nodes, case.record.nodes);
}

#[test]
fn a_leader_that_leaves_hands_over_to_one_that_streams() {
    // A move: node 1 leaves, node 3 has come for it.
    let moving = Case::update(3, 2).phase(1, Phase::Leaving);
    let to_2 = Effect::Switchover {
        leader: node(1).to_string(),
        candidate: node(2).to_string(),
    };
    let decision = moving.decide();
    assert!(decision.has(&to_2));
    assert_eq!(decision.removes(), []);

    let lame = moving.clone().publishes(2, member("starting", "replica"));
    let to_3 = Effect::Switchover {
        leader: node(1).to_string(),
        candidate: node(3).to_string(),
    };
    assert!(lame.decide().has(&to_3));

    let nobody = lame.publishes(3, member("running", "replica"));
    let switches = |effect: &Effect| matches!(effect, Effect::Switchover { .. });
    assert!(!nobody.decide().effects.iter().any(switches));

    // Nobody else goes meanwhile either.
    let two = moving.clone().phase(3, Phase::Leaving).passed_over(3);
    assert_eq!(two.decide().removes(), []);

    let handed_over = moving.led_by(2).passed_over(1);
    let decision = handed_over.decide();
    assert!(!decision.effects.iter().any(switches));
    assert_eq!(decision.removes(), [node(1)]);
}

#[test]
fn an_update_that_takes_too_long_says_what_is_missing() {
    let case = shrinking().after(DEADLINE).with(|case| {
        let reason = "cell c3 cannot be reached".to_owned();
        case.facts.not_removed.insert(node(3), reason);
    });
    let told = format!(
        "not finished in time: node {} on cell c3 is not removed: cell c3 cannot be reached. \
         Send the request again to go on with it.",
        node(3)
    );
    let decision = case.decide();
    assert_eq!(decision.told(), (OperationState::Failed, told.as_str()));
    assert_eq!(decision.record.operation, None);
    assert_eq!(
        decision.record.last_operation.as_ref().unwrap().ended,
        Some(at(DEADLINE))
    );
    // What leaves goes on leaving.
    assert_eq!(case.next().decide().removes(), [node(3)]);
}

#[test]
fn growing_stays_within_the_cells_asked_for() {
    let case = Case::update(2, 3).with(|case| {
        case.record.cells = Some(vec![guid("c1"), guid("c2"), guid("c6")]);
        case.facts.cells = Some(cells(6));
    });
    let decision = case.decide();
    let used: Vec<_> = decision
        .record
        .nodes
        .values()
        .map(|node| node.cell.as_str())
        .collect();
    assert!(used.contains(&"c6") && used.len() == 3);
}
