//! What stands in etcd, for comparison.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::etcd::EtcdServer;

/// Directories that stay once they were needed; empty, they say nothing. So do those of plans with a quota.
const LASTING: [&str; 10] = [
    "/cells/",
    "/operations/",
    "/postgresql-patroni/",
    "/reconcile/",
    "/routing/",
    "/routing/allocation/",
    "/routing/ports/",
    "/service/",
    "/serviceinstances/",
    "/tombstones/",
];

/// Keys with their values. A directory's key ends in a slash, and its value is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys(pub BTreeMap<String, String>);

impl Keys {
    /// Everything below a key, without directories that say nothing.
    ///
    /// # Panics
    /// When etcd does not answer.
    #[must_use]
    pub fn below(etcd: &EtcdServer, key: &str) -> Self {
        let (status, body) = etcd.raw("GET", &format!("/v2/keys{key}?recursive=true&quorum=true"), None);
        let mut keys = BTreeMap::new();
        match status {
            200 => {
                let answer: Value = serde_json::from_str(&body).unwrap();
                collect(&answer["node"], &mut keys);
            }
            404 => {}
            _ => panic!("{key}: {status} {body}"),
        }
        let is_of_a_plan = |key: &str| key.starts_with("/quotas/") && key.ends_with('/');
        keys.retain(|key, _| !LASTING.contains(&key.as_str()) && !is_of_a_plan(key));
        Self(keys)
    }

    /// Without the hints that may change at any time and decide nothing: where the search for a port starts, that the
    /// ports of an older router were looked for, how far reconcile has come, which cells there were lately, and the loads
    /// in heartbeats, which come a moment after the nodes.
    #[must_use]
    pub fn without_hints(mut self) -> Self {
        const HINTS: [&str; 4] = [
            "/routing/nextport",
            "/routing/adopted",
            "/reconcile/cursor",
            "/cell-roll",
        ];
        self.0.retain(|key, _| !HINTS.contains(&key.as_str()));
        for (_, heartbeat) in self.0.iter_mut().filter(|(key, _)| key.starts_with("/cells/")) {
            let mut document: Value = serde_json::from_str(heartbeat).expect("a heartbeat is JSON");
            document["load"] = Value::Null;
            *heartbeat = document.to_string();
        }
        self
    }

    /// Without the markers of instances that are not there: one that goes leaves one for two minutes, against
    /// a provision that stands still.
    #[must_use]
    pub fn without_markers_of_nothing(mut self) -> Self {
        let there = self.0.clone();
        self.0.retain(|key, _| {
            key.strip_prefix("/operations/")
                .is_none_or(|id| there.contains_key(&format!("/serviceinstances/{id}/record")))
        });
        self
    }

    /// Without what deprovisions leave on purpose: tombstones, and ports in quarantine.
    #[must_use]
    pub fn without_remains(mut self) -> Self {
        self.0.retain(|key, value| {
            let quarantined = key.starts_with("/routing/ports/") && value == "quarantine";
            !key.starts_with("/tombstones/") && !quarantined
        });
        self
    }

    /// Lines that say what is in `self` and not in `before`, or the other way round.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, value) in &self.0 {
            match before.0.get(key) {
                None => lines.push(format!("+ {key} = {value}")),
                Some(old) if old != value => lines.push(format!("~ {key} = {old} -> {value}")),
                Some(_) => {}
            }
        }
        let gone = before.0.keys().filter(|key| !self.0.contains_key(*key));
        lines.extend(gone.map(|key| format!("- {key}")));
        lines
    }
}

fn collect(node: &Value, keys: &mut BTreeMap<String, String>) {
    let key = node["key"].as_str().unwrap_or_default();
    if node["dir"].as_bool() == Some(true) {
        if !key.is_empty() {
            keys.insert(format!("{key}/"), String::new());
        }
        for child in node["nodes"].as_array().into_iter().flatten() {
            collect(child, keys);
        }
    } else {
        let value = node["value"].as_str().unwrap_or_default();
        keys.insert(key.to_owned(), value.to_owned());
    }
}
