//! How large a function is, and how long it takes from its start to its first answer, against a function that does nothing
//! (design.md, 11). That one asks nobody; what etcd takes to answer what a function asks it is measured by itself, and
//! the function compared with both together as well. All take turns, so that whatever else the machine does hits all of
//! them. `STARTS` says how often each is started, 20 without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
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
    request_log::RequestLog,
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
    let log = RequestLog::start(etcd.url()).await;
    let mut asked = Vec::new();
    for name in &names {
        // The first one reads the program from the disk, and writes what the first of all requests writes.
        first_answer(name, etcd.url(), directory.path()).await;
        first_answer(name, log.url(), directory.path()).await;
        asked.push(log.take());
    }
    let mut starts_of = vec![Vec::new(); names.len()];
    let mut bare_of = starts_of.clone();
    for _ in 0..starts {
        for (at, name) in names.iter().enumerate() {
            starts_of[at].push(first_answer(name, etcd.url(), directory.path()).await);
            bare_of[at].push(bare_requests(
                etcd.url().trim_start_matches("http://"),
                &asked[at],
            ));
        }
    }
    println!("function: size, and medians of {starts} starts until the first answer");
    println!(
        "{:<24}{:>10}{:>10}{:>10}{:>8}{:>8}{:>11}{:>20}",
        "", "bytes", "of 6 MiB", "start", "ratio", "asks", "alone", "ratio, with etcd"
    );
    let floor = median(&starts_of[0]);
    for (at, name) in names.iter().enumerate() {
        let size = fs::metadata(program(name)).unwrap().len();
        let (start, bare) = (median(&starts_of[at]), median(&bare_of[at]));
        let of = |floor: Duration| start.as_secs_f64() / floor.as_secs_f64();
        let ratio = of(floor + bare);
        let verdict = match (size <= SIZE, ratio <= BUDGET) {
            (true, true) => "",
            (false, true) => "  TOO LARGE",
            (true, false) => "  TOO SLOW",
            (false, false) => "  TOO LARGE, TOO SLOW",
        };
        println!(
            "{name:<24}{size:>10}{:>8} %{:>7.1} ms{:>8.2}{:>8}{:>8.1} ms{ratio:>20.2}{verdict}",
            (size * 100).div_ceil(SIZE),
            milliseconds(start),
            of(floor),
            asked[at].len(),
            milliseconds(bare),
        );
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// How long etcd takes for these requests, one after the other over a connection of their own. What is written is another key.
fn bare_requests(etcd: &str, requests: &[String]) -> Duration {
    let start = Instant::now();
    if requests.is_empty() {
        return Duration::ZERO;
    }
    let mut connection = TcpStream::connect(etcd).unwrap();
    let mut buffer = [0; 16 * 1024];
    for request in requests {
        let text = match request.strip_prefix("GET ") {
            Some(target) => format!("GET {target} HTTP/1.1\r\nhost: {etcd}\r\n\r\n"),
            None => format!(
                "PUT /v2/keys/a-write HTTP/1.1\r\nhost: {etcd}\r\n\
                 content-type: application/x-www-form-urlencoded\r\ncontent-length: 7\r\n\r\nvalue=x"
            ),
        };
        connection.write_all(text.as_bytes()).unwrap();
        // There is next to nothing in this etcd: the whole of an answer comes at once.
        let length = connection.read(&mut buffer).unwrap();
        let answer = String::from_utf8_lossy(&buffer[..length]);
        assert!(answer.trim_end().ends_with('}'), "{request}: {answer}");
    }
    start.elapsed()
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
