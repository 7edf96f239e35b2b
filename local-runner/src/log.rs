//! The log: JSON for programs; lines for people when it goes to a terminal.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    panic,
    path::Path,
    sync::Mutex,
};

use tracing_subscriber::{
    Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::broker::metrics::FromLog;

/// A file larger than this is set aside at the next start, in the place of the one before.
const LARGE: u64 = 16 * 1024 * 1024;

/// Logs to standard error.
pub(crate) fn to_stderr() {
    let lines = fmt::layer().with_writer(io::stderr);
    if io::stderr().is_terminal() {
        begin(lines.with_target(false));
    } else {
        begin(lines.json().flatten_event(true));
    }
    panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
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
    let lines = fmt::layer().json().flatten_event(true);
    begin(lines.with_writer(Mutex::new(file)));
    // Whoever sits in front of it is told as well.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        tell(panic);
    }));
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

/// What is logged is counted as well.
fn begin(lines: impl Layer<Registry> + Send + Sync) {
    tracing_subscriber::registry()
        .with(lines.and_then(FromLog).with_filter(LevelFilter::INFO))
        .init();
}
