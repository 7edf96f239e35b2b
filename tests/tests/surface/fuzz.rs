//! Nothing from outside makes a handler panic: no request, nothing that stands in etcd, no answer of a cell, of Patroni or of
//! etcd. `make fuzz` takes longer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use jiff::{SignedDuration, Timestamp};
use lambda_http::http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use shared::{
    binding::Binding,
    cell_api::{CellStatus, Heartbeat, NodeParameters, NodeStatus, Refusal, StartNode},
    cells::{Cell, CellClient, HttpCells},
    cluster::Cluster,
    decide::{Situation, decide, placement::CellView},
    effect::Facts,
    etcd::{Etcd, Settings},
    export::Export,
    ids::{BindingId, CellGuid, InstanceId, NodeId, Port},
    marker::Marker,
    patroni_rest::{HttpPatroni, PatroniClient},
    ports::Owner,
    record::{Record, Tombstone},
    store::{Entry, Index, Read, Store, Tree},
};
use tests::{
    canned::{CannedServer, Reaction},
    fuzz::fuzz,
    simulation::now,
};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use crate::{answer::Answer, request::Request, stage::Stage, table::Table};

const LONGER_THAN_A_HEARTBEAT: u32 = 60;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Text, as far as bytes are.
fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// All leaves of a world in this situation.
fn leaves(situation: &str) -> BTreeMap<String, String> {
    let stage = runtime().block_on(Stage::new(&Table::load(), situation));
    let content = stage.world().store.content().into_iter();
    content.filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The values of the keys that hold this text.
fn samples(leaves: &BTreeMap<String, String>, part: &str) -> Vec<String> {
    let fits = leaves.iter().filter(|(key, _)| key.contains(part));
    let samples: Vec<String> = fits.map(|(_, value)| value.clone()).collect();
    assert!(!samples.is_empty(), "nothing at {part}: {:?}", leaves.keys());
    samples
}

fn borrowed(samples: &[String]) -> Vec<&str> {
    samples.iter().map(String::as_str).collect()
}

/// What no answer may be: that of a handler that has panicked.
fn assert_unharmed(answer: &Answer, why: &str) {
    assert!(!answer.text.contains("the broker failed"), "{why}: {answer:?}");
    assert!(
        answer.status == 304 || answer.text.ends_with('\n'),
        "{why}: {answer:?}"
    );
}

#[test]
fn ids() {
    let samples = [
        "f1",
        "10.244.21.8",
        "A_b-c.d",
        "30001",
        "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
        "f1 0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
    ];
    fuzz("ids", &samples, |input| {
        let text = text(input);
        let id: Option<InstanceId> = text.parse().ok();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=128).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(plain);
        assert_eq!(id.is_some(), fits, "{text:?}");
        assert_eq!(text.parse::<BindingId>().is_ok(), fits);
        assert_eq!(text.parse::<CellGuid>().is_ok(), fits);
        if let Ok(port) = text.parse::<Port>() {
            assert_ne!(port.number(), 0);
        }
        drop(text.parse::<NodeId>());
        drop(Owner::parse(&text));
        fits
    });
}

/// A request as a document, so that each of its parts is changed.
fn sample(request: &str) -> String {
    let request = Request::parse(request);
    let body = serde_json::from_str(&request.body).unwrap_or(Value::Null);
    json!({
        "route": request.route.unwrap(),
        "parameters": request.parameters,
        "query": request.query,
        "headers": request.headers,
        "body": body,
    })
    .to_string()
}

/// The request of such a document. What is none is sent as the body of a provision.
fn request(input: &[u8]) -> Request {
    let mut request = Request::parse("provision async");
    let Ok(document) = serde_json::from_slice::<Value>(input) else {
        request.body = text(input);
        return request;
    };
    let known = |route: &&handlers::routes::Route| json!([route.method, route.path]) == document["route"];
    if let Some(route) = handlers::routes::ALL.into_iter().find(known) {
        request.route = Some((route.method, route.path));
        route.method.clone_into(&mut request.method);
    }
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for name in ["instance_id", "binding_id"] {
        if let Some(value) = document["parameters"].get(name) {
            request.parameters.insert(name, shown(value));
        }
    }
    let fields = |name: &str| document[name].as_object().into_iter().flatten();
    request.query = fields("query")
        .map(|(name, value)| (name.clone(), shown(value)))
        .collect();
    let headers = fields("headers").map(|(name, value)| (name.clone(), shown(value)));
    // Others never come through HTTP.
    let sendable = |(name, value): &(String, String)| {
        name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok()
    };
    request.headers = headers.filter(sendable).collect();
    request.body = match &document["body"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    request
}

#[test]
fn requests() {
    let samples = [
        "catalog @if-none-match=\"x\"",
        "provision async context={\"platform\":\"x\"} maintenance_info={\"version\":\"1.0.0\"} accepts_incomplete=true",
        "provision async instance=i2 parameters={\"node-count\":2,\"cells\":[\"c1\",\"c2\"]}",
        "fetch",
        "update async parameters={\"node-count\":3} context={} previous_values={\"plan_id\":\"x\"}",
        "deprovision async",
        "poll ?operation=provision-1",
        "bind binding=b2 parameters={\"read_only\":true} bind_resource={\"app_guid\":\"a\"} context={}",
        "bind binding=b2 predecessor_binding_id=\"b1\"",
        "fetch-binding",
        "unbind",
        "poll-binding ?operation=unbind",
    ]
    .map(sample);
    let (runtime, table) = (runtime(), Table::load());
    fuzz("requests", &borrowed(&samples), |input| {
        let request = request(input);
        runtime.block_on(async {
            let mut stage = Stage::new(&table, "bound").await;
            let answer = stage.ask(&request).await;
            assert_unharmed(&answer, "a request");
            assert!(answer.status < 500, "{answer:?}");
            // Whatever it was, the next client is served.
            let next = stage.ask(&Request::parse("poll")).await;
            assert_eq!(next.status, 200, "{next:?}");
            answer.status < 300
        })
    });
}

/// Asks everything that can be asked of a broker in whose store a value is changed.
async fn ask_all(table: &Table, situation: &str, key: &str, value: &str) -> bool {
    let mut stage = Stage::new(table, situation).await;
    now(stage.world().store.set(key, value, None)).unwrap();
    let mut unharmed = true;
    for request in [
        "poll",
        "fetch",
        "fetch-binding",
        "poll-binding",
        "bind",
        "bind binding=b2",
        "provision async instance=i2",
        "unbind",
        "update async parameters={\"node-count\":3}",
        "poll",
        "deprovision async",
        "poll",
        "provision async",
    ] {
        let answer = stage.ask(&Request::parse(request)).await;
        assert_unharmed(&answer, request);
        unharmed &= answer.status < 500;
    }
    drop(stage.handler().reconcile().await);
    drop(stage.handler().mend().await);
    drop(Export::take(&*stage.handler().broker().store, Timestamp::UNIX_EPOCH).await);
    unharmed
}

/// The values at all keys that hold `part`, as they are and changed, in a store that the broker works with.
fn stored(part: &str, situation: &str, more: &[&str]) {
    let leaves = leaves(situation);
    let key = leaves
        .keys()
        .find(|key| key.contains(part))
        .unwrap_or_else(|| panic!("{part}: {leaves:?}"));
    let mut samples = samples(&leaves, part);
    samples.extend(more.iter().copied().map(str::to_owned));
    let (runtime, table) = (runtime(), Table::load());
    fuzz(&format!("{part} ({situation})"), &borrowed(&samples), |input| {
        let value = text(input);
        let unharmed = runtime.block_on(ask_all(&table, situation, key, &value));
        // For what is known to be valid the broker does all that it is asked.
        let valid = samples[0] == value;
        assert!(unharmed || !valid, "{value}");
        valid
    });
}

#[test]
fn stored_records() {
    stored("i1/record", "bound", &[]);
}

#[test]
fn stored_records_of_updates() {
    stored("i1/record", "bound and updating", &[]);
}

#[test]
fn stored_records_of_deprovisions() {
    stored("i1/record", "deprovisioning", &[]);
}

#[test]
fn stored_bindings() {
    stored("/bindings/b1", "bound", &[]);
}

#[test]
fn stored_markers() {
    stored("/operations/i1", "bound and updating", &[]);
}

#[test]
fn stored_tombstones() {
    stored("/tombstones/i1", "gone", &[]);
}

#[test]
fn stored_heartbeats() {
    stored("/cells/c1", "bound", &[]);
}

#[test]
fn stored_backends() {
    stored("/backend", "bound", &[]);
}

#[test]
fn stored_allocations() {
    stored("/routing/allocation/i1", "bound", &["0", "65536"]);
}

#[test]
fn stored_owners_of_ports() {
    stored(
        "/routing/ports/",
        "bound",
        &["quarantine", "i1", "i2 0f5c1670-6dc3-11e5-bc08-6c4008a663f0"],
    );
}

#[test]
fn stored_next_port() {
    stored("/routing/nextport", "bound", &["0", "65535"]);
}

#[test]
fn stored_members() {
    let patroni_4 = r#"{"conn_url":"postgres://127.0.0.2:15000/postgres","api_url":"http://127.0.0.2:15100/patroni","state":"running","role":"primary","version":"4.1.5","xlog_location":83886336,"timeline":1}"#;
    let replica = r#"{"conn_url":"postgres://127.0.0.3:15000/postgres","api_url":"http://127.0.0.3:15100/patroni","state":"running","role":"replica","tags":{"nofailover":true},"replication_state":"streaming","timeline":1}"#;
    let original = r#"{"role": "master", "state": "running", "conn_url": "postgres://replicator:replicator@10.244.21.8:32768/postgres", "api_url": "http://127.0.0.1:8008/patroni", "xlog_location": 83886336}"#;
    stored("/service/i1/members/", "bound", &[patroni_4, replica, original]);
}

#[test]
fn stored_leader() {
    stored("/service/i1/leader", "bound", &[]);
}

#[test]
fn stored_initialize() {
    stored("/service/i1/initialize", "bound", &["7300000000000000001", ""]);
}

#[test]
fn stored_dynamic_configuration() {
    let patroni = r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"maximum_lag_on_failover":1048576,"synchronous_mode":true,"postgresql":{"use_pg_rewind":true,"use_slots":true,"parameters":{"max_connections":100,"wal_level":"replica"}}}"#;
    stored("/service/i1/config", "bound", &[patroni]);
}

/// Keys of Patroni that the simulated one does not write.
#[test]
fn other_keys_of_patroni() {
    let (runtime, table) = (runtime(), Table::load());
    let samples = [
        r#"{"leader":"a","sync_standby":"b,c","quorum":1}"#,
        r#"{"optime":83886336,"slots":{"b":83886336},"retain_slots":["b"]}"#,
        r#"{"leader":"a","candidate":"b","scheduled_at":"2026-11-23T00:00:00+00:00"}"#,
        r#"[[1,83886336,"no recovery target specified","2026-11-23T00:00:00+00:00","b"]]"#,
        "{}",
    ];
    fuzz("sync, status, failover, history", &samples, |input| {
        let value = text(input);
        for name in ["sync", "status", "failover", "history", "optime/leader"] {
            runtime.block_on(ask_all(&table, "bound", &format!("/service/i1/{name}"), &value));
        }
        serde_json::from_str::<Value>(&value).is_ok()
    });
}

#[test]
fn cell_roll() {
    let (runtime, table) = (runtime(), Table::load());
    let stage = runtime.block_on(async {
        let stage = Stage::new(&table, "bound").await;
        stage.handler().mend().await.unwrap();
        stage.world().set_up("c3", false);
        stage.world().pass(LONGER_THAN_A_HEARTBEAT);
        stage.handler().mend().await.unwrap();
        stage.handler().declare_destroyed("c3").await.unwrap();
        stage
    });
    let roll = stage
        .world()
        .store
        .content()
        .remove("/cell-roll")
        .flatten()
        .unwrap();
    fuzz("cell roll", &[&roll], |input| {
        let value = text(input);
        runtime.block_on(ask_all(&table, "bound", "/cell-roll", &value));
        value == roll
    });
}

/// Documents by themselves: many more of them in the same time.
#[test]
fn documents() {
    fn keeps<T: serde::de::DeserializeOwned + serde::Serialize>(input: &str) -> bool {
        let Ok(read) = serde_json::from_str::<T>(input) else {
            return false;
        };
        let written = serde_json::to_value(&read).unwrap();
        let again: T = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), written);
        true
    }
    let leaves = leaves("bound and updating");
    let gone = self::leaves("gone");
    let node = json!({"node_id": Uuid::nil(), "instance_id": "i1", "incarnation": Uuid::nil(), "state": "running",
        "address": "127.0.0.2:15000", "rest_address": "127.0.0.2:15100"});
    let start = json!({"service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "s", "parameters": {
        "PATRONI_SCOPE": "i1", "NODE_ID": Uuid::nil(), "INCARNATION": Uuid::nil(), "SUPERUSER_PASSWORD": "a",
        "REPLICATION_PASSWORD": "b", "REWIND_PASSWORD": "c", "RESTAPI_PASSWORD": "d", "PATRONI_CONFIG": {"ttl": 30}}});
    let mut all = vec![
        node.to_string(),
        start.to_string(),
        start["parameters"].to_string(),
        json!({"guid": "c1", "nodes": [node]}).to_string(),
        json!({"error": "Full", "description": "full"}).to_string(),
        json!({"schema": 1, "taken": "2026-11-23T00:00:00Z", "keys": {
            "/serviceinstances/i1/record": {"value": samples(&leaves, "i1/record")[0]},
            "/routing/allocation/i1": {"value": "30000"}}})
        .to_string(),
    ];
    for (leaves, part) in [
        (&leaves, "i1/record"),
        (&leaves, "/bindings/b1"),
        (&leaves, "/operations/i1"),
        (&leaves, "/cells/c1"),
        (&gone, "/tombstones/i1"),
    ] {
        all.extend(samples(leaves, part));
    }
    fuzz("documents", &borrowed(&all), |input| {
        let text = text(input);
        let mut valid = Record::parse(&text).is_ok();
        if let Ok(record) = Record::parse(&text) {
            let again = Record::parse(&record.to_json()).unwrap();
            assert_eq!(again, record);
        }
        valid |= Binding::parse(&text).is_ok() | Marker::parse(&text).is_some();
        valid |= keeps::<Tombstone>(&text) | keeps::<Heartbeat>(&text) | keeps::<NodeStatus>(&text);
        valid |= keeps::<CellStatus>(&text) | keeps::<Refusal>(&text) | keeps::<StartNode>(&text);
        valid |= keeps::<NodeParameters>(&text);
        if let Ok(export) = Export::parse(&text) {
            assert_eq!(
                Export::parse(&export.to_json()).unwrap().to_json(),
                export.to_json()
            );
            valid = true;
        }
        valid
    });
}

/// A process that believed it would be aborted for want of memory.
#[test]
fn a_record_of_too_many_nodes_is_none() {
    let record = &samples(&leaves("bound"), "i1/record")[0];
    let mut record: Value = serde_json::from_str(record).unwrap();
    for (count, fits) in [(32, true), (33, false), (u32::MAX, false)] {
        record["node_count"] = count.into();
        assert_eq!(Record::parse(&record.to_string()).is_ok(), fits, "{count}");
    }
}

/// What is decided about a record and a cluster that nobody could have meant.
#[test]
fn decisions() {
    let leaves = leaves("bound and updating");
    let deleting = self::leaves("deprovisioning");
    let records = [samples(&leaves, "i1/record"), samples(&deleting, "i1/record")].concat();
    let scope = "/service/i1";
    let patroni: BTreeMap<&String, &String> =
        leaves.iter().filter(|(key, _)| key.starts_with(scope)).collect();
    let documents: Vec<String> = records
        .iter()
        .map(|record| {
            let record: Value = serde_json::from_str(record).unwrap();
            let keys: BTreeMap<_, Value> = patroni
                .iter()
                .map(|(key, value)| (*key, serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
                .collect();
            json!({"record": record, "keys": keys}).to_string()
        })
        .collect();
    fuzz("decisions", &borrowed(&documents), |input| {
        let Ok(document) = serde_json::from_slice::<Value>(input) else {
            return false;
        };
        let Ok(record) = Record::parse(&document["record"].to_string()) else {
            return false;
        };
        let entry = |value: &Value| Entry {
            value: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            index: Index::MIN,
            ttl: None,
        };
        let keys = document["keys"].as_object().into_iter().flatten();
        let tree = Tree {
            leaves: keys.map(|(key, value)| (key.clone(), entry(value))).collect(),
            directories: vec![],
            at: 1,
        };
        let cluster = Cluster::parse(scope, Some(&tree));
        let mut record = record;
        // A few steps, late and early.
        for now in [
            Timestamp::UNIX_EPOCH,
            "2026-11-23T00:00:00Z".parse().unwrap(),
            Timestamp::MAX,
        ] {
            let decision = decide(&Situation {
                record: &record,
                cluster: &cluster,
                facts: &Facts::default(),
                plan: None,
                replace_after: SignedDuration::from_secs(60),
                now,
                seed: Uuid::nil(),
            });
            assert!(Record::parse(&decision.record.to_json()).is_ok());
            record = decision.record;
        }
        true
    });
}

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
        let (url, password) = (server.url(), "p".into());
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
