//! Why the stack cannot be started.

use std::{io, net::SocketAddr, path::PathBuf};

use shared::{config::ConfigError, setup::SetupError};

use super::{component::NotStarted, etcd::EtcdError, state_directory::StateDirectoryError};
use crate::cell::CellError;

/// Why the stack cannot be started. Each text says what to do about it, as far as that is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDirectory(#[from] StateDirectoryError),
    /// The nodes' user cannot get there.
    #[error(
        "the state directory {state_directory} cannot be used: user '{user}', whom Patroni runs as, cannot enter {closed}; choose another one with --state-dir"
    )]
    Unreachable {
        /// The directory.
        state_directory: PathBuf,
        /// The user.
        user: String,
        /// The first directory on the way that it cannot enter.
        closed: PathBuf,
    },
    /// The configuration cannot be read.
    #[error("the configuration {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration cannot be put to work.
    #[error("the configuration cannot be put to work")]
    Setup(#[from] SetupError),
    /// Somebody else listens where a part of the stack is to.
    #[error("{what} cannot listen on {address}: {reason}; {advice}")]
    Taken {
        /// The part.
        what: String,
        /// Where.
        address: SocketAddr,
        /// By whom it is held, or what the kernel says.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// etcd cannot be used.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// HAProxy is not there, or does not run.
    #[error("HAProxy cannot be run as {program}: install it (Debian: haproxy)")]
    Haproxy {
        /// What was tried.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Patroni cannot work here.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// A part did not start.
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    /// The system does not do what it should.
    #[error("{doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}
