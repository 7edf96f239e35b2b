//! The descriptions of real provisions: Patroni's keys are watched, and what `last_operation` would have said after each
//! change of them is in the order of the original.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use shared::{
    cluster::Cluster,
    decide::describe,
    record::Record,
    store::{Store, Tree, WatchEvent},
};
use tests::{
    osb::{OPERATION, fresh_id, nodes},
    stack::{Options, Stack},
};

/// Provisions an instance; answers every state of Patroni's keys on the way, in order.
async fn history(stack: &Stack, instance: &str, count: u32) -> Vec<Cluster> {
    let osb = stack.osb();
    let scope = format!("/service/{instance}");
    let mut watch = stack.etcd.client().watch(&scope);
    let mut tree = Tree {
        leaves: [].into(),
        directories: Vec::new(),
        at: 0,
    };
    // It begins with nothing there, so that nothing is missed.
    assert!(matches!(watch.next().await, WatchEvent::Snapshot(first) if first.leaves.is_empty()));
    let mut states = vec![Cluster::default()];
    osb.provision(instance, &nodes(count)).await.expect(202);
    let succeeded = osb.succeeded(instance);
    tokio::pin!(succeeded);
    loop {
        tokio::select! {
            event = watch.next() => {
                follow(&mut tree, event);
                states.push(Cluster::parse(&scope, Some(&tree)));
            }
            _ = &mut succeeded => break,
        }
    }
    // What was written before the end and has not arrived yet.
    let mut rest = stack.etcd.client().watch(&scope);
    let WatchEvent::Snapshot(end) = rest.next().await else {
        panic!("a watch begins with a snapshot")
    };
    let newest = |tree: &Tree| tree.leaves.values().map(|entry| entry.index).max();
    while newest(&tree) < newest(&end) {
        let event = tokio::time::timeout(OPERATION, watch.next()).await.unwrap();
        follow(&mut tree, event);
        states.push(Cluster::parse(&scope, Some(&tree)));
    }
    states
}

fn follow(tree: &mut Tree, event: WatchEvent) {
    match event {
        WatchEvent::Put { key, entry } => {
            tree.leaves.insert(key, entry);
        }
        WatchEvent::Removed { key, .. } => {
            let below = format!("{key}/");
            tree.leaves
                .retain(|leaf, _| *leaf != key && !leaf.starts_with(&below));
        }
        WatchEvent::Snapshot(_) | WatchEvent::Lost(_) => panic!("events were missed: {event:?}"),
    }
}

/// What `last_operation` says of each state, without repetitions.
fn told(record: &Record, states: &[Cluster]) -> Vec<String> {
    let mut told: Vec<String> = states
        .iter()
        .map(|state| describe::cluster(record, state))
        .collect();
    told.dedup();
    told
}

/// How far a replica is. What Patroni shows while it copies the data depends on when one looks.
fn progress(state: &str) -> u8 {
    match state {
        "stopped" | "creating replica" => 0,
        "starting" => 1,
        "running" => 2,
        _ => panic!("no state of a replica that comes up: {state}"),
    }
}

/// `members stopped, stopped` -> `master running; replicas stopped` -> `master running; replicas running`: first there is no
/// master, then there is one, and from then on no replica goes back.
fn assert_order(told: &[String], count: usize) {
    let all_stopped = format!("members {}", vec!["stopped"; count].join(", "));
    assert_eq!(told[0], all_stopped, "{told:#?}");
    let led = told.iter().position(|text| !text.starts_with("members "));
    let (leaderless, led) = told.split_at(led.unwrap_or_else(|| panic!("no master: {told:#?}")));
    for text in leaderless {
        let states = text.strip_prefix("members ").unwrap();
        assert_eq!(states.split(", ").count(), count, "{told:#?}");
    }
    let replicas = |text: &String| -> Vec<u8> {
        let states = text.strip_prefix("master running; replicas ");
        let states = states.unwrap_or_else(|| panic!("{text} in {told:#?}"));
        states.split(", ").map(progress).collect()
    };
    let all: Vec<Vec<u8>> = led.iter().map(replicas).collect();
    assert!(
        all[0].iter().all(|progress| *progress < 2),
        "a replica before the master: {told:#?}"
    );
    for pair in all.windows(2) {
        let forward = pair[0]
            .iter()
            .zip(&pair[1])
            .all(|(before, after)| before <= after);
        assert!(forward, "a replica went back: {told:#?}");
    }
    assert_eq!(all.last().unwrap(), &vec![2; count - 1], "{told:#?}");
}

#[tokio::test]
async fn provisions_tell_their_story_in_the_order_of_the_original() {
    let stack = Stack::start(Options {
        zones: vec!["z1", "z1", "z2", "z2"],
        ..Options::default()
    })
    .await;
    for count in [2u8, 4] {
        let instance = fresh_id();
        let states = history(&stack, &instance, count.into()).await;
        let record = stack.record(&instance).unwrap();
        assert_eq!(
            record.bootstrap_restarts, 0,
            "the nodes are those of the first attempt"
        );
        assert_order(&told(&record, &states), count.into());
        stack.osb().unmake(&instance).await;
    }
}
