//! What of the stack still runs when it should not, and ending it by force.
//!
//! **Guarantees.** Nothing runs afterwards. PostgreSQL, which would leave shared memory behind when it is killed, is
//! told to shut down immediately, and killed only when it does not; a power cut is not that considerate.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::time::sleep;

use super::{etcd, state_directory::StateDirectory};
use crate::{
    process::{Kind, Process, Stat, read_stat, working_in},
    router,
};

/// How long PostgreSQL may take for an immediate shutdown: it kills its own processes after 5 s.
const IMMEDIATE: Duration = Duration::from_secs(7);
/// How long it is tried to end everything.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);

/// Everything of a stack that runs now: nodes with all that works for them, HAProxy, etcd.
///
/// # Errors
/// When the processes cannot be looked at.
pub(super) fn running(directory: &StateDirectory, node_user: u32) -> io::Result<Vec<Stat>> {
    let mut found = nodes(&directory.cells(), node_user)?;
    for pid in router::processes_at(&directory.router()) {
        found.extend(read_stat(pid)?);
    }
    found.extend(etcd::left_behind(&directory.etcd())?);
    Ok(found)
}

/// The processes of all nodes.
///
/// # Errors
/// When the processes cannot be looked at.
pub(super) fn nodes(cells: &Path, user: u32) -> io::Result<Vec<Stat>> {
    // Nothing runs anywhere else below: a directory is cleared before it is moved.
    let mut found = Vec::new();
    for cell in children(cells)? {
        found.extend(of_cell(&cell, user)?);
    }
    Ok(found)
}

/// The processes of one cell's nodes.
fn of_cell(cell: &Path, user: u32) -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for node in children(&cell.join("nodes"))? {
        found.extend(working_in(&node.join("home"), user)?);
    }
    Ok(found)
}

/// Kills everything that works for the nodes of a cell, PostgreSQL included, as a power cut would. Answers how many
/// processes that were.
///
/// # Errors
/// When something does not end.
pub(super) async fn kill_cell(cell: &Path, user: u32) -> io::Result<usize> {
    let began = Instant::now();
    let mut killed = BTreeSet::new();
    loop {
        let left = of_cell(cell, user)?;
        if left.is_empty() {
            return Ok(killed.len());
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("some processes do not even end by force"));
        }
        for stat in &left {
            killed.insert(stat.pid());
            if let Some(process) = Process::open(stat.id()?)? {
                process.signal(Signal::KILL)?;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Whether a cell's directory holds nodes.
pub(super) fn has_nodes(cell: &Path) -> bool {
    children(&cell.join("nodes")).is_ok_and(|nodes| !nodes.is_empty())
}

/// Ends everything of a stack that runs, at once.
///
/// # Errors
/// When something does not even end by force.
pub(super) async fn kill(directory: &StateDirectory, node_user: u32) -> io::Result<()> {
    let began = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let left = running(directory, node_user)?;
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("some processes do not even end by force"));
        }
        for stat in &left {
            let signal = match stat.kind(&left) {
                Kind::Other => Signal::KILL,
                _ if began.elapsed() > IMMEDIATE => Signal::KILL,
                Kind::Postmaster if told.insert(stat.pid()) => Signal::QUIT,
                Kind::Postmaster | Kind::PostgresChild => continue,
            };
            if let Some(process) = Process::open(stat.id()?)? {
                process.signal(signal)?;
            }
        }
        sleep(PAUSE).await;
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
