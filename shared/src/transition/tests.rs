#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;

fn operation(number: u8, kind: &str, state: &str, description: &str) -> Value {
    json!({
        "id": format!("00000000-0000-0000-0000-00000000000{number}"), "kind": kind, "state": state,
        "description": description, "started": "2026-11-23T00:00:00Z", "deadline": "2026-11-23T00:10:00Z",
    })
}

/// A record with these operations and nodes.
fn record(under_way: Value, last: Value, changes: &Value) -> Record {
    let mut record = json!({
        "schema": 1, "instance_id": "i1", "incarnation": "00000000-0000-0000-0000-0000000000aa",
        "service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "s", "parameters": {},
        "node_count": 2, "port": {"state": "candidate", "port": 30000, "misses": 0}, "nodes": {},
        "state": "active", "bootstrapped": false, "bootstrap_started": "2026-11-23T00:00:00Z",
        "master_key": "one", "credential_generation": 1,
    });
    let fields = record.as_object_mut().unwrap();
    fields.insert("operation".to_owned(), under_way);
    fields.insert("last_operation".to_owned(), last);
    fields.extend(changes.as_object().unwrap().clone());
    serde_json::from_value(record).unwrap()
}

fn steps_between(before: Option<&Record>, after: &Record) -> Vec<(u8, Step)> {
    let last = |operation: &Operation| operation.id.to_string().bytes().last().unwrap() - b'0';
    let steps = steps(before, after).into_iter();
    steps.map(|(operation, step)| (last(operation), step)).collect()
}

#[test]
fn each_change_of_an_operation_is_a_step_and_nothing_else_is() {
    let none = || Value::Null;
    let stopped = || operation(1, "provision", "in progress", "members stopped");
    let made = &record(stopped(), none(), &json!({}));
    assert_eq!(steps_between(None, made), [(1, Step::Started)]);

    let moved = &record(stopped(), none(), &json!({"bootstrapped": true}));
    assert_eq!(steps_between(Some(made), moved), [], "users see no difference");

    let running = operation(1, "provision", "in progress", "master running");
    let shown = &record(running, none(), &json!({}));
    assert_eq!(steps_between(Some(moved), shown), [(1, Step::InProgress)]);

    let ended = || operation(1, "provision", "succeeded", "master running");
    let whole = &record(none(), ended(), &json!({}));
    assert_eq!(steps_between(Some(shown), whole), [(1, Step::Succeeded)]);
    assert_eq!(steps_between(Some(whole), whole), []);

    let updated = &record(operation(2, "update", "in progress", "x"), ended(), &json!({}));
    assert_eq!(steps_between(Some(whole), updated), [(2, Step::Started)]);

    let halted = operation(2, "update", "failed", "halted by a deprovision");
    let going = operation(3, "deprovision", "in progress", "removing nodes");
    let deleting = &record(going, halted, &json!({"state": "deleting"}));
    assert_eq!(
        steps_between(Some(updated), deleting),
        [(2, Step::Failed), (3, Step::Started)]
    );
}

#[test]
fn a_provision_comes_to_each_milestone_once() {
    let under_way = || operation(1, "provision", "in progress", "x");
    let node = |phase: &str| json!({"cell": "c", "availability_zone": "z", "phase": phase, "assigned": "2026-11-23T00:00:00Z"});
    let nodes = |first: &str, second: &str| {
        json!({
            "00000000-0000-0000-0000-000000000011": node(first),
            "00000000-0000-0000-0000-000000000012": node(second),
        })
    };
    let owned = json!({"state": "owned", "port": 30000});
    let at = |bootstrapped: bool, first: &str, second: &str| {
        let changes = json!({"port": owned, "bootstrapped": bootstrapped, "nodes": nodes(first, second)});
        record(under_way(), Value::Null, &changes)
    };
    let ended = |kind: &str, state: &str| {
        let changes = json!({"port": owned, "bootstrapped": true, "nodes": nodes("running", "running")});
        record(Value::Null, operation(1, kind, state, "x"), &changes)
    };
    let story = [
        record(under_way(), Value::Null, &json!({})),
        at(false, "assigned", "assigned"),
        at(true, "running", "assigned"),
        at(true, "running", "running"),
        ended("provision", "succeeded"),
    ];
    let told: Vec<_> = story
        .windows(2)
        .map(|pair| milestones(&pair[0], &pair[1]))
        .collect();
    let each = [
        Milestone::Port,
        Milestone::Leader,
        Milestone::Nodes,
        Milestone::Whole,
    ];
    assert_eq!(told, each.map(|milestone| vec![milestone]));
    // All at once, and one that fails.
    assert_eq!(milestones(&story[0], &story[4]), each);
    let failed = ended("provision", "failed");
    assert_eq!(milestones(&story[3], &failed), []);

    // Nodes of an update are not a provision's.
    let updating = record(
        operation(2, "update", "in progress", "x"),
        Value::Null,
        &json!({}),
    );
    assert_eq!(milestones(&updating, &story[3]), []);
}
