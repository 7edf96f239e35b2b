//! The log: JSON for programs; lines for people when it goes to a terminal.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Mutex,
};

use tracing::Level;

/// A file larger than this is set aside at the next start, in the place of the one before.
const LARGE: u64 = 16 * 1024 * 1024;

const LEVEL: Level = Level::INFO;

/// Logs to standard error.
pub(crate) fn to_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(LEVEL);
    if io::stderr().is_terminal() {
        subscriber.with_target(false).init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}

/// Logs to a file, after what is in it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn to_file(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > LARGE) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = append(path)?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LEVEL)
        .json()
        .flatten_event(true);
    subscriber.with_writer(Mutex::new(file)).init();
    Ok(())
}

/// Opens a file to append to it; only its owner may read it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}
