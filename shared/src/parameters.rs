//! The parameters of a plan's requests, checked by type. What is accepted here and what the published schema says is the
//! same (see [`crate::catalog`]).

use serde_json::{Map, Value};

use crate::{catalog::Plan, error::Error};

const NODE_COUNT: &str = "node-count";

/// How many nodes the parameters ask for; the plan's default without `node-count`.
///
/// # Errors
/// `BadRequest`, with the reason: an unknown parameter, or a count that is not a whole number from 1 to the plan's most.
pub fn node_count(parameters: &Map<String, Value>, plan: &Plan) -> Result<u32, Error> {
    if let Some(unknown) = parameters.keys().find(|name| *name != NODE_COUNT) {
        let shown: String = unknown.chars().take(64).flat_map(char::escape_default).collect();
        return Err(Error::BadRequest(format!(
            "unknown parameter '{shown}'; this plan knows {NODE_COUNT}"
        )));
    }
    let nodes = plan.cluster.nodes;
    let Some(value) = parameters.get(NODE_COUNT) else {
        return Ok(nodes.default);
    };
    let count = whole_number(value).ok_or_else(|| {
        Error::BadRequest(format!(
            "{NODE_COUNT} must be a whole number, but is {}",
            shown(value)
        ))
    })?;
    let most = i128::from(nodes.max);
    match u32::try_from(count) {
        Ok(count) if (1..=nodes.max).contains(&count) => Ok(count),
        _ => Err(Error::BadRequest(format!(
            "{NODE_COUNT} must be from 1 to {most} in this plan, but is {count}"
        ))),
    }
}

/// Whether the version of `maintenance_info` that a client names, if it names one, is the plan's.
///
/// # Errors
/// `MaintenanceInfoConflict`, also when the plan has none.
pub fn check_maintenance(asked: Option<&str>, plan: &Plan) -> Result<(), Error> {
    let offered = plan.maintenance_info.as_ref().map(|info| info.version.as_str());
    if asked.is_some() && asked != offered {
        Err(Error::MaintenanceInfoConflict)
    } else {
        Ok(())
    }
}

/// A whole number however it is written: for JSON Schema, 2.0 and 1e9 are integers too.
fn whole_number(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = value.as_u64() {
        return Some(number.into());
    }
    let number = value.as_f64()?;
    let fits = number.fract() == 0.0 && number.abs() < 1e18;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "whole and in range by the line above"
    )]
    fits.then_some(number as i128)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(40).collect(),
    }
}
