//! The processes of HAProxy that run in a state directory, whoever has started them.
//!
//! **Guarantees.** A process is taken for one of ours only when it works in this very directory (the same inode, so that
//! neither an equal path in a container nor a reused process id can be mistaken) and has the master's socket among its
//! arguments. It is checked again once a handle on the process is held, before a signal is sent.
//! **Caveats.** This stands in for a pid file, which would be stale or missing exactly after a crash.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

use super::state_directory::StateDirectory;

/// How HAProxy's master is told where to listen for commands; part of the arguments of all its processes.
pub(crate) const MASTER_ADDRESS: &str = "unix@master.sock,mode,600";

/// How long HAProxy may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at processes that are to end.
const PAUSE: Duration = Duration::from_millis(5);

/// A process of HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: Pid,
    /// Whether it is a master, and not one's worker.
    pub(crate) master: bool,
}

/// The numbers of all processes of HAProxy in the state directory at a path, whoever holds it.
pub(crate) fn at(path: &Path) -> Vec<i32> {
    let directory = StateDirectory::peek(path);
    // One that is not there holds no process.
    let found = directory.map(|directory| of(&directory)).unwrap_or_default();
    found
        .iter()
        .map(|process| process.pid.as_raw_nonzero().get())
        .collect()
}

/// All processes of HAProxy in a state directory.
pub(crate) fn of(directory: &StateDirectory) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names
        .filter_map(|name| name.parse().ok())
        .filter_map(Pid::from_raw);
    let ours: Vec<Pid> = pids.filter(|pid| is_ours(directory, *pid)).collect();
    let is_master = |pid: Pid| parent(pid).is_none_or(|parent| !ours.contains(&parent));
    ours.iter()
        .map(|pid| Process {
            pid: *pid,
            master: is_master(*pid),
        })
        .collect()
}

/// Ends all of them: the masters are asked first, and end their workers.
pub(crate) async fn end(directory: &StateDirectory) {
    for process in of(directory).into_iter().filter(|process| process.master) {
        signal(directory, process.pid, Signal::TERM);
    }
    if !gone(directory).await {
        kill(directory).await;
    }
}

/// Ends all of them at once.
pub(crate) async fn kill(directory: &StateDirectory) {
    for process in of(directory) {
        signal(directory, process.pid, Signal::KILL);
    }
    if !gone(directory).await {
        tracing::error!(directory = %directory.path().display(), "HAProxy cannot be ended");
    }
}

/// Waits until none is left.
async fn gone(directory: &StateDirectory) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !of(directory).is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}

fn signal(directory: &StateDirectory, pid: Pid, signal: Signal) {
    let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|handle| {
        if is_ours(directory, pid) {
            pidfd_send_signal(handle, signal)
        } else {
            Ok(())
        }
    });
    match sent {
        // It has ended by itself.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            let error = io::Error::from(error);
            tracing::error!(%pid, %error, "a process of HAProxy cannot be signalled");
        }
    }
}

fn is_ours(directory: &StateDirectory, pid: Pid) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    // A process that has ended has neither, even while its parent has not taken note of it.
    directory.is(&process.join("cwd"))
        && fs::read(process.join("cmdline")).is_ok_and(|arguments| {
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument == MASTER_ADDRESS.as_bytes())
        })
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}
