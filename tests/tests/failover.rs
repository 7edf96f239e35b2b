//! A leader dies with its machine: what clients of the public port see.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use tests::{
    instance::Instance,
    osb::{OTHER_PLAN, PLAN, fresh_id, nodes},
    processes,
    psql::Session,
    stack::{Options, Stack},
    visitor::Visitor,
    writer::Writer,
};

async fn two_cells() -> Stack {
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        durable: true,
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn clients_follow_the_leader_and_a_synchronous_plan_loses_nothing() {
    let mut stack = Stack::start(Options {
        durable: true,
        ..Options::default()
    })
    .await;
    let before = stack.keys();
    let instance = Instance::make(&mut stack, OTHER_PLAN, 3).await;
    let former = instance.leader(None).await;
    assert!(instance.is_synchronous_under(&former.name));
    let writer = Writer::start(&instance.credentials).await;
    let visitor = Visitor::start(&instance.credentials);
    let idle = Session::open(&instance.credentials).await.unwrap();
    writer.goes_on(100).await;

    let cell = instance.cell_of(&former.name);
    instance.stack.cells[cell].cut_power();
    idle.ended().await;
    let leader = instance.leader(Some(&former)).await;
    assert!(leader.timeline > former.timeline, "{former:?} {leader:?}");
    writer.goes_on(100).await;
    visitor.gets_in().await;
    println!(
        "outage: {:?}; visits: {:?}",
        writer.account().outage(),
        visitor.visits()
    );

    // The former leader comes back, and is a replica.
    instance.stack.cells[cell].server.restart().await;
    instance.replicas_stream(2).await;
    assert_eq!(instance.leader(None).await, leader);

    // A new instance makes HAProxy reload; a router that is stopped takes HAProxy with it.
    let other = fresh_id();
    instance.stack.osb().make(&other, &nodes(1)).await;
    visitor.gets_in().await;
    let router = instance.stack.router.as_mut().unwrap();
    router.terminate();
    router.restart().await;
    visitor.gets_in().await;
    writer.goes_on(10).await;

    let (account, lost) = writer.end().await;
    println!("{} sessions; failures: {:?}", account.sessions, account.failures);
    assert_eq!(lost, Vec::<i64>::new());
    assert_eq!(account.in_recovery, 0, "sessions at a server in recovery");
    assert_eq!(
        visitor.visits().in_recovery,
        0,
        "sessions at a server in recovery"
    );
    drop(visitor);
    instance.stack.osb().unmake(&other).await;
    instance.stack.osb().unmake(&instance.id).await;
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn an_asynchronous_plan_may_lose_the_last_rows_only() {
    let mut stack = two_cells().await;
    let instance = Instance::make(&mut stack, PLAN, 2).await;
    let former = instance.leader(None).await;
    let writer = Writer::start(&instance.credentials).await;
    writer.goes_on(100).await;
    let cell = instance.cell_of(&former.name);
    instance.stack.cells[cell].cut_power();
    let last = writer.account().last();
    instance.leader(Some(&former)).await;
    writer.goes_on(50).await;
    instance.stack.cells[cell].server.restart().await;
    instance.replicas_stream(1).await;
    let (account, lost) = writer.end().await;
    println!(
        "outage: {:?}; {} rows acknowledged, {} of them lost; failures: {:?}",
        account.outage(),
        account.acknowledged.len(),
        lost.len(),
        account.failures
    );
    let tail = account.acknowledged.iter().map(|(number, _)| *number);
    let mut tail: Vec<i64> = tail
        .filter(|number| *number <= last)
        .rev()
        .take(lost.len())
        .collect();
    tail.reverse();
    assert_eq!(
        lost, tail,
        "rows are lost that are not the last ones before the failover"
    );
    assert_eq!(account.in_recovery, 0, "sessions at a server in recovery");
}

/// Its cell starts Patroni again, which makes it the leader again: for a moment as a standby.
#[tokio::test]
async fn a_leader_that_comes_back_in_its_place_is_served_when_it_takes_writes() {
    let mut stack = two_cells().await;
    let instance = Instance::make(&mut stack, PLAN, 2).await;
    let leader = instance.leader(None).await;
    let writer = Writer::start(&instance.credentials).await;
    let visitor = Visitor::start(&instance.credentials);
    let nodes = instance.stack.cells[instance.cell_of(&leader.name)].nodes_directory();
    for victims in ["bin/postgres", ""] {
        writer.goes_on(50).await;
        for process in processes::below(&nodes) {
            if process.command.contains(victims) {
                process.kill();
            }
        }
        writer.goes_on(50).await;
        visitor.gets_in().await;
        println!(
            "killed {victims:?}: longest outage {:?}, visits: {:?}",
            writer.account().outage(),
            visitor.visits()
        );
    }
    let (account, lost) = writer.end().await;
    assert_eq!(lost, Vec::<i64>::new(), "{account:?}");
    assert_eq!(account.in_recovery, 0, "sessions at a server in recovery");
    assert_eq!(
        visitor.visits().in_recovery,
        0,
        "sessions at a server in recovery"
    );
}
