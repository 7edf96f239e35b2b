//! How long a provision takes, from the PUT to `succeeded`, against the same Patroni nodes started by hand: same
//! programs, configuration and disks, both until every replica streams (design.md, 11). The two alternate, so that
//! whatever else the machine does hits both. `PAIRS` says how many pairs are measured, 10 without it. Then the same with many
//! instances at once; `AT_ONCE` says how many, 20 without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use tests::{
    child::Child,
    measure::{median, number},
    osb::{OPERATION, Osb, fresh_id, nodes},
    ports::free_port,
    processes,
    stack::{Options, Stack},
};
use tokio::time::sleep;

/// How often both are asked how far they are: seldom enough not to slow them down.
const PAUSE: Duration = Duration::from_millis(100);
/// What a provision may take at most, as a multiple of what the bare nodes take.
const BUDGET: f64 = 1.2;
const ZONES: [&str; 4] = ["z1", "z2", "z3", "z1"];

#[tokio::main]
async fn main() {
    let pairs: u32 = number("PAIRS", 10);
    let stack = Stack::start(Options {
        zones: ZONES.to_vec(),
        durable: true,
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    for count in [2, 4] {
        println!("{count} nodes: PUT to succeeded, against the same nodes started by hand");
        println!("{:>6}{:>12}{:>12}{:>8}", "pair", "broker", "by hand", "ratio");
        let (mut broker, mut hand) = (Vec::new(), Vec::new());
        // The first pair warms the disk's caches, and is not counted.
        for pair in 0..=pairs {
            let instance = fresh_id();
            let provisioned = provision(&osb, &instance, count).await;
            let files = configurations(&stack);
            assert_eq!(files.len(), usize::try_from(count).unwrap());
            osb.unmake(&instance).await;
            let started = by_hand(&stack, &[files]).await;
            if pair > 0 {
                println!("{pair:>6}{}", row(provisioned, started));
                broker.push(provisioned);
                hand.push(started);
            }
        }
        let (broker, hand) = (median(&broker), median(&hand));
        println!("{:>6}{}", "median", row(broker, hand));
        let ratio = broker.as_secs_f64() / hand.as_secs_f64();
        let verdict = if ratio <= BUDGET { "within" } else { "ABOVE" };
        println!("{verdict} the budget of {BUDGET}\n");
    }
    at_once(&stack, &osb, number("AT_ONCE", 20)).await;
}

/// Many instances of two nodes at once: PUTs to all succeeded, against the same nodes started by hand at once.
async fn at_once(stack: &Stack, osb: &Osb, count: u32) {
    let instances: Vec<_> = (0..count).map(|_| fresh_id()).collect();
    let start = Instant::now();
    join_all(instances.iter().map(|instance| provision(osb, instance, 2))).await;
    let broker = start.elapsed();
    let mut clusters = BTreeMap::<String, Vec<Value>>::new();
    for file in configurations(stack) {
        let scope = file["scope"].as_str().unwrap().to_owned();
        clusters.entry(scope).or_default().push(file);
    }
    assert_eq!(clusters.len(), instances.len());
    for instance in &instances {
        osb.unmake(instance).await;
    }
    let hand = by_hand(stack, &clusters.into_values().collect::<Vec<_>>()).await;
    println!(
        "{count} instances of 2 nodes at once: PUTs to all succeeded, against the same nodes started by hand at once"
    );
    println!("{:>6}{}", "", row(broker, hand));
}

async fn provision(osb: &Osb, instance: &str, count: u32) -> Duration {
    let start = Instant::now();
    osb.provision(instance, &nodes(count)).await.expect(202);
    loop {
        let operation = osb.last_operation(instance).await;
        match operation.expect(200).body["state"].as_str() {
            Some("succeeded") => return start.elapsed(),
            Some("in progress") => sleep(PAUSE).await,
            _ => panic!("{}", operation.text),
        }
    }
}

/// The files with which the cells run Patroni now.
fn configurations(stack: &Stack) -> Vec<Value> {
    let directories = stack
        .cells
        .iter()
        .map(|cell| fs::read_dir(cell.nodes_directory()).unwrap());
    let files = directories
        .flatten()
        .map(|node| node.unwrap().path().join("patroni.yml"));
    files
        .map(|file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
        .collect()
}

/// Starts clusters with these files, each as another one on ports and in directories of its own, and takes them away again.
/// Answers how long it took until all replicas streamed.
async fn by_hand(stack: &Stack, clusters: &[Vec<Value>]) -> Duration {
    // PostgreSQL's socket lies below: its path must be short.
    let top = stack.directory().join("h");
    fs::create_dir(&top).unwrap();
    let mut scopes = Vec::new();
    let mut prepared = Vec::new();
    for (number, files) in clusters.iter().enumerate() {
        let scope = format!("by-hand-{}", fresh_id());
        let numbered = files.iter().enumerate();
        let nodes =
            numbered.map(|(node, file)| Node::prepare(&top.join(format!("{number}-{node}")), &scope, file));
        prepared.push(nodes.collect::<Vec<_>>());
        scopes.push(scope);
    }
    let start = Instant::now();
    let processes: Vec<_> = prepared.iter().flatten().map(Node::start).collect();
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    join_all(prepared.iter().map(async |nodes| {
        while !stands(nodes, &client).await {
            assert!(start.elapsed() < OPERATION, "no cluster by hand");
            sleep(PAUSE).await;
        }
    }))
    .await;
    let took = start.elapsed();
    drop(processes);
    processes::kill_below(&top).expect("Patroni and PostgreSQL end");
    fs::remove_dir_all(&top).unwrap();
    for scope in scopes {
        let _ = stack.etcd.raw(
            "DELETE",
            &format!("/v2/keys/service/{scope}?recursive=true"),
            None,
        );
    }
    took
}

/// Whether a node leads, and all others stream from it.
async fn stands(nodes: &[Node], client: &Client) -> bool {
    for node in nodes {
        let streaming = node.streaming(client).await;
        let others = nodes.iter().filter(|other| other.name != node.name);
        if streaming.is_some_and(|names| others.map(|other| &other.name).all(|name| names.contains(name))) {
            return true;
        }
    }
    false
}

/// A node that is started by hand.
struct Node {
    name: String,
    file: PathBuf,
    directory: PathBuf,
    rest: String,
}

impl Node {
    /// Writes the file that a cell's node had, for another node.
    fn prepare(directory: &Path, scope: &str, file: &Value) -> Self {
        let former = file["postgresql"]["data_dir"]
            .as_str()
            .unwrap()
            .strip_suffix("/data")
            .unwrap();
        let text = file.to_string().replace(former, directory.to_str().unwrap());
        let mut file: Value = serde_json::from_str(&text).unwrap();
        file["scope"] = json!(scope);
        let name = fresh_id();
        file["name"] = json!(name);
        let rest = move_to_free_port(&mut file["restapi"]);
        move_to_free_port(&mut file["postgresql"]);
        for part in ["log", "run", "tmp"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        let path = directory.join("patroni.yml");
        fs::write(&path, file.to_string()).unwrap();
        if rustix::process::geteuid().is_root() {
            let mut chown = std::process::Command::new("chown");
            chown.args(["-R", "postgres:postgres"]).arg(directory);
            assert!(chown.status().unwrap().success());
        }
        Self {
            name,
            file: path,
            directory: directory.to_owned(),
            rest: format!("http://{rest}/patroni"),
        }
    }

    fn start(&self) -> Child {
        let file = self.file.display().to_string();
        let log = self.directory.join("output.log");
        if rustix::process::geteuid().is_root() {
            let user = [
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "patroni",
                &file,
            ];
            Child::start("setpriv", &user.map(str::to_owned), &log)
        } else {
            Child::start("patroni", &[file], &log)
        }
    }

    /// Who streams from this node, by their names in PostgreSQL; `None` when it does not lead. A `pg_basebackup` that makes a
    /// replica streams as well, under its own name.
    async fn streaming(&self, client: &Client) -> Option<BTreeSet<String>> {
        let status = client.get(&self.rest).send().await.ok()?.bytes().await.ok()?;
        let status: Value = serde_json::from_slice(&status).ok()?;
        let replicas = status["replication"].as_array()?.iter();
        let streaming = replicas.filter(|replica| replica["state"] == "streaming");
        let names = streaming.filter_map(|replica| replica["application_name"].as_str());
        Some(names.map(str::to_owned).collect())
    }
}

/// Gives a section of Patroni's file a port of its own; answers the address.
fn move_to_free_port(section: &mut Value) -> String {
    let listen = section["listen"].as_str().unwrap();
    let (host, _) = listen.rsplit_once(':').unwrap();
    let address = format!("{host}:{}", free_port());
    section["listen"] = json!(address);
    section["connect_address"] = json!(address);
    address
}

fn row(broker: Duration, hand: Duration) -> String {
    let (broker, hand) = (broker.as_secs_f64(), hand.as_secs_f64());
    format!("{broker:>10.2} s{hand:>10.2} s{:>8.2}", broker / hand)
}
