//! What cells, Patroni and etcd answer.

use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use serde_json::json;
use shared::{
    cell_api::StartNode,
    cells::{Cell, CellClient, HttpCells},
    decide::placement::CellView,
    etcd::{Etcd, Settings},
    ids::NodeId,
    patroni_rest::{HttpPatroni, PatroniClient},
    store::{Index, Read, Store},
};
use tests::{
    canned::{CannedServer, Reaction},
    fuzz::fuzz,
};

use uuid::Uuid;

use super::runtime;

/// A server that answers each request with what is in the cell.
fn server() -> (CannedServer, Arc<Mutex<Vec<u8>>>) {
    let answer = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&answer);
    let server = CannedServer::start(move |_, _| Reaction::Last(given.lock().unwrap().clone()));
    (server, answer)
}

/// A whole answer: a JSON body in HTTP, and everything else as it is.
fn in_http(status: &str, input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"HTTP/") {
        return input.to_vec();
    }
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-etcd-index: 7\r\ncontent-length: {}\r\n\r\n",
        input.len()
    );
    [head.as_bytes(), input].concat()
}

#[test]
fn answers_of_patroni() {
    let (server, answer) = server();
    let (runtime, patroni) = (runtime(), HttpPatroni::new().unwrap());
    let status = r#"{"state":"running","role":"primary","timeline":1,"replication":[{"usename":"replicator","application_name":"b","state":"streaming","sync_state":"async"}]}"#;
    let whole = String::from_utf8(in_http("200 OK", status.as_bytes())).unwrap();
    fuzz("answers of Patroni", &[status, &whole], |input| {
        *answer.lock().unwrap() = in_http("200 OK", input);
        let (url, password) = (server.url(), SecretString::from("p").into());
        runtime.block_on(async {
            drop(patroni.configure(&url, &password, &serde_json::Map::new()).await);
            drop(patroni.switchover(&url, &password, "a", "b").await);
            patroni.replication(&url).await.is_ok()
        })
    });
}

#[test]
fn answers_of_cells() {
    let (server, answer) = server();
    let (runtime, cells) = (runtime(), HttpCells::new().unwrap());
    let cell = Cell {
        view: CellView {
            guid: "c1".parse().unwrap(),
            availability_zone: "z1".to_owned(),
            room: None,
        },
        uri: server.url(),
        username: "u".to_owned(),
        password: "p".into(),
    };
    let status = json!({"guid": "c1", "nodes": [{"node_id": Uuid::nil(), "instance_id": "i1", "incarnation": Uuid::nil(),
        "state": "running", "address": "127.0.0.2:15000", "rest_address": "127.0.0.2:15100"}]})
    .to_string();
    let refusal = r#"{"error":"Full","description":"the cell is full"}"#;
    let whole = String::from_utf8(in_http("422 Unprocessable Entity", refusal.as_bytes())).unwrap();
    let start: StartNode = serde_json::from_value(json!({
        "service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "s", "parameters": {
            "PATRONI_SCOPE": "i1", "NODE_ID": Uuid::nil(), "INCARNATION": Uuid::nil(), "SUPERUSER_PASSWORD": "a",
            "REPLICATION_PASSWORD": "b", "REWIND_PASSWORD": "c", "RESTAPI_PASSWORD": "d", "PATRONI_CONFIG": {}}}))
    .unwrap();
    fuzz("answers of cells", &[&status, refusal, &whole], |input| {
        let node = NodeId::from(Uuid::nil());
        runtime.block_on(async {
            *answer.lock().unwrap() = in_http("503 Service Unavailable", input);
            drop(cells.start(&cell, node, &start).await);
            drop(cells.remove(&cell, node).await);
            *answer.lock().unwrap() = in_http("200 OK", input);
            cells.status(&cell).await.is_ok()
        })
    });
}

#[test]
fn answers_of_etcd() {
    let (server, answer) = server();
    let runtime = runtime();
    let etcd = Etcd::new(&Settings::new(vec![server.url()])).unwrap();
    let leaf = r#"{"action":"get","node":{"key":"/a/b","value":"v","modifiedIndex":5,"createdIndex":5,"ttl":9,"expiration":"2026-11-23T00:00:00Z"}}"#;
    let tree = r#"{"action":"get","node":{"key":"/a","dir":true,"nodes":[{"key":"/a/b","value":"v","modifiedIndex":5,"createdIndex":5},{"key":"/a/c","dir":true,"modifiedIndex":4,"createdIndex":4}],"modifiedIndex":3,"createdIndex":3}}"#;
    let written = r#"{"action":"compareAndSwap","node":{"key":"/a/b","value":"w","modifiedIndex":6,"createdIndex":5},"prevNode":{"key":"/a/b","value":"v","modifiedIndex":5,"createdIndex":5}}"#;
    let refused = r#"{"errorCode":101,"message":"Compare failed","cause":"[5 != 6]","index":6}"#;
    let whole = String::from_utf8(in_http("200 OK", leaf.as_bytes())).unwrap();
    let missing = String::from_utf8(in_http(
        "404 Not Found",
        br#"{"errorCode":100,"message":"Key not found","cause":"/a","index":6}"#,
    ))
    .unwrap();
    fuzz(
        "answers of etcd",
        &[leaf, tree, written, refused, &whole, &missing],
        |input| {
            runtime.block_on(async {
                *answer.lock().unwrap() = in_http("412 Precondition Failed", input);
                drop(etcd.compare_and_swap("/a/b", "w", Index::MIN, None).await);
                *answer.lock().unwrap() = in_http("200 OK", input);
                drop(etcd.compare_and_delete("/a/b", Index::MIN).await);
                drop(etcd.tree("/a", Read::Quorum).await);
                drop(etcd.list("/a", Read::Quorum).await);
                matches!(etcd.get("/a/b", Read::Quorum).await, Ok(Some(_)))
            })
        },
    );
}
