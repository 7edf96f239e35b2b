//! Section `cell`: a machine that runs Patroni nodes.

use std::{path::PathBuf, time::Duration};

use serde_json::{Map, Value as Json};

use crate::ids::{CellGuid, Port};

use super::{
    credentials::{self, Credentials},
    error::ConfigError,
    postgresql,
    section::Section,
    value::Value,
};

/// What a cell's own process needs.
#[derive(Debug, Clone)]
pub struct Cell {
    /// `guid`; on bosh-lite its IP address.
    pub guid: CellGuid,
    /// `address`: the host name or IP address at which the broker, the router and other cells reach this machine.
    pub address: String,
    /// `api_port`: where the cell's API answers; by default 8889.
    pub api_port: Port,
    /// `availability_zone`.
    pub availability_zone: String,
    /// `data_directory`: for everything the nodes keep; by default `/var/lib/patroni-broker/cell`.
    pub data_directory: PathBuf,
    /// `capacity`: how many nodes it may hold; by default 20.
    pub capacity: u32,
    /// `username` and `password`: who may call the cell's API. The broker uses the same pair for cells that it knows
    /// from their heartbeats only.
    pub credentials: Credentials,
    /// `first_port`: the nodes' own ports are taken from here on upwards; by default 20000.
    pub first_port: Port,
    /// `heartbeat_ttl`, in seconds: a cell that has not been heard of for so long counts as down; by default 30.
    pub heartbeat_ttl: Duration,
    /// `patroni`: how Patroni is started.
    pub patroni: PatroniProgram,
    /// `postgresql.parameters`: PostgreSQL's parameters for every node on this machine. A plan's go before them.
    pub postgresql_parameters: Map<String, Json>,
}

/// How Patroni is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatroniProgram {
    /// `command`: the program and its first arguments, in front of the path of its configuration; by default `patroni`.
    /// Never empty.
    pub command: Vec<String>,
    /// `postgres_bin`: the directory of PostgreSQL's programs; by default they are found along `PATH`.
    pub postgres_bin: Option<PathBuf>,
    /// `user`: the user that Patroni and PostgreSQL run as, when the cell itself runs as root (which `initdb` refuses);
    /// by default the cell's own.
    pub user: Option<String>,
}

pub(super) const KEYS: &[&str] = &[
    "guid",
    "address",
    "api_port",
    "availability_zone",
    "data_directory",
    "capacity",
    "username",
    "password",
    "first_port",
    "heartbeat_ttl",
    "patroni",
    "postgresql",
];
pub(super) const PATRONI_KEYS: &[&str] = &["command", "postgres_bin", "user"];
pub(super) const POSTGRESQL_KEYS: &[&str] = &["parameters"];

/// The section as the broker and as a cell see it: a broker needs no more of it than the credentials.
pub(super) struct Read {
    pub(super) credentials: Result<Credentials, ConfigError>,
    pub(super) cell: Result<Cell, ConfigError>,
}

pub(super) fn read(section: &mut Section<'_>) -> Result<Read, ConfigError> {
    let guid = section.optional("guid", Value::parsed)?;
    let address = section.optional("address", Value::host)?;
    let availability_zone = section.optional("availability_zone", Value::text)?;
    let api_port = port(section, "api_port", 8889)?;
    let data_directory = section.or(
        "data_directory",
        "/var/lib/patroni-broker/cell".into(),
        Value::file_path,
    )?;
    let capacity = section.or("capacity", 20, |value| value.number(1..=10_000))?;
    let first_port = port(section, "first_port", 20_000)?;
    let heartbeat_ttl = section.or("heartbeat_ttl", Duration::from_secs(30), Value::seconds)?;
    let credentials = credentials::optional(section)?.ok_or_else(|| section.missing("username"));
    let patroni = patroni(&mut section.section("patroni", PATRONI_KEYS)?)?;
    let postgresql_parameters = section.section("postgresql", POSTGRESQL_KEYS)?.or(
        "parameters",
        Map::new(),
        postgresql::parameters,
    )?;
    let require = || {
        Ok(Cell {
            guid: guid.ok_or_else(|| section.missing("guid"))?,
            address: address.ok_or_else(|| section.missing("address"))?,
            api_port,
            availability_zone: availability_zone.ok_or_else(|| section.missing("availability_zone"))?,
            data_directory,
            capacity,
            credentials: credentials.clone()?,
            first_port,
            heartbeat_ttl,
            patroni,
            postgresql_parameters,
        })
    };
    let cell = require();
    Ok(Read { credentials, cell })
}

fn patroni(section: &mut Section<'_>) -> Result<PatroniProgram, ConfigError> {
    Ok(PatroniProgram {
        command: section.or("command", vec!["patroni".to_owned()], command)?,
        postgres_bin: section.optional("postgres_bin", Value::file_path)?,
        user: section.optional("user", Value::text)?,
    })
}

fn command(value: Value) -> Result<Vec<String>, ConfigError> {
    value.some_scalars("program", Value::text)
}

fn port(section: &mut Section<'_>, key: &str, default: u16) -> Result<Port, ConfigError> {
    let number = section.or(key, default, |value| value.number(1..=u16::MAX))?;
    Port::new(number).ok_or_else(|| section.missing(key))
}
