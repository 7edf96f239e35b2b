//! The logs of a stack, for whoever looks why a test failed.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// How many lines of each log are shown.
const LINES: usize = 25;
/// Where the broker's own processes log, below the directory of a stack.
pub(super) const OWN: &str = "logs";

/// Prints the end of every log below a directory: first those of the broker's own processes, which say most.
pub(super) fn print_ends(directory: &Path) {
    let mut logs = Vec::new();
    find(directory, &mut logs);
    logs.sort_by_key(|log| (!log.starts_with(directory.join(OWN)), log.clone()));
    for log in logs {
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        if !lines.is_empty() {
            let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
            eprintln!("--- the end of {}\n{last}", log.display());
        }
    }
}

fn find(directory: &Path, logs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        // PostgreSQL's data holds no log, but many files.
        if path.is_dir() && !path.ends_with("home/data") {
            find(&path, logs);
        } else if is_log {
            logs.push(path);
        }
    }
}
