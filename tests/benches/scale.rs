//! What calls cost with many other instances in etcd: requests to etcd, their bytes, and time (design.md, 11); what the
//! commands for operators take with 5,000 of them, against etcd's own answer; and what a look of reconcile at all of them
//! takes, against as many bare reads. `INSTANCES` says how many the last step has, 10,000 without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use shared::{
    keyspace,
    reconcile::drift::SLICE,
    store::{Read, Store},
};
use tests::{
    binaries,
    functions::Functions,
    measure::{median, number},
    osb::fresh_id,
    population::{self, Population},
    runtime_api::Function,
    stack::Options,
};

/// How often each call is made at each step; the median time is printed.
const CALLS: usize = 9;
/// Where the commands are measured.
const OF_COMMANDS: usize = 5_000;

/// What a call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    took: Duration,
    requests: usize,
    bytes: u64,
}

#[tokio::main]
async fn main() {
    let most = number("INSTANCES", 10_000);
    let mut functions = Functions::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let instance = fresh_id();
    functions.call("provision", &instance).await.0.expect(202);
    functions.succeeded(&instance).await;
    functions.call("bind", &instance).await.0.expect(201);
    // It would listen on the ports of all of them.
    functions.stack.router = None;

    let population = Population::found(&functions.stack.etcd, most).await;
    let mut costs: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
    let mut steps: Vec<_> = [0, 1_000, OF_COMMANDS, most]
        .into_iter()
        .filter(|step| *step <= most)
        .collect();
    steps.dedup();
    for step in &steps {
        population.grow_to(&functions.stack.etcd, *step).await;
        for (name, cost) in calls(&functions, &instance).await {
            costs.entry(name).or_default().push(cost);
        }
        if *step == OF_COMMANDS {
            commands(&functions);
        }
    }
    let columns = steps.iter().map(|step| format!("{step:>30}")).collect::<String>();
    println!("with so many others:    {columns}");
    for (name, costs) in &costs {
        let cells = costs.iter().map(|cost| {
            let took = cost.took.as_secs_f64() * 1000.0;
            format!("{:>8} req{:>8} B{took:>6.1} ms", cost.requests, cost.bytes)
        });
        println!("{name:<24}{}", cells.collect::<String>());
    }
    for (name, costs) in &costs {
        let requests = costs.iter().map(|cost| cost.requests);
        assert_eq!(
            requests.clone().min(),
            requests.max(),
            "{name} takes more requests with more instances"
        );
    }
    reconcile(&functions, most).await;
}

/// The medians of all calls.
async fn calls(functions: &Functions, instance: &str) -> Vec<(&'static str, Cost)> {
    let mut costs: BTreeMap<&'static str, Vec<Cost>> = BTreeMap::new();
    for _ in 0..CALLS {
        let other = fresh_id();
        for (name, instance, status) in [
            ("catalog", instance, 200),
            ("last_operation", instance, 200),
            ("fetch_instance", instance, 200),
            ("fetch_binding", instance, 200),
            ("bind", instance, 200),
            ("provision", &other, 202),
        ] {
            let _ = functions.log.take_bytes();
            let start = Instant::now();
            let (answer, requests) = functions.call(name, instance).await;
            let took = start.elapsed();
            answer.expect(status);
            let cost = Cost {
                took,
                requests: requests.len(),
                bytes: functions.log.take_bytes(),
            };
            costs.entry(name).or_default().push(cost);
        }
        functions.call("deprovision", &other).await;
        functions.succeeded(&other).await;
    }
    costs
        .into_iter()
        .map(|(name, costs)| (name, median(&costs)))
        .collect()
}

/// Each command against what etcd takes to hand over what it shows.
fn commands(functions: &Functions) {
    println!("{OF_COMMANDS} instances: command, against etcd's own answer");
    for (name, key) in [
        ("service-status", keyspace::PATRONI),
        ("show-cells", keyspace::INSTANCES),
    ] {
        let (mut command, mut bare) = (Vec::new(), Vec::new());
        let mut lines = 0;
        for _ in 0..CALLS {
            let start = Instant::now();
            lines = run(functions, name);
            command.push(start.elapsed());
            let start = Instant::now();
            let target = format!("/v2/keys{key}?recursive=true&quorum=true");
            let (status, _) = functions.stack.etcd.raw("GET", &target, None);
            assert_eq!(status, 200);
            bare.push(start.elapsed());
        }
        let (command, bare) = (median(&command), median(&bare));
        let ratio = command.as_secs_f64() / bare.as_secs_f64();
        println!(
            "{name:<24}{lines:>8} lines{:>8.2} s{:>8.2} s{ratio:>8.2}",
            command.as_secs_f64(),
            bare.as_secs_f64()
        );
    }
    println!();
}

/// Runs a command; answers how many lines it printed.
fn run(functions: &Functions, name: &str) -> usize {
    let mut command = Command::new(binaries::path("local-runner"));
    let variables = [
        ("PATRONI_BROKER_KVSTORE_MACHINES", functions.stack.etcd.url()),
        ("PATRONI_BROKER_BACKENDS", "[]"),
    ];
    command.arg(name).env_clear().envs(variables).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout.split(|byte| *byte == b'\n').count() - 1
}

/// A function that has looked at all instances, against as many bare reads one after the other.
async fn reconcile(functions: &Functions, most: usize) {
    let variables = functions.stack.function_variables(functions.log.url());
    let log = functions.stack.directory().join("logs/reconcile.log");
    let function = Function::start("reconcile", &variables, &log).await;
    let event = json!({"source": "aws.events", "detail-type": "Scheduled Event"});
    // What is found at the first look (a projection that a test did not write) is not a pass over instances at rest.
    let runs = most / SLICE + 1;
    let pass = async || {
        let (mut checked, mut mended) = (0, 0);
        for _ in 0..runs {
            let found = function.invoke(event.clone()).await.unwrap();
            checked += found["checked"].as_u64().unwrap();
            mended += found["mended"].as_u64().unwrap();
        }
        (checked, mended)
    };
    let _ = functions.log.take();
    let _ = functions.log.take_bytes();
    let start = Instant::now();
    let (checked, mended) = pass().await;
    let took = start.elapsed();
    let (requests, bytes) = (functions.log.take().len(), functions.log.take_bytes());
    let client = functions.stack.etcd.client();
    let start = Instant::now();
    for number in 0..requests {
        let id = population::instance(number % most);
        client
            .get(&keyspace::record(&id.parse().unwrap()), Read::Quorum)
            .await
            .unwrap();
    }
    let bare = start.elapsed();
    let ratio = took.as_secs_f64() / bare.as_secs_f64();
    println!("\nreconcile over {most} instances at rest: {runs} runs, {checked} looked at, {mended} mended");
    println!(
        "{requests} requests, {} kB, {:.1} s; as many bare reads of records one by one {:.1} s, ratio {ratio:.2}",
        bytes / 1000,
        took.as_secs_f64(),
        bare.as_secs_f64()
    );
}
