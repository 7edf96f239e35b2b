//! How long a client that writes through the public port waits when a cluster moves to other cells, leader and all, against a
//! switchover that Patroni is asked for directly: the one outage that a move cannot do without. The two take turns on one
//! cluster. `ROUNDS` says how often each is measured, 10 without it; `PATRONI=4` measures Patroni 4.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;
use shared::master_keys::Kind;
use tests::{
    instance::Instance,
    measure::{median, number, variable},
    osb::{OTHER_PLAN, SERVICE},
    patroni::Patroni,
    stack::{Options, Stack},
    writer::Writer,
};

#[tokio::main]
async fn main() {
    let rounds: u32 = number("ROUNDS", 10);
    let four = variable("PATRONI").is_some_and(|version| version == "4");
    let patroni = if four {
        Patroni::Four
    } else {
        Patroni::Distribution
    };
    let mut stack = Stack::start(Options {
        zones: vec!["z1", "z2", "z1", "z2"],
        durable: true,
        patroni,
        ..Options::default()
    })
    .await;
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let writer = Writer::start(&instance.credentials).await;
    let (mut moves, mut switchovers) = (Vec::new(), Vec::new());
    println!("{patroni:?}: the longest time without writes, in s");
    println!("{:>6}{:>12}{:>12}", "round", "move", "switchover");
    for round in 1..=rounds {
        let moved = moves_away(&instance, &writer).await;
        let switched = switches_over(&instance, &writer).await;
        println!("{round:>6}{}{}", shown(moved), shown(switched));
        moves.push(moved);
        switchovers.push(switched);
    }
    let (moved, switched) = (median(&moves), median(&switchovers));
    println!("{:>6}{}{}", "median", shown(moved), shown(switched));
    println!("ratio {:.2}", moved.as_secs_f64() / switched.as_secs_f64());
    let (account, lost) = writer.end().await;
    println!("{} rows, {} lost", account.acknowledged.len(), lost.len());
}

/// Both nodes go to the cells that have none.
async fn moves_away(instance: &Instance<'_>, writer: &Writer) -> Duration {
    instance.stands(1, true).await;
    writer.goes_on(20).await;
    let record = instance.stack.record(&instance.id).unwrap();
    let old: BTreeSet<String> = record.nodes.values().map(|node| node.cell.to_string()).collect();
    let cells = instance.stack.cells.iter().map(|cell| &cell.guid);
    let new: Vec<&String> = cells.filter(|guid| !old.contains(*guid)).collect();
    let osb = instance.stack.osb();
    let begun = Instant::now();
    let body = json!({"service_id": SERVICE, "parameters": {"cells": new}});
    osb.update(&instance.id, &body).await.expect(202);
    osb.succeeded(&instance.id).await;
    writer.goes_on(20).await;
    writer.account().outage_since(begun)
}

/// The replica takes over, on Patroni's own API.
async fn switches_over(instance: &Instance<'_>, writer: &Writer) -> Duration {
    let leader = instance.stands(1, true).await;
    writer.goes_on(20).await;
    let cluster = instance.cluster().await;
    let api = cluster.members[&leader.name].api.clone().unwrap();
    let candidate = cluster.members.keys().find(|name| **name != leader.name);
    let broker = instance.stack.broker();
    let record = instance.stack.record(&instance.id).unwrap();
    let passwords = broker.passwords(&record, Kind::Rest).unwrap();
    let begun = Instant::now();
    let asked = broker
        .patroni
        .switchover(&api, &passwords, &leader.name, candidate.unwrap());
    asked.await.unwrap();
    instance.leader(Some(&leader)).await;
    writer.goes_on(20).await;
    writer.account().outage_since(begun)
}

fn shown(time: Duration) -> String {
    format!("{:>12.2}", time.as_secs_f64())
}
