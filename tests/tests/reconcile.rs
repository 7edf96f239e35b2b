//! The function `reconcile` as it is deployed, two of them at once, on a real etcd with stand-in cells: drift of each kind is
//! mended, and what only looks like it is left alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Path as Segment, State},
    routing::get,
};
use serde_json::{Value, json};
use shared::{
    clock::{Clock, SystemClock},
    store::Store,
};
use tests::{
    etcd::EtcdServer,
    keys::Keys,
    osb::{PLAN, SERVICE},
    runtime_api::Function,
    stack::function_variables,
};
use tokio::net::TcpListener;

const LIFE: &str = "11111111-1111-4111-8111-111111111111";
const FORMER: &str = "22222222-2222-4222-8222-222222222222";
/// The nodes: of the record, of the record but unknown to its cell, retired, and in no record.
const LEADER: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const LOST: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const RETIRED: &str = "cccccccc-cccc-4ccc-8ccc-cccccccccccc";
const STRANGER: &str = "dddddddd-dddd-4ddd-8ddd-dddddddddddd";
const TIME: &str = "2026-11-01T12:00:00Z";

/// A cell that says what it is told to say, and writes down what it is asked to do.
#[derive(Clone)]
struct Cell {
    guid: &'static str,
    nodes: Vec<Value>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Cell {
    async fn start(guid: &'static str, nodes: Vec<Value>, etcd: &impl Store) -> Self {
        let cell = Self {
            guid,
            nodes,
            asked: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let asked = |method: &'static str| {
            move |State(cell): State<Self>, Segment(node): Segment<String>| async move {
                cell.asked.lock().unwrap().push(format!("{method} {node}"));
                "{}"
            }
        };
        let list =
            async |State(cell): State<Self>| json!({"guid": cell.guid, "nodes": cell.nodes}).to_string();
        let router = Router::new()
            .route("/v2/service_instances", get(list))
            .route(
                "/v2/service_instances/{node}",
                axum::routing::put(asked("PUT")).delete(asked("DELETE")),
            )
            .with_state(cell.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let heartbeat = json!({
            "guid": guid, "availability_zone": "z1", "uri": uri, "capacity": 9, "load": 1, "version": "0",
        });
        put(etcd, &format!("/cells/{guid}"), &heartbeat.to_string()).await;
        cell
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

async fn put(etcd: &impl Store, key: &str, value: &str) {
    etcd.set(key, value, None).await.unwrap();
}

fn status(node: &str, instance: &str, incarnation: &str) -> Value {
    json!({
        "node_id": node, "instance_id": instance, "incarnation": incarnation, "state": "running",
        "address": "127.0.0.1:1", "rest_address": "127.0.0.1:2",
    })
}

fn operation(state: &str) -> Value {
    json!({
        "id": FORMER, "kind": "provision", "state": state, "description": "", "started": TIME,
        "deadline": TIME, "ended": TIME,
    })
}

fn record() -> Value {
    let node =
        |cell: &str| json!({"cell": cell, "availability_zone": "z1", "phase": "running", "assigned": TIME});
    json!({
        "schema": 1, "instance_id": "i1", "incarnation": LIFE, "service_id": SERVICE, "plan_id": PLAN,
        "organization_guid": "", "space_guid": "", "parameters": {}, "node_count": 2,
        "port": {"state": "owned", "port": 30001}, "nodes": {LEADER: node("c1"), LOST: node("c2")},
        "retired": [RETIRED], "state": "active", "bootstrapped": true, "bootstrap_started": TIME,
        "master_key": "one", "credential_generation": 1, "last_operation": operation("succeeded"),
    })
}

/// What is found after all is mended, but for what was there from the start.
fn mended(etcd: &EtcdServer) -> Vec<String> {
    let keys = Keys::below(etcd, "").without_hints().0;
    let shown = keys.iter().filter(|(key, value)| {
        !value.is_empty()
            && (key.starts_with("/routing") || key.ends_with("/backend") || key.starts_with("/operations"))
    });
    shown.map(|(key, value)| format!("{key} = {value}")).collect()
}

#[tokio::test]
async fn two_reconcilers_mend_each_kind_of_drift() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    let held = vec![
        status(LEADER, "i1", LIFE),
        status(RETIRED, "i1", LIFE),
        status(STRANGER, "ghost", FORMER),
    ];
    let first = Cell::start("c1", held, &etcd).await;
    let second = Cell::start("c2", Vec::new(), &etcd).await;

    put(&etcd, "/serviceinstances/i1/record", &record().to_string()).await;
    for (key, value) in [
        ("/service/i1/initialize", "7"),
        ("/service/i1/leader", LEADER),
        ("/routing/adopted", "all"),
        // Projections: one is wrong, one is missing, one is superfluous.
        (&format!("/serviceinstances/i1/nodes/{LOST}/backend"), "c9"),
        (&format!("/serviceinstances/i1/nodes/{RETIRED}/backend"), "c1"),
        // The port's owner and the allocation are missing. An earlier life's port was never handed back.
        ("/routing/ports/30007", &format!("i1 {FORMER}")),
        // Of an instance that is gone.
        ("/routing/ports/30008", &format!("gone {FORMER}")),
        ("/routing/allocation/gone", "30008"),
        // An older broker's instance.
        ("/routing/allocation/old", "30050"),
        ("/serviceinstances/old/nodes/1234/backend", "10.0.0.1"),
    ] {
        put(&etcd, key, value).await;
    }
    let member = json!({
        "conn_url": "postgres://127.0.0.1:1/postgres", "api_url": "http://127.0.0.1:2/patroni",
        "state": "running", "role": "primary", "timeline": 1,
    });
    put(
        &etcd,
        &format!("/service/i1/members/{LEADER}"),
        &member.to_string(),
    )
    .await;
    // A provision that has announced itself and not written its record yet.
    let now = SystemClock.now().to_string();
    let marker = json!({"incarnation": FORMER, "operation": FORMER, "kind": "provision", "since": now});
    put(&etcd, "/operations/fresh", &marker.to_string()).await;
    put(&etcd, "/routing/ports/30009", &format!("fresh {FORMER}")).await;

    let variables = function_variables(server.url());
    let directory = tempfile::tempdir().unwrap();
    let log = |name: &str| directory.path().join(name);
    let start = async |log: &Path| Function::start("reconcile", &variables, log).await;
    let (one, other) = (start(&log("one")).await, start(&log("other")).await);
    let event = json!({"source": "aws.events", "detail-type": "Scheduled Event"});
    for _ in 0..3 {
        let (one, other) = tokio::join!(one.invoke(event.clone()), other.invoke(event.clone()));
        assert!(one.unwrap()["checked"].as_u64().is_some());
        other.unwrap();
    }

    let expected = [
        format!("/operations/fresh = {marker}"),
        "/routing/allocation/i1 = 30001".to_owned(),
        "/routing/allocation/old = 30050".to_owned(),
        format!("/routing/ports/30001 = i1 {LIFE}"),
        "/routing/ports/30007 = quarantine".to_owned(),
        "/routing/ports/30008 = quarantine".to_owned(),
        format!("/routing/ports/30009 = fresh {FORMER}"),
        "/routing/ports/30050 = old".to_owned(),
        format!("/serviceinstances/i1/nodes/{LEADER}/backend = c1"),
        format!("/serviceinstances/i1/nodes/{LOST}/backend = c2"),
        "/serviceinstances/old/nodes/1234/backend = 10.0.0.1".to_owned(),
    ];
    assert_eq!(mended(&server), expected);
    assert_eq!(first.asked(), [format!("DELETE {RETIRED}")]);
    assert_eq!(second.asked(), [format!("PUT {LOST}")]);
    let log = std::fs::read_to_string(log("one")).unwrap() + &std::fs::read_to_string(log("other")).unwrap();
    for said in [
        "mended: the owner key of port 30001",
        "no record names this node",
        "it was missing",
    ] {
        assert!(log.contains(said), "{said} is not in the log:\n{log}");
    }
}
