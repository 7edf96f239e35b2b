//! PostgreSQL's own parameters, of a plan or of a cell.

use serde_json::{Map, Value as Json};

use super::{
    error::ConfigError,
    value::{Value, shown},
};

/// Parameters that Patroni and the cell give to each node; the last one must stay on, or `pg_rewind` breaks a former
/// leader for good.
const OURS: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "full_page_writes",
];

/// Parameters that Patroni takes from its dynamic configuration alone, and ignores in silence when they are less than this
/// (Patroni's documentation, "Dynamic Configuration Settings").
const LEAST: &[(&str, i64)] = &[
    ("max_connections", 25),
    ("max_locks_per_transaction", 32),
    ("max_prepared_transactions", 0),
    ("max_replication_slots", 4),
    ("max_wal_senders", 3),
    ("max_worker_processes", 2),
];

/// The same, for a plan: what Patroni would not take over is refused.
pub(super) fn parameters_of_plan(value: Value) -> Result<Map<String, Json>, ConfigError> {
    let spot = value.spot.clone();
    let parameters = parameters(value)?;
    for (name, least) in LEAST {
        let Some(given) = parameters.get(*name) else {
            continue;
        };
        let number = given.as_i64().or_else(|| given.as_str()?.parse().ok());
        if number.is_none_or(|number| number < *least) {
            return Err(spot.error(format!(
                "{name} must be a whole number from {least} on: Patroni ignores others"
            )));
        }
    }
    Ok(parameters)
}

/// A mapping of names to texts, numbers and booleans.
pub(super) fn parameters(value: Value) -> Result<Map<String, Json>, ConfigError> {
    let path = value.spot.path.clone();
    let mut parameters = Map::new();
    for entry in value.entries()? {
        let key = format!("{path}.{}", shown(&entry.key));
        let refuse = |problem: &str| Err(ConfigError::new(&entry.place, &key, problem));
        if !is_name(&entry.key) {
            return refuse("is no name of a PostgreSQL parameter");
        }
        // PostgreSQL compares names without regard to case.
        if OURS.contains(&entry.key.to_ascii_lowercase().as_str()) {
            return refuse("is set by the broker itself");
        }
        let setting = entry.node.content.into_json();
        if !matches!(setting, Json::String(_) | Json::Number(_) | Json::Bool(_)) {
            return refuse("must be a text, a number or a boolean");
        }
        parameters.insert(entry.key, setting);
    }
    Ok(parameters)
}

/// `work_mem`, or `extension.setting`.
fn is_name(name: &str) -> bool {
    name.split('.').count() <= 2
        && name.split('.').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
}
