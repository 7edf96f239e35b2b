//! Section `router`: how clients reach the clusters.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use super::{error::ConfigError, section::Section, value::Value};

/// What the router's own process needs.
#[derive(Debug, Clone)]
pub struct Router {
    /// `bind_address`: where HAProxy listens; by default 0.0.0.0.
    pub bind_address: IpAddr,
    /// `haproxy`: the program; by default `haproxy`, found along `PATH`.
    pub haproxy: PathBuf,
    /// `state_directory`: for HAProxy's configuration, sockets and server state; by default
    /// `/var/lib/patroni-broker/router`.
    pub state_directory: PathBuf,
    /// `max_connections`: clients at once, over all instances; by default 4000. Each costs two file descriptors.
    pub max_connections: u32,
}

pub(super) const KEYS: &[&str] = &[
    "hostname",
    "bind_address",
    "haproxy",
    "state_directory",
    "max_connections",
];

pub(super) fn read(section: &mut Section<'_>) -> Result<Router, ConfigError> {
    Ok(Router {
        bind_address: section.or(
            "bind_address",
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Value::ip_address,
        )?,
        haproxy: section.or("haproxy", "haproxy".into(), Value::file_path)?,
        state_directory: section.or(
            "state_directory",
            "/var/lib/patroni-broker/router".into(),
            Value::file_path,
        )?,
        max_connections: section.or("max_connections", 4000, |value| value.number(1..=1_000_000))?,
    })
}

/// `hostname`: what clients connect to. The router's own process does without it.
pub(super) fn hostname(section: &mut Section<'_>) -> Result<Result<String, ConfigError>, ConfigError> {
    let hostname = section.optional("hostname", Value::host)?;
    Ok(hostname.ok_or_else(|| section.missing("hostname")))
}
