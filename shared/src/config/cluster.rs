//! A plan's `cluster`: what its instances are made of. This is ours, and not published.

use serde_json::Map;

use crate::{
    catalog::{Cluster, NodeCount, PatroniTiming, Quota},
    ids::PlanId,
    record::{Failover, MOST_NODES},
};

use super::{
    error::ConfigError,
    postgresql,
    section::Section,
    value::{Value, shown},
};

pub(super) const KEYS: &[&str] = &[
    "nodes",
    "instances",
    "resources",
    "postgresql",
    "synchronous",
    "failover",
    "patroni",
];
pub(super) const NODES_KEYS: &[&str] = &["default", "max"];
pub(super) const INSTANCES_KEYS: &[&str] = &["max"];
pub(super) const RESOURCES_KEYS: &[&str] = &["memory"];
pub(super) const POSTGRESQL_KEYS: &[&str] = &["parameters"];
pub(super) const PATRONI_KEYS: &[&str] = &["ttl", "loop_wait", "retry_timeout", "maximum_lag_on_failover"];

const FAILOVERS: &[(&str, Failover)] = &[("restart", Failover::Restart), ("promote", Failover::Promote)];

/// Megabytes that a node may be sized for.
const MEMORY: std::ops::RangeInclusive<u32> = 64..=1024 * 1024;
const DEFAULT_NODES: NodeCount = NodeCount { default: 2, max: 4 };

/// Defaults: 2 nodes, at most 4; asynchronous; a dead leader is started again, unless commits wait for a replica, which then
/// takes over; Patroni's own timing.
pub(super) fn read(section: &mut Section<'_>) -> Result<Cluster, ConfigError> {
    let nodes = nodes(&mut section.section("nodes", NODES_KEYS)?)?;
    let mut resources = section.section("resources", RESOURCES_KEYS)?;
    let mut postgresql = section.section("postgresql", POSTGRESQL_KEYS)?;
    let synchronous = section.or("synchronous", false, Value::boolean)?;
    Ok(Cluster {
        nodes,
        memory: resources.optional("memory", memory)?,
        postgresql_parameters: postgresql.or("parameters", Map::new(), postgresql::parameters_of_plan)?,
        synchronous,
        failover: section.or("failover", Failover::usual(synchronous), |value| {
            value.one_of(FAILOVERS)
        })?,
        patroni: patroni(&mut section.section("patroni", PATRONI_KEYS)?)?,
    })
}

/// How many instances there may be. They are counted in etcd, under the plan's id.
pub(super) fn quota(section: &mut Section<'_>, plan: &str) -> Result<Option<Quota>, ConfigError> {
    let Some(max) = section.optional("max", |value| value.number(1..=u32::MAX))? else {
        return Ok(None);
    };
    let plan: PlanId = plan
        .parse()
        .map_err(|error| section.error(format!("are counted under the plan's id, but {error}")))?;
    Ok(Some(Quota { plan, max }))
}

/// A size such as `512MB` or `4GB`, in megabytes, from which PostgreSQL's defaults still follow sensibly.
fn memory(value: Value) -> Result<u32, ConfigError> {
    let (spot, text) = value.spot_and_text()?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "MB" => Some(1),
        "GB" => Some(1024),
        _ => None,
    };
    let size = factor.and_then(|factor| number.parse::<u32>().ok()?.checked_mul(factor));
    size.filter(|size| MEMORY.contains(size)).ok_or_else(|| {
        let text = shown(&text);
        spot.error(format!(
            "must be from 64MB to 1024GB, such as 512MB or 4GB, not '{text}'"
        ))
    })
}

fn nodes(section: &mut Section<'_>) -> Result<NodeCount, ConfigError> {
    let default = section.optional("default", |value| value.number(1..=MOST_NODES))?;
    // Not less than the default, where both are given.
    let max = section.optional("max", |value| value.number(default.unwrap_or(1)..=MOST_NODES))?;
    Ok(match (default, max) {
        (Some(default), Some(max)) => NodeCount { default, max },
        (Some(default), None) => NodeCount {
            default,
            max: default.max(DEFAULT_NODES.max),
        },
        (None, Some(max)) => NodeCount {
            default: max.min(DEFAULT_NODES.default),
            max,
        },
        (None, None) => DEFAULT_NODES,
    })
}

/// Patroni's own defaults, and the limits that Patroni 4 enforces silently.
fn patroni(section: &mut Section<'_>) -> Result<PatroniTiming, ConfigError> {
    let timing = PatroniTiming {
        ttl: section.or("ttl", 30, |value| value.number(20..=3600))?,
        loop_wait: section.or("loop_wait", 10, |value| value.number(1..=3600))?,
        retry_timeout: section.or("retry_timeout", 10, |value| value.number(3..=3600))?,
        maximum_lag_on_failover: section.or("maximum_lag_on_failover", 1024 * 1024, |value| {
            value.number(0..=i64::MAX.unsigned_abs())
        })?,
    };
    let (ttl, least) = (timing.ttl, timing.loop_wait + 2 * timing.retry_timeout);
    if ttl < least {
        return Err(section.error(format!(
            "ttl is {ttl}, but must be at least loop_wait + 2 * retry_timeout, which is {least}"
        )));
    }
    Ok(timing)
}
