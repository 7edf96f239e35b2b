//! Bringing an instance that stands to other settings: the order in which its nodes are restarted, and when it is done.

use serde_json::{Map, Value, json};

use super::fixture::{Case, DEADLINE, member, node, object};
use crate::{
    cluster::Member,
    database::NodeSettings,
    effect::Effect,
    record::{Failover, OperationKind, OperationState, PlanChange},
};

/// A plan with this version of its settings and so many connections.
fn plan(version: &str, connections: i64) -> Map<String, Value> {
    object(
        &json!({"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"max_connections": connections, "patroni_broker.settings": version}}}),
    )
}

/// What a node says that runs with so many connections.
fn runs(version: &str, connections: i64, pending: bool) -> NodeSettings {
    NodeSettings {
        version: version.to_owned(),
        pending,
        limits: [("max_connections".to_owned(), connections)].into(),
    }
}

/// An update of three nodes with 100 connections, 1 leads, to a plan with `wanted` ones. Patroni's configuration is the plan's, and quick.
fn changing(wanted: i64) -> Case {
    Case::update(3, 3).with(|case| {
        case.plan = plan("new", wanted);
        let mut config = case.plan.clone();
        config.insert("loop_wait".to_owned(), json!(2));
        case.cluster.config = Some(Value::Object(config));
        case.record.settings = None;
        case.facts.settings = Some((1..=3).map(|n| (node(n), runs("new", 100, true))).collect());
    })
}

impl Case {
    fn runs_with(mut self, n: u128, settings: NodeSettings) -> Self {
        self.facts.settings.as_mut().unwrap().insert(node(n), settings);
        self
    }
}

fn restart(n: u128, role: &str) -> Effect {
    Effect::Restart {
        node: node(n),
        role: role.to_owned(),
    }
}

fn hand_over(from: u128, to: u128) -> Effect {
    Effect::Switchover {
        leader: node(from).to_string(),
        candidate: node(to).to_string(),
    }
}

/// What is done to nodes.
fn steps(case: &Case) -> Vec<Effect> {
    let effects = case.decide().effects;
    let is_step = |effect: &Effect| matches!(effect, Effect::Restart { .. } | Effect::Switchover { .. });
    effects.into_iter().filter(is_step).collect()
}

#[test]
fn another_plan_is_put_into_patronis_configuration_which_is_quick_meanwhile() {
    let case = changing(200).with(|case| {
        case.cluster.config = Some(Value::Object(plan("old", 100)));
        case.record.settings = Some("old".to_owned());
        case.facts.settings = None;
    });
    let decision = case.decide();
    let patch = object(
        &json!({"loop_wait": 2, "postgresql": {"parameters": {"max_connections": 200, "patroni_broker.settings": "new"}}}),
    );
    assert!(decision.has(&Effect::Configure(patch)), "{decision:?}");
    // From here on nobody knows what the nodes run with.
    assert_eq!(decision.record.settings, None);
    assert_eq!(steps(&case), []);
}

#[test]
fn nodes_are_asked_and_none_is_restarted_before_all_have_taken_the_settings_over() {
    let unasked = changing(200).with(|case| case.facts.settings = None);
    assert!(unasked.decide().has(&Effect::AskSettings));
    assert_eq!(steps(&unasked), []);
    let one_is_behind = changing(200).runs_with(3, runs("old", 100, false));
    assert_eq!(steps(&one_is_behind), []);
    let one_is_silent = changing(200).with(|case| {
        case.facts.settings.as_mut().unwrap().remove(&node(3));
    });
    assert_eq!(steps(&one_is_silent), []);
    // The answer is there: it is not asked again in this pass.
    assert!(!one_is_silent.decide().has(&Effect::AskSettings));
}

#[test]
fn settings_that_take_no_restart_are_in_force_when_all_nodes_have_loaded_them() {
    let mut case = changing(100);
    for n in 1..=3 {
        case = case.runs_with(n, runs("new", 100, false));
    }
    let decision = case.decide();
    assert_eq!(decision.record.settings.as_deref(), Some("new"));
    // What is left is to be slow again.
    let slow = object(&json!({"loop_wait": 10}));
    assert!(decision.has(&Effect::Configure(slow)), "{decision:?}");
    let slow = case
        .next()
        .with(|case| case.cluster.config = Some(Value::Object(plan("new", 100))));
    assert_eq!(slow.decide().told().0, OperationState::Succeeded);
}

/// Replicas one by one, then the leader, by switchover.
#[test]
fn what_grows_is_restarted_replicas_first_and_the_leader_last() {
    let case = changing(200);
    assert_eq!(steps(&case), [restart(2, "replica")]);
    let case = case.runs_with(2, runs("new", 200, false));
    assert_eq!(steps(&case), [restart(3, "replica")]);
    let case = case.runs_with(3, runs("new", 200, false));
    assert_eq!(steps(&case), [hand_over(1, 2)]);
    let case = case.led_by(2).streams(1).runs_with(1, runs("new", 200, false));
    assert_eq!(steps(&case), []);
    assert_eq!(case.decide().record.settings.as_deref(), Some("new"));
}

/// A replica that were restarted before its primary would keep what that one has.
#[test]
fn what_shrinks_is_restarted_leader_first_and_where_it_is() {
    let case = changing(50);
    assert_eq!(steps(&case), [restart(1, "primary")]);
    let case = case.runs_with(1, runs("new", 50, false));
    assert_eq!(steps(&case), [restart(2, "replica")]);
    // Patroni has started it with what its primary had, since it had not heard of the change yet.
    let too_early = case.clone().runs_with(2, runs("new", 100, false));
    assert_eq!(steps(&too_early), [restart(2, "replica")]);
    let case = case.runs_with(2, runs("new", 50, false));
    assert_eq!(steps(&case), [restart(3, "replica")]);
    let case = case.runs_with(3, runs("new", 50, false));
    assert_eq!(case.decide().record.settings.as_deref(), Some("new"));
}

#[test]
fn what_grows_and_shrinks_at_once_grows_first() {
    let with_workers = |settings: NodeSettings, workers: i64| {
        let mut settings = settings;
        settings.limits.insert("max_worker_processes".to_owned(), workers);
        settings
    };
    let mut case = changing(200);
    // 16 workers run; the plan does not name them, so it wants Patroni's 8.
    for n in 1..=3 {
        case = case.runs_with(n, with_workers(runs("new", 100, true), 16));
    }
    assert_eq!(steps(&case), [restart(2, "replica")]);
    case = case.runs_with(2, with_workers(runs("new", 200, false), 16));
    assert_eq!(steps(&case), [restart(3, "replica")]);
    case = case.runs_with(3, with_workers(runs("new", 200, false), 16));
    assert_eq!(steps(&case), [restart(1, "primary")]);
    case = case.runs_with(1, with_workers(runs("new", 200, false), 8));
    assert_eq!(steps(&case), [restart(2, "replica")]);
}

#[test]
fn a_leader_alone_is_restarted_where_it_is() {
    let case = changing(200).with(|case| {
        case.record.node_count = 1;
        case.record.nodes.retain(|id, _| *id == node(1));
    });
    assert_eq!(steps(&case), [restart(1, "primary")]);
}

#[test]
fn nobody_is_restarted_while_another_node_is_not_sound() {
    let behind = Member {
        replication_state: Some("in archive recovery".to_owned()),
        ..member("running", "replica")
    };
    for (why, case) in [
        ("nobody leads", changing(200).leaderless()),
        (
            "one is stopped",
            changing(200).publishes(3, member("stopped", "replica")),
        ),
        (
            "one is restarting",
            changing(200).publishes(3, member("restarting", "replica")),
        ),
        ("one is behind", changing(200).publishes(3, behind)),
        ("one is silent", changing(200).silent(3)),
        (
            "one is to come",
            changing(200).with(|case| case.record.node_count = 4),
        ),
        (
            "one is to go",
            changing(200).phase(3, crate::record::Phase::Leaving),
        ),
        (
            "no standby is named that commits wait for",
            changing(200).with(|case| {
                case.plan.insert("synchronous_mode".to_owned(), true.into());
            }),
        ),
    ] {
        assert_eq!(steps(&case), [], "{why}");
    }
}

#[test]
fn in_synchronous_mode_the_leadership_goes_to_a_synchronous_standby() {
    let case = changing(200)
        .runs_with(2, runs("new", 200, false))
        .runs_with(3, runs("new", 200, false))
        .with(|case| {
            case.plan.insert("synchronous_mode".to_owned(), true.into());
            case.cluster.synchronous = vec![node(3).to_string()];
        });
    assert_eq!(steps(&case), [hand_over(1, 3)]);
}

#[test]
fn a_change_that_takes_too_long_says_who_is_to_be_restarted_and_leaves_the_rest_as_it_is() {
    let change = PlanChange {
        from: "p0".to_owned(),
        failover: Failover::Promote,
    };
    let case = changing(200)
        .runs_with(2, runs("new", 200, false))
        .after(DEADLINE)
        .with(|case| {
            case.record.plan_change = Some(change.clone());
            case.cluster.config.as_mut().unwrap()["loop_wait"] = json!(10);
        });
    let decision = case.decide();
    let (state, description) = decision.told();
    assert_eq!(state, OperationState::Failed);
    let open = format!(
        "node {} on cell c3 is still to be restarted for the plan's settings",
        node(3)
    );
    assert!(description.contains(&open), "{description}");
    assert!(!description.contains(&node(2).to_string()), "{description}");
    // The platform knows the plan that it came from, and nothing more is done.
    assert_eq!(
        (decision.record.known_plan(), &decision.record.plan_change),
        ("p0", &Some(change))
    );
    assert_eq!(steps(&case.next()), []);
}

#[test]
fn a_plan_counts_when_it_is_in_force() {
    let mut case = changing(100).with(|case| {
        case.record.failover = Some(Failover::Restart);
        case.record.plan_change = Some(PlanChange {
            from: "p0".to_owned(),
            failover: Failover::Promote,
        });
    });
    assert_eq!(case.decide().record.failover, Some(Failover::Restart));
    for n in 1..=3 {
        case = case.runs_with(n, runs("new", 100, false));
    }
    let done = case.with(|case| case.cluster.config = Some(Value::Object(plan("new", 100))));
    let decision = done.decide();
    assert_eq!(decision.told().0, OperationState::Succeeded);
    assert_eq!(decision.record.failover, Some(Failover::Promote));
    assert!(decision.effects.contains(&Effect::LeavePlan("p0".to_owned())));
    assert_eq!(
        (decision.record.known_plan(), &decision.record.plan_change),
        ("p", &None)
    );
}

/// The change has failed, and then every copy was lost: the cluster that is made anew has the plan's settings, but the
/// platform knows of no change.
#[test]
fn a_plan_does_not_count_because_of_an_operation_that_is_about_something_else() {
    let change = PlanChange {
        from: "p0".to_owned(),
        failover: Failover::Promote,
    };
    let mut made_anew = Case::standing(2);
    made_anew.record.operation.as_mut().unwrap().kind = OperationKind::Recreate;
    made_anew.record.plan_change = Some(change.clone());
    made_anew.facts.logins = Some(Ok(()));
    let decision = made_anew.decide();
    assert_eq!(decision.told().0, OperationState::Succeeded);
    assert_eq!(
        (decision.record.plan_change, decision.record.failover),
        (Some(change), None)
    );
}

/// A handler that stood still in a change to another plan may write that plan's settings long after it was taken back.
#[test]
fn settings_that_come_late_are_taken_back_and_changes_of_the_catalog_wait_for_an_update() {
    let at_rest = changing(200).idle().with(|case| {
        case.record.settings = Some("new".to_owned());
        case.cluster.config = Some(Value::Object(plan("late", 300)));
        case.facts.settings = None;
    });
    let patch = object(
        &json!({"postgresql": {"parameters": {"max_connections": 200, "patroni_broker.settings": "new"}}}),
    );
    assert!(at_rest.decide().has(&Effect::Configure(patch)));
    let other_catalog = at_rest.with(|case| case.record.settings = Some("older".to_owned()));
    let configures = |effect: &Effect| matches!(effect, Effect::Configure(_));
    assert!(!other_catalog.decide().effects.iter().any(configures));
    let other_timing = other_catalog.with(|case| {
        case.plan.insert("ttl".to_owned(), json!(90));
        case.plan.insert("loop_wait".to_owned(), json!(30));
    });
    assert!(!other_timing.decide().effects.iter().any(configures));
    // Nor are nodes restarted when no operation is under way.
    let pending = changing(200).idle();
    assert_eq!(steps(&pending), []);
}
