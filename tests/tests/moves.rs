//! Clusters that change their cells while a client writes through their public port.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tests::{
    osb::{Answer, OPERATION, OTHER_PLAN, Osb, SERVICE, fresh_id, nodes, send},
    processes,
    psql::Session,
    stack::{Options, Stack},
    wait::eventually,
};
use tokio::{task::JoinHandle, time::timeout};

/// A client that writes one row after the other.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Vec<u32>, Duration)>,
}

impl Writer {
    async fn start(credentials: &Value) -> Self {
        let session = Session::open(credentials).await.unwrap();
        session.run("CREATE TABLE rows (n int PRIMARY KEY)").await;
        drop(session);
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(credentials.clone(), Arc::clone(&stop)));
        Self { stop, task }
    }

    /// The rows that were acknowledged, and the longest time without one.
    async fn stop(self) -> (Vec<u32>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn write(credentials: Value, stop: Arc<AtomicBool>) -> (Vec<u32>, Duration) {
    let (mut acknowledged, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(session) = Session::open(&credentials).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            n += 1;
            let insert = format!("INSERT INTO rows VALUES ({n})");
            // A session to a machine that is gone never answers.
            let answer = timeout(Duration::from_secs(5), session.try_to(&insert)).await;
            if !matches!(answer, Ok(Ok(_))) {
                break;
            }
            acknowledged.push(n);
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    (acknowledged, longest)
}

/// Asserts that every row is there that was acknowledged.
async fn assert_kept(credentials: &Value, acknowledged: &[u32]) {
    let session = Session::open(credentials).await.unwrap();
    let rows = session
        .ask("SELECT string_agg(n::text, ',') FROM rows")
        .await
        .unwrap();
    let rows: BTreeSet<u32> = rows.split(',').map(|n| n.parse().unwrap()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !rows.contains(n)).collect();
    assert!(!acknowledged.is_empty() && lost.is_empty(), "lost: {lost:?}");
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
    let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
    let body = json!({"service_id": SERVICE, "parameters": parameters});
    send(osb.request(Method::PATCH, &path).json(&body)).await
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
        (400, json!([first])),
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
    let (acknowledged, longest) = writer.stop().await;
    println!(
        "{} rows; longest without one: {longest:?}; {shown:#?}",
        acknowledged.len()
    );
    assert_kept(&credentials, &acknowledged).await;
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
    let reader = Session::open(&credentials).await.unwrap();
    eventually("rows", OPERATION, async || {
        let rows = reader.ask("SELECT count(*) > 9 FROM rows").await.unwrap();
        (rows == "true").then_some(())
    })
    .await;
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
    let (acknowledged, longest) = writer.stop().await;
    println!("{} rows; longest without one: {longest:?}", acknowledged.len());
    assert_kept(&credentials, &acknowledged).await;
    let leaving = cells(&stack, &instance);
    assert!(
        leaving.contains(&lost) && leaving.is_superset(&old),
        "it is told when it is back"
    );
}
