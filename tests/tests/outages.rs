//! etcd or cells that are away: a clear error, and nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use shared::store::Store;
use tests::{
    etcd::EtcdServer,
    osb::{Answer, OPERATION, Osb, PLAN, SERVICE, fresh_id, nodes, send},
    psql::Session,
    stack::{Options, Stack},
    wait::eventually,
};

/// Cells in two zones, and no router: nothing is ever finished here.
async fn stack(options: Options) -> Stack {
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        router: false,
        ..options
    })
    .await
}

/// One request to every endpoint that needs etcd.
fn requests(osb: &Osb) -> Vec<RequestBuilder> {
    let ids = format!("service_id={SERVICE}&plan_id={PLAN}&accepts_incomplete=true");
    let instance = format!("/v2/service_instances/{}", fresh_id());
    let binding = format!("{instance}/service_bindings/{}", fresh_id());
    vec![
        osb.request(Method::PUT, &format!("{instance}?{ids}"))
            .json(&nodes(2)),
        osb.request(Method::DELETE, &format!("{instance}?{ids}")),
        osb.request(Method::GET, &format!("{instance}/last_operation")),
        osb.request(Method::PUT, &binding)
            .json(&json!({"service_id": SERVICE, "plan_id": PLAN})),
        osb.request(Method::DELETE, &format!("{binding}?{ids}")),
    ]
}

fn assert_try_again(answer: &Answer, text: &str) {
    answer.expect(503);
    assert!(answer.description().contains(text), "{}", answer.text);
    let seconds = answer.header("retry-after").unwrap_or_default();
    assert!(
        seconds.parse().is_ok_and(|seconds: u32| seconds > 0),
        "{answer:?}"
    );
}

/// Sends all requests at once, since each may wait for etcd until a time limit.
async fn all_are_told_to_try_again(osb: &Osb) {
    let sent: Vec<_> = requests(osb)
        .into_iter()
        .map(|request| tokio::spawn(send(request)))
        .collect();
    for answer in sent {
        assert_try_again(&answer.await.unwrap(), "cannot reach its store");
    }
    osb.catalog().await.expect(200);
}

#[tokio::test]
async fn etcd_is_down_or_frozen() {
    let mut stack = stack(Options::default()).await;
    let osb = stack.osb();
    let before = stack.keys();

    stack.etcd.kill();
    all_are_told_to_try_again(&osb).await;
    stack.etcd.restart().await;
    eventually(
        "the broker finds etcd again",
        Duration::from_secs(30),
        async || (osb.last_operation("x").await.status == 404).then_some(()),
    )
    .await;
    stack.assert_unchanged(&before, "etcd was down");

    stack.etcd.pause();
    all_are_told_to_try_again(&osb).await;
    stack.etcd.resume();
    osb.last_operation("x").await.expect(404);
    stack.assert_unchanged(&before, "etcd was frozen");
}

#[tokio::test]
async fn members_of_etcd_are_lost_one_after_the_other() {
    let mut stack = Stack::start(Options {
        etcd_members: 3,
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let (osb, instance) = (stack.osb(), fresh_id());
    osb.provision(&instance, &nodes(2)).await.expect(202);

    // Its leader goes in the middle of an operation. Until there is another one, a poll may be told to try again.
    let mut members: Vec<&mut EtcdServer> = stack.more_etcd.iter_mut().chain([&mut stack.etcd]).collect();
    let leader = members.iter().position(|member| member.leads()).unwrap();
    members.remove(leader).kill();
    eventually("the instance stands", OPERATION, async || {
        let answer = osb.last_operation(&instance).await;
        if answer.status == 503 {
            return None;
        }
        let state = answer.expect(200).body["state"].as_str().unwrap().to_owned();
        assert_ne!(state, "failed", "{answer:?}");
        (state == "succeeded").then_some(())
    })
    .await;
    let credentials = osb.bind(&instance, "b").await.expect(201).body["credentials"].clone();
    let session = Session::open(&credentials).await.unwrap();
    session.run("CREATE TABLE t (n int)").await;

    // One of three cannot agree with anybody. PostgreSQL goes on (Patroni's failsafe mode).
    members[0].kill();
    all_are_told_to_try_again(&osb).await;
    session.run("INSERT INTO t VALUES (1)").await;

    members[0].restart().await;
    eventually("the broker finds etcd again", OPERATION, async || {
        (osb.last_operation(&instance).await.status == 200).then_some(())
    })
    .await;
    osb.bind(&instance, "b").await.expect(200);
    osb.unmake(&instance).await;
}

#[tokio::test]
async fn all_cells_are_down() {
    let mut stack = stack(Options {
        heartbeat_ttl: 3,
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    for cell in &mut stack.cells {
        cell.server.kill();
    }
    let without_heartbeats = |stack: &Stack| {
        let mut keys = stack.keys();
        keys.0.retain(|key, _| !key.starts_with("/cells/"));
        keys
    };
    let before = without_heartbeats(&stack);

    let instance = fresh_id();
    let answer = osb.provision(&instance, &nodes(2)).await;
    assert_try_again(&answer, "cannot be reached");
    let after = without_heartbeats(&stack)
        .without_markers_of_nothing()
        .without_remains();
    assert_eq!(after.changes_since(&before), Vec::<String>::new());
    stack.assert_no_node("a provision without cells");

    eventually("the heartbeats run out", Duration::from_secs(30), async || {
        let beating = stack.keys().0.keys().any(|key| key.starts_with("/cells/"));
        (!beating).then_some(())
    })
    .await;
    let before = stack.keys();
    let answer = osb.provision(&fresh_id(), &nodes(2)).await;
    assert_try_again(&answer, "no cell is alive");
    stack.assert_unchanged(&before, "a provision without heartbeats");
}

#[tokio::test]
async fn a_cell_that_was_just_killed_is_replaced() {
    // Spread over the zones, the cluster would get a node on the only cell of z2.
    let mut stack = Stack::start(Options::default()).await;
    let osb = stack.osb();
    let before = stack.keys();
    stack.cells[2].server.kill();

    let instance = fresh_id();
    osb.make(&instance, &nodes(2)).await;
    let alive = [stack.cells[0].guid.clone(), stack.cells[1].guid.clone()];
    let record = stack.record(&instance).unwrap();
    let mut cells: Vec<_> = record.staying().map(|(_, node)| node.cell.to_string()).collect();
    cells.sort();
    assert_eq!(cells, alive, "{record:?}");
    let bound = osb.bind(&instance, "b").await;
    Session::open(&bound.expect(201).body["credentials"])
        .await
        .unwrap();

    // The node that the dead cell was to run may run one day, so that cell must confirm that it will not.
    let answer = osb.deprovision(&instance).await;
    let operation = &answer.expect(202).body["operation"];
    for answer in [
        osb.provision(&instance, &nodes(2)).await,
        osb.bind(&instance, "late").await,
    ] {
        assert_eq!(answer.expect(422).body["error"], "ConcurrencyError");
    }
    assert_eq!(
        &osb.deprovision(&instance).await.expect(202).body["operation"],
        operation
    );
    let answer = osb.last_operation(&instance).await;
    assert_eq!(answer.expect(200).body["state"], "in progress");
    assert!(
        answer.description().starts_with("removing nodes: "),
        "{}",
        answer.text
    );
    stack.cells[2].server.restart().await;
    osb.succeeded(&instance).await;
    stack.assert_gone(&before).await;
}

/// A port range of which all ports but the last `free` ones belong to somebody else.
async fn stack_with_ports(range: std::ops::Range<u16>, free: u16) -> Stack {
    let last = range.end - 1;
    let stack = stack(Options {
        variables: vec![("PORTS_RANGE", format!("{}-{last}", range.start))],
        ..Options::default()
    })
    .await;
    let etcd = stack.etcd.client();
    let owner = "other 00000000-0000-4000-8000-000000000000";
    for port in range.start..range.end - free {
        etcd.set(&format!("/routing/ports/{port}"), owner, None)
            .await
            .unwrap();
    }
    stack
}

async fn refused_for_want_of_a_port(stack: &Stack) {
    let instance = fresh_id();
    let answer = stack.osb().provision(&instance, &nodes(1)).await;
    answer.expect(422);
    assert!(
        answer.description().contains("no public port is free"),
        "{}",
        answer.text
    );
    let keys = stack.keys().without_markers_of_nothing().without_remains();
    let mut left = keys
        .0
        .iter()
        .filter(|(key, value)| key.contains(&instance) || value.contains(&instance));
    assert_eq!(left.next(), None);
}

#[tokio::test]
async fn ports_are_exhausted() {
    let stack = stack_with_ports(30000..30012, 1).await;
    let osb = stack.osb();
    let before = stack.keys();
    let first = fresh_id();
    osb.provision(&first, &nodes(1)).await.expect(202);
    assert_eq!(stack.keys().0[&format!("/routing/allocation/{first}")], "30011");
    refused_for_want_of_a_port(&stack).await;
    osb.unmake(&first).await;
    // Now that port rests.
    refused_for_want_of_a_port(&stack).await;
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn the_only_port_is_taken() {
    let stack = stack_with_ports(30000..30001, 0).await;
    refused_for_want_of_a_port(&stack).await;
    stack.assert_no_node("a provision without a port");
}
