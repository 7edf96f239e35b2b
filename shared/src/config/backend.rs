//! List `backends`: the cells that are known by configuration.

use crate::ids::CellGuid;

use super::{
    credentials::{self, Credentials},
    error::ConfigError,
    section::Section,
    value::{Unique, Value},
};

/// A cell that is known by configuration, as on bosh-lite. Others announce themselves by their heartbeats.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `guid`; on bosh-lite its IP address.
    pub guid: CellGuid,
    /// `availability_zone`.
    pub availability_zone: String,
    /// `uri`: where its API answers, `http://host:port`, without a slash at the end.
    pub uri: String,
    /// `username` and `password`: how the broker calls it.
    pub credentials: Credentials,
}

pub(super) const KEYS: &[&str] = &["guid", "availability_zone", "uri", "username", "password"];

pub(super) fn read(value: Value) -> Result<Vec<Backend>, ConfigError> {
    let (mut guids, mut uris) = (Unique::default(), Unique::default());
    let backend = |value| {
        let mut section = Section::element(value, KEYS)?;
        Ok(Backend {
            guid: section.required("guid", |value| guids.value(value, Value::parsed))?,
            availability_zone: section.required("availability_zone", Value::text)?,
            uri: section.required("uri", |value| uris.value(value, Value::http_url))?,
            credentials: credentials::required(&mut section)?,
        })
    };
    value.elements()?.into_iter().map(backend).collect()
}
