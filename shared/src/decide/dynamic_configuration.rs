//! Patroni's dynamic configuration: what the plan wants and what there is.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::catalog;

/// `loop_wait` in seconds while a cluster grows. Nearly all of the time to start a cluster is spent waiting for the next
/// loop; with 1 Patroni never waits on the leader key and would be slower again (patroni-reference.md, Failover).
const LOOP_WAIT_WHILE_GROWING: u32 = 2;

/// The parameter of PostgreSQL by which a node tells which settings it has loaded. PostgreSQL gives it no meaning.
pub const VERSION: &str = "patroni_broker.settings";

/// The parameters that must not be lower on a standby than on its primary (PostgreSQL's documentation, "Administrator's
/// Overview" of hot standby), with what Patroni takes where its configuration does not name them.
pub const STANDBY_LIMITS: [(&str, i64); 5] = [
    ("max_connections", 100),
    ("max_locks_per_transaction", 64),
    ("max_prepared_transactions", 0),
    ("max_wal_senders", 10),
    ("max_worker_processes", 8),
];

/// What a plan wants of Patroni, by the names of Patroni's documentation ("Dynamic Configuration Settings").
#[must_use]
pub fn of_plan(plan: &catalog::Cluster) -> Map<String, Value> {
    let timing = plan.patroni;
    let mut parameters = plan.memory.map(sized).unwrap_or_default();
    parameters.extend(plan.postgresql_parameters.clone());
    let settings = json!({
        "ttl": timing.ttl,
        "loop_wait": timing.loop_wait,
        "retry_timeout": timing.retry_timeout,
        "maximum_lag_on_failover": timing.maximum_lag_on_failover,
        "synchronous_mode": plan.synchronous,
        // A leader goes on without etcd for as long as all other members answer it.
        "failsafe_mode": true,
        "postgresql": {
            "use_pg_rewind": true,
            "use_slots": true,
            "parameters": parameters,
        },
    });
    let version = hex_digest(&settings);
    let mut settings = match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    if let Some(parameters) = settings
        .get_mut("postgresql")
        .and_then(|it| it.get_mut("parameters"))
    {
        parameters[VERSION] = json!(version);
    }
    settings
}

/// PostgreSQL's parameters for a node with so many megabytes, as PostgreSQL's documentation recommends ("Resource
/// Consumption", "Query Planning").
fn sized(memory: u32) -> Map<String, Value> {
    let megabytes = |size: u32| Value::String(format!("{size}MB"));
    Map::from_iter([
        ("shared_buffers".to_owned(), megabytes(memory / 4)),
        ("effective_cache_size".to_owned(), megabytes(memory - memory / 4)),
        (
            "maintenance_work_mem".to_owned(),
            megabytes((memory / 16).clamp(4, 2047)),
        ),
    ])
}

/// Enough of a digest to tell configurations apart.
fn hex_digest(settings: &Value) -> String {
    // Whoever wrote the catalog may have named the settings in another order.
    let mut sorted = settings.clone();
    sorted.sort_all_objects();
    let digest = Sha256::digest(sorted.to_string());
    digest
        .iter()
        .take(8)
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Which settings a configuration holds, the plan's or Patroni's: the same for the same settings of a plan, whoever asks.
#[must_use]
pub fn version(configuration: &Map<String, Value>) -> Option<&str> {
    parameter(configuration, VERSION)?.as_str()
}

fn parameter<'c>(configuration: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    parameters(configuration)?.get(name)
}

/// What a configuration says of one of the [`STANDBY_LIMITS`].
#[must_use]
pub fn limit(configuration: &Map<String, Value>, name: &str, usual: i64) -> i64 {
    let number = |value: &Value| match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    };
    parameter(configuration, name).and_then(number).unwrap_or(usual)
}

/// The plan's configuration, made quick for as long as nodes are being added.
#[must_use]
pub fn while_growing(plan: &Map<String, Value>) -> Map<String, Value> {
    let mut quick = plan.clone();
    quick.insert("loop_wait".to_owned(), json!(LOOP_WAIT_WHILE_GROWING));
    quick
}

/// What must be patched into the configuration of an instance at rest, of which all nodes are known to run with the settings
/// `known`. Somebody late may have made it quick again, or put another plan's settings in the place of these. What the
/// catalog says otherwise today comes into force with an update.
#[must_use]
pub fn mend(current: &Value, wanted: &Map<String, Value>, known: Option<&str>) -> Option<Map<String, Value>> {
    let is_known = known.is_some() && known == version(wanted);
    if is_known && current.as_object().and_then(version) != known {
        return Some(patch(current, wanted));
    }
    let is_quick = current.get("loop_wait")? == LOOP_WAIT_WHILE_GROWING;
    let slow = slowest(current)?.min(wanted.get("loop_wait")?.as_i64()?);
    let is_another = slow >= 1 && slow != i64::from(LOOP_WAIT_WHILE_GROWING);
    (is_quick && is_another).then(|| Map::from_iter([("loop_wait".to_owned(), json!(slow))]))
}

/// The longest `loop_wait` that a configuration has room for: with twice `retry_timeout` it must not be more than `ttl`
/// (Patroni's documentation, "Dynamic Configuration Settings"). An instance keeps the two when the catalog changes.
fn slowest(configuration: &Value) -> Option<i64> {
    let seconds = |name: &str, usual: i64| match configuration.get(name) {
        None => Some(usual),
        Some(value) => value.as_i64(),
    };
    let retries = seconds("retry_timeout", 10)?.saturating_mul(2);
    Some(seconds("ttl", 30)?.saturating_sub(retries))
}

/// What must be patched into `current` so that it holds everything in `wanted`; empty when it does already.
/// Settings that `wanted` does not name are left alone, for Patroni adds its own; but of PostgreSQL's parameters those go
/// that it does not name, which are another plan's.
#[must_use]
pub fn patch(current: &Value, wanted: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = difference(current, wanted);
    let there = current.as_object().and_then(parameters);
    let (Some(there), Some(wanted)) = (there, parameters(wanted)) else {
        return patch;
    };
    let foreign: Vec<&String> = there.keys().filter(|name| !wanted.contains_key(*name)).collect();
    if !foreign.is_empty() {
        let postgresql = patch.entry("postgresql").or_insert_with(|| json!({}));
        for name in foreign {
            postgresql["parameters"][name] = Value::Null;
        }
    }
    patch
}

fn parameters(configuration: &Map<String, Value>) -> Option<&Map<String, Value>> {
    configuration.get("postgresql")?.get("parameters")?.as_object()
}

fn difference(current: &Value, wanted: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in wanted {
        match (current.get(name), value) {
            (Some(is), Value::Object(wanted)) if is.is_object() => {
                let inner = difference(is, wanted);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(is), value) if is == value => {}
            // Patroni drops a key that is patched to null.
            (None, Value::Null) => {}
            (_, value) => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_what_differs_is_patched() {
        let current = json!({"ttl": 30, "loop_wait": 2, "postgresql": {"use_slots": true, "parameters": {"max_connections": 100}}});
        let wanted = object(
            &json!({"loop_wait": 10, "postgresql": {"use_slots": true, "parameters": {"max_connections": 200}}, "pause": null}),
        );
        let patch = patch(&current, &wanted);
        assert_eq!(
            Value::Object(patch),
            json!({"loop_wait": 10, "postgresql": {"parameters": {"max_connections": 200}}})
        );
    }

    #[test]
    fn a_plan_with_memory_sizes_postgresql_and_what_it_names_itself_goes_before_that() {
        let sized = sized(1024);
        assert_eq!(
            Value::Object(sized),
            json!({"shared_buffers": "256MB", "effective_cache_size": "768MB", "maintenance_work_mem": "64MB"})
        );
        let plan = |memory, parameters: Value| catalog::Cluster {
            nodes: catalog::NodeCount { default: 1, max: 1 },
            memory,
            postgresql_parameters: object(&parameters),
            synchronous: false,
            failover: crate::record::Failover::Restart,
            patroni: catalog::PatroniTiming {
                ttl: 30,
                loop_wait: 10,
                retry_timeout: 10,
                maximum_lag_on_failover: 0,
            },
        };
        let own = of_plan(&plan(Some(1024), json!({"shared_buffers": "1GB"})));
        assert_eq!(own["postgresql"]["parameters"]["shared_buffers"], "1GB");
        assert_eq!(own["postgresql"]["parameters"]["effective_cache_size"], "768MB");
        let none = of_plan(&plan(None, json!({})));
        assert_eq!(parameters(&none).unwrap().len(), 1, "the version alone");
        assert!(version(&none).is_some_and(|version| version.len() == 16));
        assert_ne!(version(&none), version(&own));
    }

    #[test]
    fn an_instance_at_rest_is_made_slow_again_within_its_own_ttl() {
        let wanted = |loop_wait: i64| {
            object(
                &json!({"ttl": 90, "loop_wait": loop_wait, "retry_timeout": 30, "postgresql": {"parameters": {VERSION: "new"}}}),
            )
        };
        let current = |ttl: i64, loop_wait: i64, retry_timeout: i64| json!({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout, "postgresql": {"parameters": {VERSION: "old"}}});
        for (case, current, wanted, expected) in [
            ("it is the plan's", current(30, 10, 10), wanted(10), None),
            ("the catalog has changed", current(30, 10, 10), wanted(30), None),
            ("an operator has", current(30, 5, 10), wanted(10), None),
            ("it is quick", current(30, 2, 10), wanted(10), Some(10)),
            (
                "it is quick, and the plan as well",
                current(30, 2, 10),
                wanted(2),
                None,
            ),
            (
                "it is quick, and the plan quicker",
                current(30, 2, 10),
                wanted(1),
                Some(1),
            ),
            ("its ttl has less room", current(30, 2, 10), wanted(30), Some(10)),
            (
                "its ttl has room for nothing slower",
                current(22, 2, 10),
                wanted(30),
                None,
            ),
            ("its ttl has no room", current(20, 2, 10), wanted(30), None),
            (
                "it has Patroni's usual ttl",
                json!({"loop_wait": 2}),
                wanted(30),
                Some(10),
            ),
            (
                "it is out of range",
                current(i64::MIN, 2, i64::MAX),
                wanted(30),
                None,
            ),
            (
                "its ttl is no number",
                json!({"loop_wait": 2, "ttl": "30"}),
                wanted(30),
                None,
            ),
            ("nothing is known", json!(null), wanted(10), None),
        ] {
            for known in [None, Some("old")] {
                let patch = mend(&current, &wanted, known);
                let expected = expected.map(|loop_wait: i64| object(&json!({"loop_wait": loop_wait})));
                assert_eq!(patch, expected, "{case}");
            }
        }
    }

    #[test]
    fn parameters_of_another_plan_go() {
        let current = json!({"loop_wait": 10, "pause": true, "postgresql": {"parameters": {"work_mem": "8MB", "jit": "off"}}});
        let wanted = object(&json!({"loop_wait": 10, "postgresql": {"parameters": {"jit": "off"}}}));
        assert_eq!(
            Value::Object(patch(&current, &wanted)),
            json!({"postgresql": {"parameters": {"work_mem": null}}})
        );
    }

    #[test]
    fn limits_are_read_as_numbers_and_as_texts() {
        let configuration = object(
            &json!({"postgresql": {"parameters": {"max_connections": "200", "max_wal_senders": 5, "max_worker_processes": true}}}),
        );
        let limits = [
            ("max_connections", 200),
            ("max_wal_senders", 5),
            ("max_worker_processes", 8),
        ];
        for (name, expected) in limits {
            assert_eq!(limit(&configuration, name, 8), expected);
        }
    }

    #[test]
    fn nothing_is_patched_when_everything_is_there() {
        let wanted = object(&json!({"ttl": 30, "postgresql": {"use_slots": true}}));
        let current =
            json!({"ttl": 30, "retry_timeout": 10, "postgresql": {"use_slots": true, "parameters": {}}});
        assert!(patch(&current, &wanted).is_empty());
        assert_eq!(while_growing(&wanted)["loop_wait"], json!(2));
    }
}
