//! Section `operations`: how long operations may take.

use std::time::Duration;

use super::{error::ConfigError, section::Section, value::Value};

/// Deadlines of operations, counted from the request; in the configuration in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations {
    /// `provision`; by default 10 minutes.
    pub provision: Duration,
    /// `update`; by default 30 minutes, since data is copied.
    pub update: Duration,
    /// `deprovision`; by default 10 minutes.
    pub deprovision: Duration,
    /// `tombstone_ttl`: how long the outcome of a finished deprovision is known; by default 7 days.
    pub tombstone_ttl: Duration,
    /// `replace_after`: how long the heartbeat of a cell must be missing before its nodes are replaced; by default 5 minutes,
    /// time enough for a machine to restart.
    pub replace_after: Duration,
}

pub(super) const KEYS: &[&str] = &[
    "provision",
    "update",
    "deprovision",
    "tombstone_ttl",
    "replace_after",
];

pub(super) fn read(section: &mut Section<'_>) -> Result<Operations, ConfigError> {
    Ok(Operations {
        provision: section.or("provision", Duration::from_mins(10), Value::seconds)?,
        update: section.or("update", Duration::from_mins(30), Value::seconds)?,
        deprovision: section.or("deprovision", Duration::from_mins(10), Value::seconds)?,
        tombstone_ttl: section.or("tombstone_ttl", Duration::from_hours(7 * 24), Value::seconds)?,
        replace_after: section.or("replace_after", Duration::from_mins(5), Value::seconds)?,
    })
}
