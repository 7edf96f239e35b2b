//! Why etcd does not run.

use std::{io, path::PathBuf};

use super::START;

/// Why etcd does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    /// The program is not there, or does not run.
    #[error("etcd cannot be run ({0}): install etcd 3.4 or 3.5 (Debian: etcd-server), on the PATH")]
    Program(String),
    /// It is too new.
    #[error(
        "the installed etcd {version} has no v2 API, by which the broker and Patroni work: install etcd 3.4 or 3.5"
    )]
    NoV2 {
        /// Its version.
        version: String,
    },
    /// It ended.
    #[error("etcd ended ({status}); its log {log} ends with: {said}")]
    Ended {
        /// How.
        status: String,
        /// What it said.
        said: String,
        /// Where it said more.
        log: PathBuf,
    },
    /// It runs and does not answer.
    #[error("etcd does not answer at {url} after {} s; its log is {log}", START.as_secs())]
    Silent {
        /// Where it should.
        url: String,
        /// Where it may say why.
        log: PathBuf,
    },
    /// The system does not do what it should.
    #[error("running etcd in {directory}")]
    System {
        /// Its directory.
        directory: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}
