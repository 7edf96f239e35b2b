//! How long a client that writes through the public port waits after `kill -9` of the leader's Patroni and PostgreSQL, with
//! Patroni's ttl at 30 s: when the cell lets a replica take over, when it starts the leader again, and when it stands still,
//! so that the leader key runs out (what Patroni does by itself). The three take turns, so that whatever else the machine
//! does hits all of them. `KILLS` says how often each is measured, 20 without it; `PATRONI=4` measures Patroni 4.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{
    instance::Instance,
    measure::{median, number, variable},
    osb::{OTHER_PLAN, PLAN, SERVICE},
    patroni::Patroni,
    stack::{Options, Stack},
    writer::Writer,
};

/// What a client may wait for at most, as the median.
const BUDGET: Duration = Duration::from_secs(2);
/// A cell gives a node's place up at most once in so long.
const SELDOM: Duration = Duration::from_secs(62);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Promote,
    Restart,
    Expire,
}

const WAYS: [Way; 3] = [Way::Promote, Way::Restart, Way::Expire];

#[tokio::main]
async fn main() {
    let kills = number("KILLS", 20);
    let four = variable("PATRONI").is_some_and(|version| version == "4");
    let patroni = if four {
        Patroni::Four
    } else {
        Patroni::Distribution
    };
    let mut rows = BTreeMap::<usize, Vec<Duration>>::new();
    println!("{patroni:?}: without writes after kill -9 of the leader's Patroni and PostgreSQL, in s");
    println!(
        "{:>6}{:>12}{:>12}{:>12}",
        "kill", "takes over", "restarted", "runs out"
    );
    let mut stacks = Vec::new();
    for _ in WAYS {
        stacks.push(start(patroni).await);
    }
    let mut clients = Vec::new();
    for (way, stack) in WAYS.into_iter().zip(&mut stacks) {
        let plan = if way == Way::Restart { PLAN } else { OTHER_PLAN };
        let instance = Instance::make(stack, plan, 2).await;
        let writer = Writer::start(&instance.credentials).await;
        clients.push((way, instance, writer, BTreeMap::new()));
    }
    for kill in 1..=kills {
        for (at, (way, instance, writer, last)) in clients.iter_mut().enumerate() {
            let outage = measure(*way, instance, writer, last).await;
            rows.entry(at).or_default().push(outage);
        }
        let latest = rows.values().map(|row| row[row.len() - 1]);
        println!("{kill:>6}{}", shown(latest));
    }
    let medians: Vec<Duration> = rows.values().map(|times| median(times)).collect();
    println!("{:>6}{}", "median", shown(medians.iter().copied()));
    for (way, waits) in WAYS.iter().zip(&medians).skip(1) {
        let ratio = waits.as_secs_f64() / medians[0].as_secs_f64();
        println!("{way:?}: {ratio:.1} times as long");
    }
    let verdict = if medians[0] <= BUDGET { "within" } else { "ABOVE" };
    println!("{verdict} the budget of {} s", BUDGET.as_secs());
    for (way, _, writer, _) in clients {
        let (account, lost) = writer.end().await;
        println!(
            "{way:?}: {} rows, {} lost",
            account.acknowledged.len(),
            lost.len()
        );
    }
}

/// Two cells, and two synchronous plans: one whose leaders are succeeded, and one whose leaders are started again.
async fn start(patroni: Patroni) -> Stack {
    let plan = |id: &str, failover: &str| {
        let cluster = json!({"synchronous": true, "failover": failover});
        json!({"id": id, "name": failover, "description": "d", "cluster": cluster})
    };
    let plans = [plan(OTHER_PLAN, "promote"), plan(PLAN, "restart")];
    let service = json!([{"id": SERVICE, "name": "postgresql", "description": "d", "plans": plans}]);
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        durable: true,
        patroni,
        variables: vec![("CATALOG_SERVICES", service.to_string())],
        ..Options::default()
    })
    .await
}

async fn measure(
    way: Way,
    instance: &Instance<'_>,
    writer: &Writer,
    last: &mut BTreeMap<String, Instant>,
) -> Duration {
    let leader = instance.stands(1, true).await;
    if let Some(killed) = last.get(&leader.name) {
        tokio::time::sleep(SELDOM.saturating_sub(killed.elapsed())).await;
    }
    writer.goes_on(20).await;
    let cell = &instance.stack.cells[instance.cell_of(&leader.name)].server;
    if way == Way::Expire {
        cell.pause();
    }
    let begun = Instant::now();
    last.insert(leader.name.clone(), begun);
    instance.kill(&leader.name);
    writer.goes_on(20).await;
    let outage = writer.account().outage_since(begun);
    if way == Way::Expire {
        cell.resume();
    }
    outage
}

fn shown(times: impl Iterator<Item = Duration>) -> String {
    times
        .map(|time| format!("{:>12.2}", time.as_secs_f64()))
        .collect()
}
