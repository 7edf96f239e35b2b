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

/// The least `replace_after` where nobody but a schedule looks at the cells. A cell is missing only for as long as somebody
/// looks at least twice in that time ([`crate::roll`]); the schedule runs once a minute (template.yaml), at times some
/// seconds late.
const LEAST_ON_SCHEDULE: Duration = Duration::from_secs(150);

/// What the section says, and what is wrong with it for a function that a schedule starts.
pub(super) struct Read {
    pub(super) operations: Operations,
    pub(super) on_schedule: Result<(), ConfigError>,
}

pub(super) const KEYS: &[&str] = &[
    "provision",
    "update",
    "deprovision",
    "tombstone_ttl",
    "replace_after",
];

pub(super) fn read(section: &mut Section<'_>) -> Result<Read, ConfigError> {
    let mut on_schedule = Ok(());
    let operations = Operations {
        provision: section.or("provision", Duration::from_mins(10), Value::seconds)?,
        update: section.or("update", Duration::from_mins(30), Value::seconds)?,
        deprovision: section.or("deprovision", Duration::from_mins(10), Value::seconds)?,
        tombstone_ttl: section.or("tombstone_ttl", Duration::from_hours(7 * 24), Value::seconds)?,
        replace_after: section.or("replace_after", Duration::from_mins(5), |value| {
            let spot = value.spot.clone();
            let seconds = value.seconds()?;
            if seconds < LEAST_ON_SCHEDULE {
                let least = LEAST_ON_SCHEDULE.as_secs();
                on_schedule = Err(spot.error(format!(
                    "must be at least {least}: the schedule looks at the cells once a minute, and none counts as missing \
                     that is not looked for twice in that time"
                )));
            }
            Ok(seconds)
        })?,
    };
    Ok(Read {
        operations,
        on_schedule,
    })
}
