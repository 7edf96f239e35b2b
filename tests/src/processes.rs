//! Processes that work below a directory, whoever started them.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub id: i32,
    /// Its command line.
    pub command: String,
}

impl Process {
    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Has it stand still until it is killed.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = Pid::from_raw(self.id) {
            // An error says that it has ended.
            let _ = kill_process(id, signal);
        }
    }
}

/// Processes whose working directory lies in `directory`, or whose command line names it. Zombies do not count.
///
/// # Panics
/// When there is no `/proc`.
#[must_use]
pub fn below(directory: &Path) -> Vec<Process> {
    let text = directory.display().to_string();
    let entries = fs::read_dir("/proc").expect("/proc");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        let proc = Path::new("/proc").join(id.to_string());
        // A process that ends meanwhile is none.
        let command = fs::read(proc.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there = fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        (works_there || command.contains(&text)).then_some(Process { id, command })
    })
    .collect()
}

/// Kills all processes below a directory, and waits until they are gone.
///
/// # Errors
/// Those that stay.
pub fn kill_below(directory: &Path) -> Result<(), Vec<Process>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = below(directory);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(left);
        }
        for process in left {
            process.kill();
        }
        thread::sleep(Duration::from_millis(10));
    }
}
