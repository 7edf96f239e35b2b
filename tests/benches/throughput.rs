//! How many requests local-runner answers over 16 connections, and how fast, against what the same client sees of an
//! empty axum route and of the bare reads from etcd that a call needs (design.md, 11). All take turns, so that whatever
//! else the machine does hits all of them. `ROUNDS` says how many turns of a second there are, 5 without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Client, Method, Request};
use serde_json::json;
use shared::{
    etcd::Etcd,
    ids::InstanceId,
    keyspace,
    store::{Read, Store},
};
use tests::{
    binaries,
    child::Child,
    measure::number,
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes},
    ports::free_port,
    stack::{Options, Stack},
    wait::eventually,
};
use tokio::{join, net::TcpStream};
use tokio_postgres::{Config, NoTls};

const CONNECTIONS: usize = 16;
const TURN: Duration = Duration::from_secs(1);
/// What part of the rate of the bare reads last_operation must have at least.
const BUDGET: f64 = 0.5;

/// Something that is asked, and what it is measured against.
struct Subject {
    name: &'static str,
    call: Call,
    /// The names of what it is compared with.
    floors: &'static [&'static str],
    latencies: Vec<Duration>,
}

/// What one call is.
enum Call {
    /// Requests that are sent at once.
    Http(Vec<Request>),
    /// The reads of last_operation with the broker's own client of etcd: what is left is the broker's share.
    Store(Box<Etcd>, InstanceId),
    /// A session with PostgreSQL through the public port.
    Session(Box<Config>),
}

#[tokio::main]
async fn main() {
    let rounds = number("ROUNDS", 5);
    let stack = Stack::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    let instance = fresh_id();
    osb.make(&instance, &nodes(2)).await;
    let binding = json!({"service_id": SERVICE, "plan_id": PLAN});
    let bound = osb.bind_with(&instance, "b", &binding).await;
    let session = bound.expect(201).body["credentials"]["uri"].as_str().unwrap();
    let session: Config = session.parse().unwrap();
    let route = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let log = stack.directory().join("logs/empty_route.log");
    let _route = Child::start(
        &binaries::path("examples/empty_route"),
        &[route.to_string()],
        &log,
    );
    eventually("the empty route", TURN * 10, async || {
        TcpStream::connect(route).await.ok()
    })
    .await;

    let mut subjects = subjects(&stack, &osb, &instance, route, session);
    let before = memory(stack.brokers[0].id());
    // The first round opens connections and is not counted.
    for round in 0..=rounds {
        for subject in &mut subjects {
            let latencies = turn(&subject.call).await;
            if round > 0 {
                subject.latencies.extend(latencies);
            }
        }
    }
    let after = memory(stack.brokers[0].id());
    println!("{CONNECTIONS} connections, {rounds} turns of 1 s each");
    println!(
        "{:<28}{:>10}{:>12}{:>12}   ratio of rates",
        "", "per s", "p50", "p99"
    );
    let rates: Vec<_> = subjects
        .iter()
        .map(|subject| (subject.name, subject.rate(rounds)))
        .collect();
    let rate_of = |name: &str| rates.iter().find(|(other, _)| *other == name).unwrap().1;
    for subject in &mut subjects {
        subject.latencies.sort_unstable();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place in a list"
            )]
            let place = (subject.latencies.len() as f64 * part) as usize;
            subject.latencies[place].as_secs_f64() * 1000.0
        };
        let rate = rate_of(subject.name);
        let ratios = subject
            .floors
            .iter()
            .map(|floor| format!("   {:.2} of {floor}", rate / rate_of(floor)));
        println!(
            "{:<28}{rate:>10.0}{:>9.2} ms{:>9.2} ms{}",
            subject.name,
            at(0.5),
            at(0.99),
            ratios.collect::<String>()
        );
    }
    let ratio = rate_of("last_operation") / rate_of("its reads");
    let verdict = if ratio >= BUDGET { "within" } else { "BELOW" };
    println!("last_operation: {ratio:.2} of its reads, {verdict} the budget of {BUDGET}");
    println!("memory of the broker: {before} kB before, {after} kB after");
}

fn subjects(stack: &Stack, osb: &Osb, instance: &str, route: SocketAddr, session: Config) -> Vec<Subject> {
    let client = Client::new();
    let get = |url: String| client.get(url).build().unwrap();
    let key = |key: String| get(format!("{}/v2/keys{key}", stack.etcd.url()));
    let record = || key(format!("/serviceinstances/{instance}/record?quorum=true"));
    let cluster = || key(format!("/service/{instance}?recursive=true&quorum=true"));
    let stored = || key(format!("/serviceinstances/{instance}/bindings/b?quorum=true"));
    let ask = |path: &str| osb.request(Method::GET, path).build().unwrap();
    let at = |rest: &str| format!("/v2/service_instances/{instance}{rest}");
    let bind = osb.request(Method::PUT, &at("/service_bindings/b"));
    let bind = bind
        .json(&json!({"service_id": SERVICE, "plan_id": PLAN}))
        .build()
        .unwrap();
    let called = |name, call, floors| Subject {
        name,
        call,
        floors,
        latencies: Vec::new(),
    };
    let subject = |name, requests, floors| called(name, Call::Http(requests), floors);
    vec![
        subject("empty route", vec![get(format!("http://{route}/"))], &[]),
        subject("catalog", vec![ask("/v2/catalog")], &["empty route"]),
        subject("one read", vec![record()], &[]),
        subject("fetch instance", vec![ask(&at(""))], &["one read", "empty route"]),
        subject("its reads", vec![record(), cluster()], &[]),
        called(
            "its reads, broker's client",
            Call::Store(Box::new(stack.etcd.client()), instance.parse().unwrap()),
            &["its reads"],
        ),
        subject(
            "last_operation",
            vec![ask(&at("/last_operation"))],
            &["its reads", "its reads, broker's client"],
        ),
        subject("reads of bind", vec![record(), stored()], &[]),
        called("session of PostgreSQL", Call::Session(Box::new(session)), &[]),
        // What it answers must work: it looks, every time, whether the role is still there.
        subject(
            "bind, repeated",
            vec![bind],
            &["session of PostgreSQL", "reads of bind"],
        ),
    ]
}

impl Clone for Call {
    fn clone(&self) -> Self {
        match self {
            Self::Http(requests) => {
                let requests = requests.iter().map(|request| request.try_clone().unwrap());
                Self::Http(requests.collect())
            }
            Self::Store(etcd, id) => Self::Store(etcd.clone(), id.clone()),
            Self::Session(config) => Self::Session(config.clone()),
        }
    }
}

impl Subject {
    fn rate(&self, rounds: u32) -> f64 {
        self.latencies.len() as f64 / (TURN * rounds).as_secs_f64()
    }
}

/// Has all connections call as often as they can for a while; answers how long each call took.
async fn turn(call: &Call) -> Vec<Duration> {
    let end = Instant::now() + TURN;
    let workers = (0..CONNECTIONS).map(|_| {
        let call = call.clone();
        tokio::spawn(async move {
            let client = Client::builder().no_proxy().build().unwrap();
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                match &call {
                    Call::Http(requests) => {
                        join_all(requests.iter().map(|request| answer(&client, request))).await;
                    }
                    Call::Store(etcd, id) => read_both(etcd, id).await,
                    Call::Session(config) => select_one(config).await,
                }
                latencies.push(start.elapsed());
            }
            latencies
        })
    });
    let latencies = join_all(workers).await.into_iter().map(Result::unwrap);
    latencies.flatten().collect()
}

async fn answer(client: &Client, request: &Request) {
    let answer = client.execute(request.try_clone().unwrap()).await.unwrap();
    assert!(
        answer.status().is_success(),
        "{}: {}",
        request.url(),
        answer.status()
    );
    answer.bytes().await.unwrap();
}

/// What last_operation reads.
async fn read_both(etcd: &Etcd, id: &InstanceId) {
    let (record, scope) = (keyspace::record(id), keyspace::scope(id));
    let (record, cluster) = join!(etcd.get(&record, Read::Quorum), etcd.tree(&scope, Read::Quorum));
    assert!(record.unwrap().is_some() && cluster.unwrap().is_some());
}

/// Logs in, asks something, and sees the session closed.
async fn select_one(config: &Config) {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    let work = async move {
        client.batch_execute("SELECT 1").await.unwrap();
    };
    let ((), closed) = join!(work, connection);
    closed.unwrap();
}

/// What a process holds in memory, in kB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
