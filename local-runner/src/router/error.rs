//! Why a router cannot start.

use std::{io, path::PathBuf};

/// Why a router cannot start. Whatever goes wrong later is logged and tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouterError {
    /// The state directory cannot be made or opened.
    #[error("the router's state directory {path} cannot be used")]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another router has this state directory.
    #[error("another router is running with the state directory {path}")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// Patroni cannot be asked anything.
    #[error("the HTTP client cannot be set up")]
    HttpClient(#[source] reqwest::Error),
    /// HAProxy's program cannot be run.
    #[error("HAProxy cannot be run as {path}")]
    Haproxy {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
