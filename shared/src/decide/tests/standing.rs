//! When a provision has succeeded, and what is done about what is still missing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fixture::{Case, DEADLINE, cells, member, node, object, plan, port};
use crate::{
    cluster::Member,
    effect::Effect,
    record::{OperationState, Phase, PortClaim},
};

const ADVICE: &str = "Delete the instance, or send the same request again to go on with it.";

/// The replica runs, but its member key does not say whether it streams: Patroni 3.
fn patroni_3() -> Case {
    Case::standing(2).publishes(2, member("running", "replica"))
}

fn seen_by_leader(state: &str) -> Option<BTreeMap<String, String>> {
    Some(BTreeMap::from([(node(2).to_string(), state.to_owned())]))
}

/// In progress, with exactly these effects.
#[track_caller]
fn assert_waits(case: &Case, effects: &[Effect]) {
    let decision = case.decide();
    assert_eq!(decision.told().0, OperationState::InProgress);
    assert_eq!(decision.effects, effects);
}

#[test]
fn a_cluster_that_is_what_was_asked_for_is_a_success() {
    for (count, told) in [
        (1, "master running"),
        (2, "master running; replicas running"),
        (4, "master running; replicas running, running, running"),
    ] {
        let decision = Case::standing(count).decide();
        assert_eq!(decision.told(), (OperationState::Succeeded, told));
        assert_eq!(
            decision.record.last_operation.as_ref().unwrap().ended,
            Some(super::fixture::at(1))
        );
        let mut effects = vec![Effect::Allocate(port(30000))];
        effects.extend((1..=count).map(|n| Effect::Project(node(n.into()))));
        effects.push(Effect::Unmark);
        assert_eq!(decision.effects, effects);
    }
}

#[test]
fn a_synchronous_plan_is_a_success_once_commits_wait_for_a_standby() {
    let synchronous = |count| {
        Case::standing(count).with(|case| {
            case.plan.insert("synchronous_mode".to_owned(), json!(true));
            case.cluster.config = Some(Value::Object(case.plan.clone()));
        })
    };
    assert_waits(&synchronous(2), &[]);
    let named = synchronous(2).with(|case| case.cluster.synchronous = vec![node(2).to_string()]);
    assert_eq!(named.decide().told().0, OperationState::Succeeded);
    // Alone, a node waits for nobody.
    assert_eq!(synchronous(1).decide().told().0, OperationState::Succeeded);
    let late = synchronous(2).after(DEADLINE + 1).decide();
    let (state, told) = late.told();
    assert_eq!(state, OperationState::Failed);
    assert!(told.contains("no synchronous standby is named"), "{told}");
}

#[test]
fn a_success_is_a_success_however_late() {
    let case = Case::standing(2).after(DEADLINE + 1);
    assert_eq!(case.decide().told().0, OperationState::Succeeded);
}

#[test]
fn a_replica_that_runs_is_not_yet_one_that_streams() {
    for state in ["", "in archive recovery", "starting"] {
        let not_yet = Member {
            replication_state: Some(state.to_owned()),
            ..member("running", "replica")
        };
        assert_waits(
            &Case::standing(2).publishes(2, not_yet),
            &[Effect::AskReplication],
        );
    }
}

#[test]
fn where_patroni_does_not_say_it_the_leader_is_asked() {
    assert_waits(&patroni_3(), &[Effect::AskReplication]);
    let streams = patroni_3().with(|case| case.facts.replication = seen_by_leader("streaming"));
    assert_eq!(streams.decide().told().0, OperationState::Succeeded);
}

#[test]
fn the_leader_is_asked_once_in_a_pass() {
    for answer in [seen_by_leader("catchup"), Some(BTreeMap::new())] {
        assert_waits(&patroni_3().with(|case| case.facts.replication = answer), &[]);
    }
}

#[test]
fn a_replica_on_another_timeline_is_no_replica() {
    for own in [0, 2, u64::MAX] {
        let strayed = Member {
            timeline: Some(own),
            replication_state: Some("streaming".to_owned()),
            ..member("running", "replica")
        };
        let case = Case::standing(2)
            .publishes(2, strayed)
            .with(|case| case.facts.replication = seen_by_leader("streaming"));
        assert_waits(&case, &[]);
    }
}

#[test]
fn without_a_leader_nothing_stands() {
    let no_key = Case::standing(2).leaderless();
    let stopped = Case::standing(2).publishes(1, member("stopped", "primary"));
    let demoted = Case::standing(2).publishes(1, member("running", "replica"));
    let unknown = Case::standing(2).with(|case| case.cluster.leader = Some("somebody".to_owned()));
    let unfinished = Case::standing(2).with(|case| case.cluster.initialize = Some(String::new()));
    let not_initialised = Case::standing(2).with(|case| case.cluster.initialize = None);
    for case in [no_key, stopped, demoted, unknown, unfinished, not_initialised] {
        let decision = case.decide();
        assert_eq!(decision.told().0, OperationState::InProgress, "{case:?}");
        assert!(!decision.has(&Effect::Prepare), "{case:?}");
    }
}

#[test]
fn every_node_must_run() {
    for state in [
        "stopped",
        "starting",
        "creating replica",
        "crashed",
        "stopping",
        "unknown",
    ] {
        assert_waits(&Case::standing(2).publishes(2, member(state, "replica")), &[]);
    }
}

#[test]
fn the_port_must_lead_to_the_leader() {
    let tried = Case::standing(2).with(|case| case.facts.prepared = Some(Err("refused".to_owned())));
    assert_waits(&tried, &[Effect::Allocate(port(30000))]);
    let untried = Case::standing(2).with(|case| case.facts.prepared = None);
    assert_waits(&untried, &[Effect::Prepare]);
}

#[test]
fn the_database_is_prepared_as_soon_as_somebody_leads() {
    let case = Case::assigned(2)
        .led_by(1)
        .publishes(2, member("creating replica", "uninitialized"));
    let decision = case.decide();
    assert!(decision.has(&Effect::Prepare));
    assert_eq!(
        decision.told(),
        (
            OperationState::InProgress,
            "master running; replicas creating replica"
        )
    );
}

#[test]
fn the_plans_settings_come_at_the_end() {
    let mut quick = plan();
    quick.insert("loop_wait".to_owned(), json!(2));
    let case = Case::standing(2).with(|case| case.cluster.config = Some(Value::Object(quick)));
    assert_waits(&case, &[Effect::Configure(object(&json!({"loop_wait": 10})))]);

    let growing = case.clone().publishes(2, member("starting", "replica"));
    assert_waits(&growing, &[]);
    // The port may come later: it depends on the router.
    let unreached = case.with(|case| case.facts.prepared = None);
    assert_waits(
        &unreached,
        &[
            Effect::Prepare,
            Effect::Configure(object(&json!({"loop_wait": 10}))),
        ],
    );
}

#[test]
fn a_node_that_cannot_be_removed_does_not_keep_the_plans_settings_from_coming() {
    let case = Case::standing(3).phase(3, Phase::Leaving).silent(3).with(|case| {
        case.record.node_count = 2;
        case.cluster.config = Some(json!({"ttl": 30, "loop_wait": 2}));
    });
    let configure = Effect::Configure(object(&json!({"loop_wait": 10})));
    assert_waits(&case, &[configure, Effect::Remove(node(3))]);
}

#[test]
fn more_nodes_than_asked_for_are_no_success() {
    // One leaves already, which a provision does not wait for; the next one has to follow.
    let case = Case::standing(3)
        .phase(3, Phase::Leaving)
        .with(|case| case.record.node_count = 1);
    assert_eq!(case.decide().told().0, OperationState::InProgress);
}

#[test]
fn patroni_is_quick_while_the_cluster_grows() {
    let growing = Case::assigned(2).led_by(1).with(|case| {
        case.facts.prepared = Some(Ok(()));
        case.cluster.config = Some(json!({"ttl": 20, "loop_wait": 10, "pause": false}));
    });
    assert_waits(
        &growing.publishes(2, member("starting", "replica")),
        &[
            Effect::Project(node(1)),
            Effect::Configure(object(&json!({"ttl": 30, "loop_wait": 2}))),
        ],
    );
}

#[test]
fn at_the_deadline_it_fails_with_what_is_missing() {
    let cases = [
        (
            Case::standing(2).publishes(2, member("starting", "replica")),
            format!(
                "not finished in time: node {} on cell c2 is starting. {ADVICE}",
                node(2)
            ),
        ),
        (
            Case::standing(2).with(|case| case.facts.prepared = Some(Err("connection refused".to_owned()))),
            format!(
                "not finished in time: the public port does not lead to the leader: connection refused. {ADVICE}"
            ),
        ),
        (
            patroni_3().with(|case| case.facts.replication = Some(BTreeMap::new())),
            format!(
                "not finished in time: node {} on cell c2 does not stream from the leader (not connected). {ADVICE}",
                node(2)
            ),
        ),
        (
            Case::standing(2).with(|case| case.cluster.config = None),
            format!("not finished in time: the plan's settings are not in force. {ADVICE}"),
        ),
        (
            Case::claimed(2),
            format!(
                "not finished in time: no public port is owned; 0 of 2 nodes are placed on cells; no leader runs. {ADVICE}"
            ),
        ),
    ];
    for (case, told) in cases {
        assert_eq!(case.decide().told().0, OperationState::InProgress);
        let decision = case.after(DEADLINE).decide();
        assert_eq!(decision.told(), (OperationState::Failed, told.as_str()));
        assert_eq!(decision.effects.last(), Some(&Effect::Unmark));
        assert_eq!(decision.starts(), []);
    }
}

#[test]
fn what_can_be_asked_is_asked_before_a_failure() {
    // No handler has looked for a long time.
    let late = |case: Case| case.after(10 * DEADLINE);
    let unasked = late(Case::standing(2).with(|case| case.facts.prepared = None));
    assert_waits(&unasked, &[Effect::Prepare]);
    let unasked = late(patroni_3());
    assert_waits(&unasked, &[Effect::AskReplication]);
    let good = late(patroni_3().with(|case| case.facts.replication = seen_by_leader("streaming")));
    assert_eq!(good.decide().told().0, OperationState::Succeeded);
}

#[test]
fn what_cannot_be_asked_does_not_put_a_failure_off() {
    let case = Case::standing(2).after(DEADLINE).with(|case| {
        case.facts.prepared = None;
        case.record.port = PortClaim::Candidate {
            port: port(30000),
            misses: 0,
        };
    });
    let decision = case.decide();
    assert_eq!(decision.told().0, OperationState::Failed);
    assert_eq!(decision.effects, [Effect::Unmark]);
}

#[test]
fn what_a_failure_leaves_to_be_removed_keeps_its_marker() {
    let failed = Case::assigned(2).phase(2, Phase::Leaving).after(DEADLINE);
    let decision = failed.decide();
    assert_eq!(decision.told().0, OperationState::Failed);
    assert!(!decision.has(&Effect::Unmark));
    // So that reconcile comes to it, and it goes on without an operation.
    let next = failed.next();
    assert_eq!(next.decide().removes(), [node(2)]);
    let gone = next.with(|case| {
        case.facts.removed.insert(node(2));
    });
    let decision = gone.decide();
    assert_eq!(decision.effects, [Effect::Forget(vec![node(2)]), Effect::Unmark]);
    assert_eq!(decision.record.retired, [node(2)]);
}

#[test]
fn what_a_success_leaves_to_be_removed_keeps_its_marker() {
    let case = Case::standing(3)
        .phase(3, Phase::Leaving)
        .with(|case| case.record.node_count = 2);
    let decision = case.decide();
    assert_eq!(decision.told().0, OperationState::Succeeded);
    assert!(!decision.has(&Effect::Unmark));
}

#[test]
fn a_failure_does_not_lose_what_was_just_found_out() {
    let case = Case::assigned(2)
        .phase(2, Phase::Leaving)
        .publishes(1, member("running", "replica"))
        .after(DEADLINE)
        .with(|case| {
            case.facts.removed.insert(node(2));
        });
    let decision = case.decide();
    assert_eq!(decision.told().0, OperationState::Failed);
    assert_eq!(
        decision.effects,
        [
            Effect::Forget(vec![node(2)]),
            Effect::Project(node(1)),
            Effect::Unmark
        ]
    );
}

#[test]
fn a_failed_operation_places_no_node_and_claims_no_port() {
    let case = Case::claimed(2)
        .with(|case| case.facts.cells = Some(cells(6)))
        .after(DEADLINE);
    let decision = case.decide();
    assert_eq!(decision.told().0, OperationState::Failed);
    assert_eq!(decision.effects, [Effect::Unmark]);
    assert!(decision.record.nodes.is_empty());
}

#[test]
fn without_an_operation_nothing_is_begun() {
    for case in [Case::claimed(2), Case::assigned(2), Case::standing(2)] {
        let decision = case.clone().idle().after(1000).decide();
        assert_eq!(decision.effects, []);
        assert_eq!(decision.record, case.idle().record);
    }
}
