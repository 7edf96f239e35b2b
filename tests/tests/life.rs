//! The life of an instance, as a platform and an application see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};
use tests::{
    keys::Keys,
    osb::{Answer, OTHER_PLAN, Osb, PLAN, SERVICE, fresh_id, nodes},
    psql::{self, Session},
    stack::{Options, Stack},
};

fn word(answer: &Answer) -> &str {
    answer.body["error"].as_str().unwrap_or_default()
}

fn concurrency(answer: &Answer) {
    answer.expect(422);
    assert_eq!(word(answer), "ConcurrencyError", "{}", answer.text);
}

async fn assert_only_remains(stack: &Stack, instance: &str, before: &Keys) {
    let after = stack.keys();
    assert!(
        after.0.contains_key(&format!("/tombstones/{instance}")),
        "{after:?}"
    );
    let quarantined = after.0.values().filter(|value| *value == "quarantine").count();
    assert!(quarantined > 0, "{after:?}");
    stack.assert_gone(before).await;
}

#[tokio::test]
async fn an_instance_is_made_used_and_taken_away_and_made_again() {
    let stack = Stack::start(Options::default()).await;
    let osb = &stack.osb();
    let (before, instance) = (stack.keys(), &fresh_id());
    let first = made(&stack, osb, instance).await;
    let used = used(osb, instance).await;
    taken_away(&stack, osb, instance, &before).await;
    Session::open(&used).await.expect_err("nothing listens any more");

    // The same id, another life.
    osb.make(instance, &nodes(2)).await;
    let second = stack.record(instance).unwrap();
    assert_ne!(second.incarnation, first.incarnation);
    assert_ne!(second.port, first.port, "the old port rests");
    psql::assert_refused(&with_port(&used, second.port.owned().unwrap().number())).await;
    let bound = osb.bind(instance, "b1").await;
    let session = Session::open(&bound.expect(201).body["credentials"])
        .await
        .unwrap();
    assert_eq!(session.ask("to_regclass('notes') IS NULL").await.unwrap(), "true");
    drop(session);
    // With a binding that is still there.
    taken_away(&stack, osb, instance, &before).await;
}

/// Old credentials, tried on the port of another life.
fn with_port(credentials: &Value, port: u16) -> Value {
    let uri = credentials["uri"].as_str().unwrap();
    json!({"uri": uri.replace(&format!(":{}/", credentials["port"]), &format!(":{port}/"))})
}

async fn made(stack: &Stack, osb: &Osb, instance: &str) -> shared::record::Record {
    let answer = osb.provision(instance, &nodes(2)).await;
    answer.expect(202);
    let operation = answer.body["operation"].as_str().unwrap();
    assert!(operation.starts_with("provision-"), "{operation}");
    concurrency(&osb.bind(instance, "early").await);
    let again = osb.provision(instance, &nodes(2)).await;
    assert_eq!(again.expect(202).body["operation"], operation);

    let shown = osb.succeeded(instance).await;
    assert_eq!(
        shown.last().unwrap(),
        "master running; replicas running",
        "{shown:?}"
    );
    assert_eq!(shown.first().unwrap(), "members stopped, stopped", "{shown:?}");
    let between = &shown[1..shown.len() - 1];
    // Which states of Patroni are seen depends on when one looks, but not their order.
    let leaderless = between.partition_point(|text| text.starts_with("members "));
    let led = |text: &String| text.starts_with("master ") && text.contains("; replicas ");
    assert!(between[leaderless..].iter().all(led), "{shown:?}");

    osb.provision(instance, &nodes(2)).await.expect(200);
    for (field, value) in [
        ("parameters", json!({"node-count": 1})),
        ("parameters", json!({})),
        ("plan_id", json!(OTHER_PLAN)),
        ("space_guid", json!("another")),
    ] {
        let mut other = nodes(2);
        other[field] = value;
        osb.provision(instance, &other).await.expect(409);
    }
    let mut renamed = nodes(2);
    renamed["context"] = json!({"platform": "cloudfoundry", "instance_name": "another"});
    osb.provision(instance, &renamed).await.expect(200);

    let record = stack.record(instance).unwrap();
    let zones: std::collections::BTreeSet<_> = record
        .staying()
        .map(|(_, node)| node.availability_zone.as_str())
        .collect();
    assert_eq!(zones.len(), 2, "the nodes are in different zones");
    let keys = stack.keys().0;
    for (node, placed) in record.staying() {
        let key = format!("/serviceinstances/{instance}/nodes/{node}/backend");
        assert_eq!(keys[&key], placed.cell.to_string());
    }
    let port = record.port.owned().unwrap().number().to_string();
    assert_eq!(keys[&format!("/routing/allocation/{instance}")], port);
    record
}

/// Binds, uses and unbinds; answers the credentials of a binding that is left.
async fn used(osb: &Osb, instance: &str) -> Value {
    let answer = osb.bind(instance, "b1").await;
    let one = &answer.expect(201).body["credentials"];
    let again = osb.bind(instance, "b1").await;
    assert_eq!(again.expect(200).body, answer.body);
    for (field, value) in [
        ("bind_resource", json!({"app_guid": "other"})),
        ("plan_id", json!(OTHER_PLAN)),
    ] {
        let mut other = json!({"service_id": SERVICE, "plan_id": PLAN});
        other[field] = value;
        osb.bind_with(instance, "b1", &other).await.expect(409);
    }
    let answer = osb.bind(instance, "b2").await;
    let two = answer.expect(201).body["credentials"].clone();
    assert_ne!(one["username"], two["username"]);
    assert_ne!(one["password"], two["password"]);

    let first = Session::open(one).await.unwrap();
    first
        .run("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('written')")
        .await;
    assert_eq!(first.ask("pg_is_in_recovery()").await.unwrap(), "false");
    let second = Session::open(&two).await.unwrap();
    assert_eq!(second.ask("SELECT note FROM notes").await.unwrap(), "written");

    assert_eq!(osb.unbind(instance, "b1").await.expect(200).text, "{}\n");
    first.ended().await;
    psql::assert_refused(one).await;
    assert_eq!(osb.unbind(instance, "b1").await.expect(410).text, "{}\n");

    // What it made belongs to the instance, not to the binding.
    second
        .run("INSERT INTO notes VALUES ('still here'); ALTER TABLE notes ADD COLUMN more text")
        .await;
    assert_eq!(second.ask("SELECT count(*) FROM notes").await.unwrap(), "2");

    // Bound again under the same id, it is another login.
    let answer = osb.bind(instance, "b1").await;
    let anew = &answer.expect(201).body["credentials"];
    assert_ne!(anew["username"], one["username"]);
    psql::assert_refused(one).await;
    let session = Session::open(anew).await.unwrap();
    assert_eq!(session.ask("SELECT count(*) FROM notes").await.unwrap(), "2");
    two
}

async fn taken_away(stack: &Stack, osb: &Osb, instance: &str, before: &Keys) {
    let answer = osb.deprovision(instance).await;
    // What one request can do is done at once.
    if answer.status != 200 {
        let operation = answer.expect(202).body["operation"].as_str().unwrap();
        assert!(operation.starts_with("deprovision-"), "{operation}");
    }
    osb.succeeded(instance).await;
    assert_only_remains(stack, instance, before).await;
    assert_eq!(osb.deprovision(instance).await.expect(410).text, "{}\n");
    osb.bind(instance, "late").await.expect(404);
    osb.unbind(instance, "b2").await.expect(410);
    // Asking does not bring it back.
    let answer = osb.last_operation(instance).await;
    assert_eq!(answer.expect(200).body["state"], "succeeded");
    assert_only_remains(stack, instance, before).await;
}

#[tokio::test]
async fn an_instance_can_be_taken_away_while_it_is_made() {
    let stack = Stack::start(Options::default()).await;
    let osb = stack.osb();
    let before = stack.keys();
    let (early, later) = (fresh_id(), fresh_id());
    osb.provision(&early, &nodes(2)).await.expect(202);
    let answer = osb.deprovision(&early).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");

    osb.provision(&later, &nodes(2)).await.expect(202);
    tests::wait::eventually("a leader", tests::osb::OPERATION, async || {
        stack
            .keys()
            .0
            .contains_key(&format!("/service/{later}/leader"))
            .then_some(())
    })
    .await;
    let answer = osb.deprovision(&later).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    for instance in [&early, &later] {
        osb.succeeded(instance).await;
        osb.deprovision(instance).await.expect(410);
    }
    stack.assert_gone(&before).await;
}
