//! Documents by themselves, and what is decided about them: many more inputs in the same time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{
    binding::Binding,
    cell_api::{CellStatus, Heartbeat, NodeParameters, NodeStatus, Refusal, StartNode},
    cluster::Cluster,
    decide::{Situation, decide},
    effect::Facts,
    export::Export,
    marker::Marker,
    record::{Record, Tombstone},
    store::{Entry, Index, Tree},
};
use tests::fuzz::fuzz;
use uuid::Uuid;

use super::{borrowed, leaves, samples, text};

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
    let gone = super::leaves("gone");
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
    let deleting = super::leaves("deprovisioning");
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
