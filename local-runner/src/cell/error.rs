//! Why a cell cannot start or go on.

use std::{io, path::PathBuf};

use shared::ids::CellGuid;

/// Why a cell cannot start or go on. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CellError {
    /// A setting makes no sense.
    #[error("the cell's settings are wrong: {0}")]
    Settings(String),
    /// Another process holds the data directory.
    #[error("{0} is in use by another cell: stop that one first, or give this one its own data directory")]
    Locked(PathBuf),
    /// The data directory holds another cell's nodes.
    #[error(
        "{directory} belongs to cell {owner}, not {guid}: its nodes would be taken for strays. Give the cell its guid back, or another data directory"
    )]
    OtherCell {
        /// The data directory.
        directory: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asked.
        guid: CellGuid,
    },
    /// The user that Patroni runs as cannot get to a directory.
    #[error(
        "user '{user}', whom Patroni runs as, cannot enter {directory}: give it access (chmod o+x), or choose a data directory elsewhere"
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The first directory on the way that it cannot enter.
        directory: PathBuf,
    },
    /// A file that Patroni needs cannot be read by its user.
    #[error("user '{user}', whom Patroni runs as, cannot read {file}")]
    Unreadable {
        /// The user.
        user: String,
        /// The file.
        file: PathBuf,
    },
    /// Patroni or PostgreSQL is not there or does not work.
    #[error("{program} cannot be used: {reason}")]
    Program {
        /// What was tried.
        program: String,
        /// How it failed.
        reason: String,
    },
    /// Nothing can be asked over HTTP.
    #[error("the HTTP client cannot be set up")]
    HttpClient(#[source] reqwest::Error),
    /// The API's port is taken.
    #[error("the cell's API cannot listen on {address}")]
    Listen {
        /// The address and port.
        address: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another live cell has this guid.
    #[error("cell {guid} is alive already, at {uri}: every cell needs a guid of its own")]
    GuidTaken {
        /// The guid.
        guid: CellGuid,
        /// Where the other one answers.
        uri: String,
    },
    /// The disk does not do what it should.
    #[error("{doing} {path} failed")]
    Disk {
        /// What was tried, as a participle.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A node's task panicked. Its node, and all others, run on; a cell that is started anew adopts them.
    #[error("a node's task panicked: the cell ends, and leaves its nodes to the next one")]
    Panicked,
    /// The API's server ended by itself.
    #[error("the cell's API stopped")]
    Serve(#[source] io::Error),
}
