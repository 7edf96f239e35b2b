//! `show-cells`: how many nodes each cell holds, `<count> <guid>`, in the order of the guids.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use shared::{
    cell_api::Heartbeat,
    config::Backend,
    keyspace,
    store::{Child, Entry, Read, Store, StoreError},
};

use super::output::{Row, Sheet};

const HEADINGS: &[&str] = &[
    "guid",
    "nodes",
    "availability_zone",
    "capacity",
    "heartbeat_age_seconds",
    "uri",
    "version",
];

/// Two requests: the projections that say which cell holds which node (with the records beside them), and the
/// heartbeats. Cells of the configuration are there also when they are silent.
pub(super) async fn sheet(store: &dyn Store, backends: &[Backend]) -> Result<Sheet, StoreError> {
    let (instances, heartbeats) = tokio::try_join!(
        store.tree(keyspace::INSTANCES, Read::Local),
        store.list(keyspace::CELLS, Read::Local)
    )?;
    let leaves = instances.map(|tree| tree.leaves).unwrap_or_default();
    Ok(rows(&leaves, &heartbeats.unwrap_or_default(), backends))
}

/// What is known about one cell.
#[derive(Default)]
struct Cell<'a> {
    nodes: u32,
    configured: Option<&'a Backend>,
    heartbeat: Option<Heartbeat>,
    left: Option<Duration>,
}

fn rows(
    instances: &BTreeMap<String, Entry>,
    heartbeats: &BTreeMap<String, Child>,
    backends: &[Backend],
) -> Sheet {
    let mut cells: BTreeMap<&str, Cell<'_>> = BTreeMap::new();
    for backend in backends {
        cells.entry(backend.guid.as_str()).or_default().configured = Some(backend);
    }
    for (guid, child) in heartbeats {
        let cell = cells.entry(guid.as_str()).or_default();
        if let Child::Leaf(entry) = child {
            cell.heartbeat = serde_json::from_str(&entry.value).ok();
            cell.left = entry.ttl;
        }
    }
    for (key, entry) in instances {
        let segments: Vec<&str> = key.split('/').collect();
        // /serviceinstances/<id>/nodes/<node>/backend
        if let ["", _, _, "nodes", _, "backend"] = segments.as_slice() {
            cells.entry(entry.value.trim()).or_default().nodes += 1;
        }
    }
    Sheet {
        headings: HEADINGS,
        rows: cells.iter().map(|(guid, cell)| row(guid, cell)).collect(),
    }
}

fn row(guid: &str, cell: &Cell<'_>) -> Row {
    let (configured, beat) = (cell.configured, cell.heartbeat.as_ref());
    let zone = beat.map(|beat| &beat.availability_zone);
    let uri = beat.map(|beat| &beat.uri);
    let ttl = beat.and_then(|beat| beat.ttl).map(Duration::from_secs);
    let age = ttl
        .zip(cell.left)
        .map(|(ttl, left)| ttl.saturating_sub(left).as_secs());
    let values: Vec<Value> = vec![
        json!(guid),
        json!(cell.nodes),
        // The broker takes the zone from the configuration, too, and the address from the heartbeat.
        json!(configured.map(|backend| &backend.availability_zone).or(zone)),
        json!(beat.map(|beat| beat.capacity)),
        json!(age),
        json!(uri.or(configured.map(|backend| &backend.uri))),
        json!(beat.map(|beat| &beat.version)),
    ];
    Row {
        line: Some(format!("{} {guid}", cell.nodes)),
        values,
    }
}
