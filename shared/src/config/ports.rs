//! Section `ports`: the public ports that instances are given.

use std::time::Duration;

use crate::ids::Port;

use super::{
    error::ConfigError,
    section::Section,
    value::{Value, shown},
};

/// The public ports, `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The first port of `range`; by default 30000.
    pub first: Port,
    /// The last port of `range`, itself included; by default 32767: from 32768 on, outgoing connections of the machine
    /// may hold any port.
    pub last: Port,
    /// `quarantine`, in seconds: how long a port that was handed back is given to nobody; by default an hour.
    pub quarantine: Duration,
}

pub(super) const KEYS: &[&str] = &["range", "quarantine"];
const DEFAULT_RANGE: &str = "30000-32767";

pub(super) fn read(section: &mut Section<'_>) -> Result<Ports, ConfigError> {
    let given = section.optional("range", range)?;
    let default = || parse(DEFAULT_RANGE).ok_or_else(|| section.missing("range"));
    let (first, last) = given.map_or_else(default, Ok)?;
    Ok(Ports {
        first,
        last,
        quarantine: section.or("quarantine", Duration::from_hours(1), Value::seconds)?,
    })
}

fn range(value: Value) -> Result<(Port, Port), ConfigError> {
    let (spot, text) = value.spot_and_text()?;
    parse(&text).ok_or_else(|| {
        let text = shown(&text);
        spot.error(format!(
            "must be two ports with the lower one first, such as '{DEFAULT_RANGE}', not '{text}'"
        ))
    })
}

fn parse(text: &str) -> Option<(Port, Port)> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (Port, Port) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last))
}
