//! How large a function is, and how long it takes from its start to its first answer, against a function that does nothing
//! (design.md, 11). All take turns, so that whatever else the machine does hits all of them. `STARTS` says how often
//! each is started, 20 without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use handlers::routes;
use serde_json::{Value, json};
use tests::{
    binaries,
    etcd::EtcdServer,
    gateway::{Call, Format},
    measure::{median, number},
    osb::{PLAN, SERVICE},
    runtime_api::Function,
    stack::function_variables,
};

/// What a start may take at most, as a multiple of what one of the empty function takes.
const BUDGET: f64 = 1.5;
/// What a function may have at most, in bytes: 6 MiB.
const SIZE: u64 = 6 << 20;
const FLOOR: &str = "empty_function";

#[tokio::main]
async fn main() {
    let starts: u32 = number("STARTS", 20);
    // An empty etcd: answers are of the kind that says that there is no such instance, after the reads that this takes.
    let etcd = EtcdServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let names = [FLOOR].into_iter();
    let names: Vec<_> = names
        .chain(routes::ALL.map(|route| route.name))
        .chain(["reconcile"])
        .collect();
    let mut times = vec![Vec::new(); names.len()];
    // The first round reads the programs from the disk, and is not counted.
    for round in 0..=starts {
        for (name, times) in names.iter().zip(&mut times) {
            let took = first_answer(name, etcd.url(), directory.path()).await;
            if round > 0 {
                times.push(took);
            }
        }
    }
    println!("function: size, and median of {starts} starts until the first answer");
    println!(
        "{:<24}{:>12}{:>12}{:>8}{:>10}",
        "", "bytes", "of 6 MiB", "start", "ratio"
    );
    let floor = median(&times[0]);
    for (name, times) in names.iter().zip(&times) {
        let size = fs::metadata(program(name)).unwrap().len();
        let start = median(times);
        let ratio = start.as_secs_f64() / floor.as_secs_f64();
        let verdict = match (size <= SIZE, ratio <= BUDGET) {
            (true, true) => "",
            (false, true) => "  TOO LARGE",
            (true, false) => "  TOO SLOW",
            (false, false) => "  TOO LARGE, TOO SLOW",
        };
        let share = (size * 100).div_ceil(SIZE);
        println!(
            "{name:<24}{size:>12}{share:>10} %{:>8.1} ms{ratio:>7.2}{verdict}",
            start.as_secs_f64() * 1000.0
        );
    }
}

fn program(name: &str) -> String {
    let name = if name == FLOOR {
        "examples/empty_function"
    } else {
        name
    };
    binaries::path(name)
}

async fn first_answer(name: &str, kvstore: &str, directory: &Path) -> Duration {
    let variables = function_variables(kvstore);
    let log = directory.join(name);
    let event = event(name);
    let start = Instant::now();
    let function = Function::start_program(name, &program(name), &variables, &log).await;
    let outcome = function.invoke(event).await;
    let took = start.elapsed();
    let answer = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    // There are no cells: a provision is refused with 503.
    assert_ne!(answer["statusCode"], 500, "{name}: {answer}");
    took
}

fn event(name: &str) -> Value {
    let Some(route) = routes::ALL.into_iter().find(|route| route.name == name) else {
        return match name {
            FLOOR => Call::new("GET", "/").event(Format::Http),
            _ => json!({"source": "aws.events"}),
        };
    };
    let ids = json!({"service_id": SERVICE, "plan_id": PLAN});
    let call = Call::new(route.method, route.path)
        .parameter("instance_id", "i")
        .parameter("binding_id", "b")
        .query("accepts_incomplete", "true")
        .query("service_id", SERVICE)
        .query("plan_id", PLAN);
    let call = match name {
        "bind" | "update" => call.body(&ids.to_string()),
        // There are no cells: it is refused after everything has been read.
        "provision" => call.body(
            &json!({"service_id": SERVICE, "plan_id": PLAN, "organization_guid": "o", "space_guid": "s"})
                .to_string(),
        ),
        _ => call,
    };
    call.event(Format::Http)
}
