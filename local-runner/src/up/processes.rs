//! What of the stack still runs when it should not, and ending it by force.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use tokio::time::sleep;

use super::{etcd, state_directory::StateDirectory};
use crate::{
    process::{Process, Stat, read_stat, working_in},
    router,
};

/// How often processes are looked for and killed before that is given up.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

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
        for node in children(&cell.join("nodes"))? {
            found.extend(working_in(&node.join("home"), user)?);
        }
    }
    Ok(found)
}

/// Kills everything of a stack that runs.
///
/// # Errors
/// When something does not even end by force.
pub(super) async fn kill(directory: &StateDirectory, node_user: u32) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let left = running(directory, node_user)?;
        if left.is_empty() {
            return Ok(());
        }
        for stat in left {
            if let Some(process) = Process::open(stat.id()?)? {
                process.signal(Signal::KILL)?;
            }
        }
        sleep(PAUSE).await;
    }
    Err(io::Error::other("some processes do not even end by force"))
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
