//! Processes that stop where they are, as on a machine that swaps or is moved, and go on later as if nothing had happened.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use shared::record::State;
use tests::{
    osb::{fresh_id, nodes, send},
    psql::Session,
    stack::{Options, Stack},
};
use tokio::time::sleep;

/// A broker that was frozen in the middle of something finds an instance that was deleted and made again meanwhile.
#[tokio::test]
async fn a_broker_that_wakes_up_in_another_life_does_no_harm() {
    let stack = Stack::start(Options {
        brokers: 2,
        ..Options::default()
    })
    .await;
    let (frozen, awake) = (stack.osb_of(0), stack.osb_of(1));
    let before = stack.keys();
    let mut instances = Vec::new();
    // At different moments of its work: before, between and after its writes.
    for milliseconds in [10, 25, 40] {
        let instance = fresh_id();
        let path = format!("/v2/service_instances/{instance}?accepts_incomplete=true");
        let request = frozen.request(reqwest::Method::PUT, &path).json(&nodes(1));
        let sent = tokio::spawn(send(request));
        sleep(Duration::from_millis(milliseconds)).await;
        stack.brokers[0].pause();

        // The platform asks the other broker, and changes its mind twice.
        let answer = awake.provision(&instance, &nodes(1)).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        awake.unmake(&instance).await;
        awake.provision(&instance, &nodes(1)).await.expect(202);
        let life = stack.record(&instance).unwrap().incarnation;

        stack.brokers[0].resume();
        // Whatever it thinks that it has done; it must answer.
        let answer = sent.await.unwrap();
        println!(
            "frozen after {milliseconds} ms: {} {}",
            answer.status, answer.text
        );
        instances.push((instance, life));
    }
    for (instance, life) in &instances {
        awake.succeeded(instance).await;
        let record = stack.record(instance).unwrap();
        assert_eq!((record.incarnation, record.state), (*life, State::Active));
        let bound = frozen.bind(instance, "b").await;
        Session::open(&bound.expect(201).body["credentials"])
            .await
            .unwrap();
        let keys = stack.keys().0;
        let port = record.port.owned().unwrap();
        assert_eq!(
            keys[&format!("/routing/ports/{port}")],
            format!("{instance} {life}")
        );
        assert_eq!(keys[&format!("/routing/allocation/{instance}")], port.to_string());
    }
    let patronis = stack.node_processes();
    let patronis = patronis
        .iter()
        .filter(|process| process.command.contains("patroni.yml"));
    assert_eq!(patronis.count(), instances.len());
    for (instance, _) in &instances {
        awake.unmake(instance).await;
    }
    stack.assert_gone(&before).await;
}

/// A cell that is frozen takes the request to start a node only when it wakes up.
#[tokio::test]
async fn a_provision_waits_for_a_frozen_cell() {
    let stack = Stack::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    let before = stack.keys();
    stack.cells[0].server.pause();
    let instance = fresh_id();
    osb.provision(&instance, &nodes(2)).await.expect(202);
    let answer = osb.last_operation(&instance).await;
    assert_eq!(answer.expect(200).body["state"], "in progress");
    stack.cells[0].server.resume();
    osb.succeeded(&instance).await;
    let record = stack.record(&instance).unwrap();
    assert_eq!(record.staying().count(), 2);
    let bound = osb.bind(&instance, "b").await;
    let session = Session::open(&bound.expect(201).body["credentials"])
        .await
        .unwrap();
    session.run("CREATE TABLE t (x int)").await;

    // HAProxy does not need the router as long as nothing changes.
    stack.router.as_ref().unwrap().pause();
    session.run("INSERT INTO t VALUES (1)").await;
    Session::open(&bound.body["credentials"]).await.unwrap();
    stack.router.as_ref().unwrap().resume();

    osb.unmake(&instance).await;
    stack.assert_gone(&before).await;
}
