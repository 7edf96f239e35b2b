//! Patroni's dynamic configuration: what the plan wants and what there is.

use serde_json::{Map, Value, json};

use crate::catalog;

/// `loop_wait` in seconds while a cluster grows. Nearly all of the time to start a cluster is spent waiting for the next
/// loop; with 1 Patroni never waits on the leader key and would be slower again (patroni-reference.md, Failover).
const LOOP_WAIT_WHILE_GROWING: u32 = 2;

/// What a plan wants of Patroni, by the names of Patroni's documentation ("Dynamic Configuration Settings").
#[must_use]
pub fn of_plan(plan: &catalog::Cluster) -> Map<String, Value> {
    let timing = plan.patroni;
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
            "parameters": plan.postgresql_parameters,
        },
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

/// The plan's configuration, made quick for as long as nodes are being added.
#[must_use]
pub fn while_growing(plan: &Map<String, Value>) -> Map<String, Value> {
    let mut quick = plan.clone();
    quick.insert("loop_wait".to_owned(), json!(LOOP_WAIT_WHILE_GROWING));
    quick
}

/// The part of a patch that ends the time of growing.
#[must_use]
pub fn slower(patch: &Map<String, Value>) -> Option<Map<String, Value>> {
    let (name, value) = patch.get_key_value("loop_wait")?;
    Some(Map::from_iter([(name.clone(), value.clone())]))
}

/// What must be patched into `current` so that it holds everything in `wanted`; empty when it does already.
/// Settings that `wanted` does not name are left alone: Patroni adds its own.
#[must_use]
pub fn patch(current: &Value, wanted: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in wanted {
        match (current.get(name), value) {
            (Some(is), Value::Object(wanted)) if is.is_object() => {
                let inner = self::patch(is, wanted);
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
    fn nothing_is_patched_when_everything_is_there() {
        let wanted = object(&json!({"ttl": 30, "postgresql": {"use_slots": true}}));
        let current =
            json!({"ttl": 30, "retry_timeout": 10, "postgresql": {"use_slots": true, "parameters": {}}});
        assert!(patch(&current, &wanted).is_empty());
        assert_eq!(while_growing(&wanted)["loop_wait"], json!(2));
    }
}
