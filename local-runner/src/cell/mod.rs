//! A cell: the process on a machine that runs Patroni nodes (design.md, 7).
//!
//! **Guarantees.**
//! - A node runs only while the record of its incarnation names it on this cell, and at most one Patroni runs for it,
//!   also after the cell was killed and started again: a running one is adopted.
//! - Data is deleted only for a node that a caller told to leave in accordance with its record, or that a record or a
//!   tombstone names as retired; its id is remembered durably before. Anything else that must not run is stopped and
//!   its directory set aside.
//! - While etcd cannot be read, running nodes go on and none is started.
//! - A leader that was killed together with its PostgreSQL gives its place up at once, where its plan prefers that and it is
//!   certain to be right ([`failover`]).
//! - A cell that is told to stop leaves no process behind; one that is killed leaves them running.
//! - No password is in a command line, an environment or a log.
//!
//! **Assumes.** Linux with `/proc`; a data directory on a local disk that the user Patroni runs as can reach; etcd with
//! the v2 API.
//!
//! **Caveats.** A DELETE of a node that the cell never saw cannot be checked against a record, as it does not say which
//! instance it means: the id is retired. Everything of the node's user that works in a node's directory is ended with
//! the node, a shell included.

mod account;
mod api;
mod context;
mod directory;
mod error;
mod evidence;
mod failover;
#[cfg(test)]
mod fixture;
mod heartbeat;
mod judgement;
mod node;
mod patroni;
mod patroni_rest;
mod patroni_yaml;
mod ports;
mod refused;
mod registrar;
mod roster;
mod service;
mod settings;
mod socket;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

use crate::process;

pub(crate) use account::Account;
pub(crate) use error::CellError;
pub(crate) use service::{patroni_version, run};
pub(crate) use settings::Settings;
