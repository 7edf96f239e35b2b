//! The configuration: one YAML file with a section for each matter, and environment variables over it.
//!
//! **Where it comes from.** The file is the one that `--config` names, otherwise `PATRONI_BROKER_CONFIG`. Functions,
//! which may have no file, get the same YAML in `PATRONI_BROKER_CONFIG_YAML`, or do with variables alone. (AWS gives a
//! function 4 kB of environment in all: a catalog with long texts is better a file in its package.)
//!
//! **Variables.** Every key of a section has one, which goes before the file:
//! `PATRONI_BROKER_<SECTION>_<KEY>`, so `kvstore.machines` is `PATRONI_BROKER_KVSTORE_MACHINES`, and
//! `cell.patroni.user` is `PATRONI_BROKER_CELL_PATRONI_USER`. Its value is the text itself; texts in a list are separated
//! by commas; what is neither (`backends`, `catalog.services`, `secrets.master_keys`, `broker.credentials`,
//! `cell.postgresql.parameters`) is written as YAML, of which JSON is a part. An empty variable counts as not set. One
//! that begins like ours and is none is an error, except `PATRONI_BROKER_MASTER_KEY...`, which are free for keys, and
//! what Kubernetes sets for a Service called `patroni-broker`. One rule for all keys, no special names, no second way.
//!
//! **Guarantees.** What is loaded has been checked as a whole: unknown keys anywhere, also in sections that the
//! process does not use, are errors. An error names the file and line (or variable) and the key, and holds no secret.
//! A process needs only its part: a cell needs no master key and should not be given one.
//! **Caveats.** The name of an unknown key is shown, so a secret that was written as a key is. What was read stays in
//! memory as plain text until loading has ended.

mod backend;
mod broker;
mod catalog;
mod cell;
mod certificate;
mod cluster;
mod credentials;
mod document;
mod environment;
mod error;
mod given;
mod kvstore;
mod operations;
mod ports;
mod postgresql;
mod router;
mod schemas;
mod secrets;
mod section;
#[cfg(test)]
mod tests;
mod value;

use std::path::Path;

pub use self::{
    backend::Backend,
    broker::{Broker, Posture},
    cell::{Cell, PatroniProgram},
    certificate::CertificateFiles,
    credentials::Credentials,
    error::ConfigError,
    kvstore::KvStore,
    operations::Operations,
    ports::Ports,
    router::Router,
};
use self::{environment::Environment, given::Given};
use crate::{catalog::Catalog, master_keys::MasterKeys};

/// What the broker needs, that is every handler, and `local-runner broker`.
#[derive(Debug)]
pub struct Config {
    /// `broker`.
    pub broker: Broker,
    /// `router.hostname`: the host that clients of the clusters connect to.
    pub hostname: String,
    /// `backends`: cells known by configuration; may be empty.
    pub backends: Vec<Backend>,
    /// `cell.username` and `cell.password`: how cells are called that are known by their heartbeats only. `None` only
    /// when there are backends: then the others are left alone.
    pub cell_credentials: Option<Credentials>,
    /// `kvstore`.
    pub kvstore: KvStore,
    /// `catalog`, or the original's `services`.
    pub catalog: Catalog,
    /// `ports`.
    pub ports: Ports,
    /// `operations`.
    pub operations: Operations,
    /// `secrets.master_keys`, read from where they are.
    pub master_keys: MasterKeys,
}

/// What the function needs that a schedule starts: the same as the broker, and time enough between two of its runs.
#[derive(Debug)]
pub struct ScheduledConfig {
    /// Everything.
    pub config: Config,
}

/// What a cell's process needs.
#[derive(Debug)]
pub struct CellConfig {
    /// `cell`.
    pub cell: Cell,
    /// `kvstore`.
    pub kvstore: KvStore,
}

/// What the router's process needs.
#[derive(Debug)]
pub struct RouterConfig {
    /// `router`.
    pub router: Router,
    /// `kvstore`.
    pub kvstore: KvStore,
}

/// What the commands need that only look at etcd.
#[derive(Debug)]
pub struct StoreConfig {
    /// `backends`: cells known by configuration; may be empty.
    pub backends: Vec<Backend>,
    /// `kvstore`.
    pub kvstore: KvStore,
}

macro_rules! load {
    ($($type:ident),*) => {$(
        impl $type {
            /// Loads the file at `path`, otherwise the one that the environment names or holds, and the environment's
            /// variables over it.
            ///
            /// # Errors
            /// The first thing that is wrong with it, or missing.
            pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
                Self::of(&Given::load(path, Environment::of_process())?)
            }

            /// The same from a text, which errors call `source`, and variables, without a look at the process's
            /// environment or at other files than those of master keys.
            ///
            /// # Errors
            /// The first thing that is wrong with it, or missing.
            pub fn parse<'a>(
                source: &str,
                yaml: &str,
                variables: impl IntoIterator<Item = (&'a str, &'a str)>,
            ) -> Result<Self, ConfigError> {
                Self::of(&Given::parse(source, yaml, Environment::of(variables))?)
            }
        }
    )*};
}

load!(Config, ScheduledConfig, CellConfig, RouterConfig, StoreConfig);

impl Config {
    fn of(given: &Given) -> Result<Self, ConfigError> {
        let all = given.read()?;
        let (broker, hostname) = (all.broker?, all.hostname?);
        let cell_credentials = match all.cell.credentials {
            Err(missing) if all.backends.is_empty() => {
                let reason = "without 'backends' it is how the cells are called that announce themselves";
                return Err(missing.because(reason));
            }
            credentials => credentials.ok(),
        };
        Ok(Self {
            broker,
            hostname,
            backends: all.backends,
            cell_credentials,
            kvstore: all.kvstore,
            catalog: all.catalog?,
            ports: all.ports,
            operations: all.operations.operations,
            master_keys: all.secrets.resolve(&given.environment)?,
        })
    }
}

impl ScheduledConfig {
    fn of(given: &Given) -> Result<Self, ConfigError> {
        given.read()?.operations.on_schedule?;
        Ok(Self {
            config: Config::of(given)?,
        })
    }
}

impl CellConfig {
    fn of(given: &Given) -> Result<Self, ConfigError> {
        let all = given.read()?;
        Ok(Self {
            cell: all.cell.cell?,
            kvstore: all.kvstore,
        })
    }
}

impl StoreConfig {
    fn of(given: &Given) -> Result<Self, ConfigError> {
        let all = given.read()?;
        Ok(Self {
            backends: all.backends,
            kvstore: all.kvstore,
        })
    }
}

impl RouterConfig {
    fn of(given: &Given) -> Result<Self, ConfigError> {
        let all = given.read()?;
        Ok(Self {
            router: all.router,
            kvstore: all.kvstore,
        })
    }
}
