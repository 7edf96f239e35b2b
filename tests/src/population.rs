//! Many other instances, at rest: what etcd holds of them, and stand-in cells that say that they run their nodes.
//!
//! **Caveats.** Nobody connects to them. Their ports lie outside the range that the broker hands out, and their cells
//! are full, so that what is provisioned beside them goes elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, http::StatusCode, routing::get};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use shared::store::Store;
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use crate::{
    etcd::EtcdServer,
    osb::{PLAN, SERVICE},
};

/// How many nodes a cell has.
const PER_CELL: usize = 200;
/// How many instances are written at once.
const WRITERS: usize = 8;
const TIME: &str = "2026-11-01T12:00:00Z";

/// The instances with the numbers from 0 on.
#[derive(Debug)]
pub struct Population {
    size: Arc<AtomicUsize>,
    cells: usize,
    servers: Vec<JoinHandle<()>>,
}

impl Population {
    /// The cells of so many instances at most, without instances.
    ///
    /// # Panics
    /// When they cannot listen, or etcd does not answer.
    pub async fn found(etcd: &EtcdServer, most: usize) -> Self {
        let size = Arc::new(AtomicUsize::new(0));
        let cells = (2 * most).div_ceil(PER_CELL);
        let mut servers = Vec::new();
        for number in 0..cells {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let heartbeat = json!({
                "guid": cell(number), "availability_zone": "elsewhere", "version": "0",
                "uri": format!("http://{}", listener.local_addr().unwrap()),
                "capacity": PER_CELL, "load": PER_CELL,
            });
            let key = format!("/cells/{}", cell(number));
            etcd.client()
                .set(&key, &heartbeat.to_string(), None)
                .await
                .unwrap();
            let size = Arc::clone(&size);
            let list = move || async move {
                let nodes = (0..size.load(Ordering::SeqCst)).flat_map(|instance| {
                    let here = [0, 1]
                        .into_iter()
                        .filter(move |which| cell_of(instance, *which, cells) == number);
                    here.map(move |which| status(instance, which))
                });
                json!({"guid": cell(number), "nodes": nodes.collect::<Vec<_>>()}).to_string()
            };
            let router = Router::new()
                .route("/v2/service_instances", get(list))
                .fallback(async || StatusCode::NOT_FOUND);
            servers.push(tokio::spawn(async move {
                axum::serve(listener, router).await.unwrap();
            }));
        }
        Self { size, cells, servers }
    }

    /// Writes what is missing to so many instances.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn grow_to(&self, etcd: &EtcdServer, size: usize) {
        let client = &etcd.client();
        stream::iter(self.size.load(Ordering::SeqCst)..size)
            .for_each_concurrent(WRITERS, async |number| {
                for (key, value) in keys(number, self.cells) {
                    client.set(&key, &value, None).await.unwrap();
                }
            })
            .await;
        self.size.store(size, Ordering::SeqCst);
    }
}

impl Drop for Population {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

/// The id of an instance.
#[must_use]
pub fn instance(number: usize) -> String {
    format!("other-{number:05}")
}

fn cell(number: usize) -> String {
    format!("elsewhere-{number}")
}

/// A node: its instance, and whether it is the first or the second there.
fn node(instance: usize, which: usize) -> Uuid {
    Uuid::from_u128((1 << 64) + (2 * instance + which) as u128)
}

/// Two nodes that follow each other are never on one cell.
fn cell_of(instance: usize, which: usize, cells: usize) -> usize {
    (instance + which * cells / 2) % cells
}

fn life(instance: usize) -> Uuid {
    Uuid::from_u128((2 << 64) + instance as u128)
}

fn status(instance: usize, which: usize) -> Value {
    json!({
        "node_id": node(instance, which), "instance_id": self::instance(instance), "incarnation": life(instance),
        "state": "running", "address": "127.0.0.1:1", "rest_address": "127.0.0.1:2",
    })
}

/// What the broker, its cells and Patroni write of an instance.
fn keys(number: usize, cells: usize) -> Vec<(String, String)> {
    let id = instance(number);
    let port = 40_000 + number;
    let mut keys = vec![
        (
            format!("/serviceinstances/{id}/record"),
            record(number, port, cells).to_string(),
        ),
        (format!("/routing/ports/{port}"), format!("{id} {}", life(number))),
        (format!("/routing/allocation/{id}"), port.to_string()),
        (format!("/service/{id}/initialize"), format!("7{number:018}")),
        (format!("/service/{id}/leader"), node(number, 0).to_string()),
        (
            format!("/service/{id}/config"),
            json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "postgresql": {"use_pg_rewind": true}})
                .to_string(),
        ),
        (
            format!("/service/{id}/status"),
            json!({"optime": 83_886_336}).to_string(),
        ),
    ];
    for which in [0, 1] {
        let (node, cell) = (node(number, which), cell(cell_of(number, which, cells)));
        let role = if which == 0 { "master" } else { "replica" };
        let member = json!({
            "conn_url": "postgres://127.0.0.1:1/postgres", "api_url": "http://127.0.0.1:2/patroni",
            "state": "running", "role": role, "version": "3.0.2", "xlog_location": 83_886_336, "timeline": 1,
        });
        keys.push((format!("/service/{id}/members/{node}"), member.to_string()));
        keys.push((
            format!("/serviceinstances/{id}/nodes/{node}/backend"),
            cell.clone(),
        ));
        keys.push((
            format!("/postgresql-patroni/{cell}:cf-{node}:5432"),
            "127.0.0.1:1".to_owned(),
        ));
    }
    keys
}

fn record(number: usize, port: usize, cells: usize) -> Value {
    let placed = |which| {
        let cell = cell(cell_of(number, which, cells));
        json!({"cell": cell, "availability_zone": "elsewhere", "phase": "running", "assigned": TIME})
    };
    json!({
        "schema": 1, "instance_id": instance(number), "incarnation": life(number), "service_id": SERVICE, "plan_id": PLAN,
        "organization_guid": "", "space_guid": "", "parameters": {}, "node_count": 2,
        "port": {"state": "owned", "port": port},
        "nodes": {node(number, 0).to_string(): placed(0), node(number, 1).to_string(): placed(1)},
        "state": "active", "bootstrapped": true, "bootstrap_started": TIME,
        "master_key": "one", "credential_generation": 1,
        "last_operation": {
            "id": life(number), "kind": "provision", "state": "succeeded", "description": "", "started": TIME,
            "deadline": TIME, "ended": TIME,
        },
    })
}
