//! Records for tests. Made from text, so that a field that decides nothing here may come and go.

use serde_json::{Value, json};
use shared::{
    ids::{CellGuid, Incarnation, InstanceId, NodeId},
    record::{Node, Phase, Record, SCHEMA},
};

const LONG_AGO: &str = "2026-01-01T00:00:00Z";

/// An active instance without nodes.
pub(super) fn record(instance: &InstanceId, incarnation: Incarnation) -> Record {
    from(json!({
        "schema": SCHEMA, "instance_id": instance, "incarnation": incarnation,
        "service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "s", "parameters": {},
        "node_count": 2, "port": {"state": "candidate", "port": 30000, "misses": 0}, "nodes": {},
        "state": "active", "bootstrapped": false, "bootstrap_started": LONG_AGO,
        "master_key": "k", "credential_generation": 1,
    }))
}

/// A node on a cell.
pub(super) fn node(phase: Phase, cell: &CellGuid) -> Node {
    from(json!({"cell": cell, "availability_zone": "z1", "phase": phase, "assigned": LONG_AGO}))
}

/// What is kept of a deprovisioned instance, as text.
pub(super) fn tombstone(incarnation: Incarnation, retired: &[NodeId]) -> Value {
    json!({
        "incarnation": incarnation, "retired": retired,
        "operation": {
            "id": uuid::Uuid::nil(), "kind": "deprovision", "state": "succeeded", "description": "",
            "started": LONG_AGO, "deadline": LONG_AGO,
        },
    })
}

/// A document that is right by construction.
pub(super) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
