//! What came of having HAProxy listen on a set of ports.

use std::{collections::BTreeMap, io, time::Instant};

use shared::ids::Port;

use super::{haproxy_config::Targets, worker::Worker};

/// What HAProxy serves now.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The worker that accepts connections.
    pub(crate) worker: Worker,
    /// The ports it listens on, and where it was told to send their sessions.
    pub(crate) serving: Targets,
    /// The ports that it cannot listen on, and why.
    pub(crate) refused: BTreeMap<Port, Refusal>,
}

/// Why HAProxy cannot listen on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was said about it.
    pub(crate) reason: String,
    /// When to try again. Later, when it was HAProxy that refused: each attempt may disturb the other ports.
    pub(crate) again: Instant,
}

/// Why HAProxy does not serve what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HaproxyError {
    /// Its files cannot be written, or it cannot be started.
    #[error("HAProxy cannot be started")]
    Io(#[from] io::Error),
    /// It did not take the configuration.
    #[error("HAProxy does not take its configuration: {0}")]
    Refused(String),
    /// It ended.
    #[error("HAProxy has ended ({status}): {log}")]
    Ended {
        /// With what status, if that is known.
        status: String,
        /// What it said.
        log: String,
    },
    /// It neither took nor refused the configuration.
    #[error("HAProxy does not answer")]
    Stuck,
}
