//! Brokers and etcd that die while an instance is made: it ends by itself, and well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use shared::record::OperationState;
use tests::{
    osb::{OPERATION, fresh_id, nodes},
    psql::Session,
    stack::{Options, Stack},
    wait::eventually,
};
use tokio::time::sleep;

/// Waits, looking only into etcd, until an instance's operation has succeeded.
async fn ends_by_itself(stack: &Stack, instance: &str) {
    eventually(
        "the end of an operation that nobody polls",
        OPERATION,
        async || {
            let record = stack.record(instance).expect("a record");
            if record.operation.is_some() {
                return None;
            }
            let last = record.last_operation.expect("an operation");
            assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
            Some(())
        },
    )
    .await;
}

async fn assert_usable(stack: &Stack, instance: &str) {
    let bound = stack.osb().bind(instance, "b").await;
    let session = Session::open(&bound.expect(201).body["credentials"])
        .await
        .unwrap();
    session.run("CREATE TABLE t (x int)").await;
}

fn patronis(stack: &Stack) -> usize {
    let processes = stack.node_processes();
    processes
        .iter()
        .filter(|process| process.command.contains("patroni.yml"))
        .count()
}

/// A time that differs from run to run.
fn at_random(most: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() % 1000;
    most * u32::try_from(random).unwrap() / 1000
}

#[tokio::test]
async fn the_broker_dies_after_its_answer() {
    let mut stack = Stack::start(Options::default()).await;
    let before = stack.keys();
    let instance = fresh_id();
    stack.osb().provision(&instance, &nodes(2)).await.expect(202);
    stack.brokers[0].kill();
    let record = stack.record(&instance).unwrap();
    assert!(
        record.operation.is_some(),
        "it had ended before the broker died: {record:?}"
    );
    stack.brokers[0].restart().await;
    ends_by_itself(&stack, &instance).await;
    assert_usable(&stack, &instance).await;
    assert_eq!(patronis(&stack), 2);

    // The same while it is taken away: whatever the first broker had done, the second one finishes it.
    let osb = stack.osb();
    let id = instance.clone();
    let request = tokio::spawn(async move {
        osb.request(
            reqwest::Method::DELETE,
            &format!("/v2/service_instances/{id}?accepts_incomplete=true&service_id=s&plan_id=p"),
        )
        .send()
        .await
    });
    eventually("the deprovision has begun", OPERATION, async || {
        let begun = stack
            .record(&instance)
            .is_none_or(|record| record.state == shared::record::State::Deleting);
        begun.then_some(())
    })
    .await;
    stack.brokers[0].kill();
    // With an answer or without one.
    drop(request.await.unwrap());
    stack.brokers[0].restart().await;
    eventually("the end of the deprovision", OPERATION, async || {
        stack.record(&instance).is_none().then_some(())
    })
    .await;
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn the_broker_dies_at_any_moment() {
    let mut stack = Stack::start(Options::default()).await;
    let before = stack.keys();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let instance = fresh_id();
        let osb = stack.osb();
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        let request = osb.request(reqwest::Method::PUT, &path).json(&nodes(1));
        let sent = tokio::spawn(async move { request.send().await });
        let moment = at_random(Duration::from_millis(80));
        sleep(moment).await;
        stack.brokers[0].kill();
        let answered = sent.await.unwrap().is_ok();
        let has_record = stack.record(&instance).is_some();
        println!("killed after {moment:?}; answered: {answered}, record: {has_record}");
        assert!(has_record || !answered, "an answer without a record");
        stack.brokers[0].restart().await;
        instances.push((instance, has_record));
    }
    for (instance, has_record) in &instances {
        if *has_record {
            ends_by_itself(&stack, instance).await;
        }
        // The platform, which may have no answer, asks again.
        let answer = stack.osb().provision(instance, &nodes(1)).await;
        assert_eq!(answer.status, if *has_record { 200 } else { 202 }, "{answer:?}");
        stack.osb().succeeded(instance).await;
        assert_usable(&stack, instance).await;
    }
    assert_eq!(patronis(&stack), instances.len());
    for (instance, _) in &instances {
        stack.osb().unmake(instance).await;
    }
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn etcd_restarts_while_an_instance_is_made() {
    let mut stack = Stack::start(Options::default()).await;
    let before = stack.keys();
    let instance = fresh_id();
    let osb = stack.osb();
    osb.provision(&instance, &nodes(2)).await.expect(202);
    sleep(at_random(Duration::from_secs(4))).await;
    stack.etcd.kill();
    osb.last_operation(&instance).await.expect(503);
    sleep(at_random(Duration::from_secs(2))).await;
    stack.etcd.restart().await;
    ends_by_itself(&stack, &instance).await;
    assert_usable(&stack, &instance).await;
    assert_eq!(patronis(&stack), 2);

    // And while it is taken away.
    osb.deprovision(&instance).await;
    stack.etcd.restart().await;
    eventually("the end of the deprovision", OPERATION, async || {
        stack.record(&instance).is_none().then_some(())
    })
    .await;
    stack.assert_gone(&before).await;
}
