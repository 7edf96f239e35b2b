//! `show-cells`: how many nodes each cell holds, `<count> <guid>`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::{
    cell_api::Heartbeat,
    keyspace,
    store::{Child, Entry, Read, Store, StoreError},
};

use super::output::{Row, Sheet};

const HEADINGS: &[&str] = &[
    "guid",
    "nodes",
    "availability_zone",
    "capacity",
    "heartbeat_seconds_left",
    "uri",
    "version",
];

/// Two requests: the projections that say which cell holds which node (with the records beside them), and the cells.
pub(super) async fn sheet(store: &dyn Store) -> Result<Sheet, StoreError> {
    let (instances, cells) = tokio::try_join!(
        store.tree(keyspace::INSTANCES, Read::Local),
        store.list(keyspace::CELLS, Read::Local)
    )?;
    let leaves = instances.map(|tree| tree.leaves).unwrap_or_default();
    Ok(rows(&leaves, &cells.unwrap_or_default()))
}

fn rows(leaves: &BTreeMap<String, Entry>, cells: &BTreeMap<String, Child>) -> Sheet {
    let mut counts: BTreeMap<&str, u32> = cells.keys().map(|guid| (guid.as_str(), 0)).collect();
    for (key, entry) in leaves {
        let segments: Vec<&str> = key.split('/').collect();
        // /serviceinstances/<id>/nodes/<node>/backend
        if let ["", _, _, "nodes", _, "backend"] = segments.as_slice() {
            *counts.entry(entry.value.trim()).or_default() += 1;
        }
    }
    let rows = counts
        .into_iter()
        .map(|(guid, count)| {
            let leaf = match cells.get(guid) {
                Some(Child::Leaf(entry)) => Some(entry),
                _ => None,
            };
            let beat: Option<Heartbeat> = leaf.and_then(|entry| serde_json::from_str(&entry.value).ok());
            let of_beat = |field: fn(&Heartbeat) -> Value| beat.as_ref().map_or(Value::Null, field);
            Row {
                line: Some(format!("{count} {guid}")),
                values: vec![
                    json!(guid),
                    json!(count),
                    of_beat(|beat| json!(beat.availability_zone)),
                    of_beat(|beat| json!(beat.capacity)),
                    json!(leaf.and_then(|entry| entry.ttl).map(|left| left.as_secs())),
                    of_beat(|beat| json!(beat.uri)),
                    of_beat(|beat| json!(beat.version)),
                ],
            }
        })
        .collect();
    Sheet {
        headings: HEADINGS,
        rows,
    }
}
