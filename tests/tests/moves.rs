//! Clusters that change their cells while a client writes through their public port.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    osb::{Answer, OPERATION, OTHER_PLAN, Osb, SERVICE, fresh_id, nodes},
    processes,
    stack::{Options, Stack},
    wait::eventually,
    writer::Writer,
};

/// Ends the client; asserts that every row is there that was acknowledged, and prints its outage.
async fn end(writer: Writer) {
    let (account, lost) = writer.end().await;
    println!(
        "{} rows; longest without one: {:?}; failures: {:?}",
        account.acknowledged.len(),
        account.outage(),
        account.failures
    );
    assert!(!account.acknowledged.is_empty(), "{account:?}");
    assert_eq!(lost, Vec::<i64>::new());
}

/// An instance of two nodes, one of which follows synchronously, and the credentials of a binding.
async fn make(osb: &Osb, instance: &str) -> Value {
    let mut body = nodes(2);
    body["plan_id"] = json!(OTHER_PLAN);
    osb.make(instance, &body).await;
    let binding = json!({"service_id": SERVICE, "plan_id": OTHER_PLAN});
    let bound = osb.bind_with(instance, "b", &binding).await;
    bound.expect(201).body["credentials"].clone()
}

async fn change(osb: &Osb, instance: &str, parameters: Value) -> Answer {
    let body = json!({"service_id": SERVICE, "parameters": parameters});
    osb.update(instance, &body).await
}

fn cells(stack: &Stack, instance: &str) -> BTreeSet<String> {
    let record = stack.record(instance).unwrap();
    record.nodes.values().map(|node| node.cell.to_string()).collect()
}

#[tokio::test]
async fn a_cluster_moves_to_other_cells_under_a_client_that_writes() {
    let stack = Stack::start(Options {
        zones: vec!["z1", "z2", "z1", "z2"],
        durable: true,
        ..Options::default()
    })
    .await;
    let (osb, instance, before) = (stack.osb(), fresh_id(), stack.keys());
    let credentials = make(&osb, &instance).await;
    let old = cells(&stack, &instance);
    let new: BTreeSet<String> = stack
        .cells
        .iter()
        .map(|cell| cell.guid.clone())
        .filter(|guid| !old.contains(guid))
        .collect();
    let first = new.first().unwrap();
    for (status, wrong) in [
        (400, json!("c")),
        (422, json!([first])),
        (400, json!([first, first])),
        (422, json!([first, "nobody"])),
    ] {
        change(&osb, &instance, json!({"cells": wrong}))
            .await
            .expect(status);
    }
    let writer = Writer::start(&credentials).await;
    change(&osb, &instance, json!({"cells": new})).await.expect(202);
    let shown = osb.succeeded(&instance).await;
    assert_eq!(cells(&stack, &instance), new, "{shown:?}");
    println!("{shown:#?}");
    end(writer).await;
    osb.unmake(&instance).await;
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn a_node_whose_machine_is_gone_is_replaced_and_no_acknowledged_row_is_lost() {
    let mut stack = Stack::start(Options {
        zones: vec!["z1", "z2", "z3", "z1"],
        heartbeat_ttl: 5,
        durable: true,
        variables: vec![("OPERATIONS_REPLACE_AFTER", "8".to_owned())],
        ..Options::default()
    })
    .await;
    let (osb, instance) = (stack.osb(), fresh_id());
    let credentials = make(&osb, &instance).await;
    let old = cells(&stack, &instance);
    let writer = Writer::start(&credentials).await;
    writer.goes_on(10).await;
    let members = stack.keys().0;
    let leader = members[&format!("/service/{instance}/leader")].parse().unwrap();
    let lost = stack.record(&instance).unwrap().nodes[&leader].cell.to_string();
    let cell = stack.cells.iter_mut().find(|cell| cell.guid == lost).unwrap();
    cell.server.kill();
    processes::kill_below(&cell.nodes_directory()).unwrap();

    eventually("a replacement that streams", OPERATION, async || {
        osb.last_operation(&instance).await.expect(200);
        let record = stack.record(&instance)?;
        let staying: BTreeSet<String> = record.staying().map(|(_, node)| node.cell.to_string()).collect();
        (staying.len() == 2 && !staying.contains(&lost)).then_some(())
    })
    .await;
    end(writer).await;
    let leaving = cells(&stack, &instance);
    assert!(
        leaving.contains(&lost) && leaving.is_superset(&old),
        "it is told when it is back"
    );
}
