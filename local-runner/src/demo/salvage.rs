//! Keeping what explains a failure: the directory with the logs does not stay.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::log;

/// How many lines are shown.
const LINES: usize = 12;

/// Writes all logs of a stack into one file.
///
/// # Errors
/// When that cannot be written.
pub(super) fn keep(directory: &Path, file: &Path) -> io::Result<()> {
    let mut logs = Vec::new();
    collect(directory, &mut logs);
    logs.sort();
    let mut kept = log::append(file)?;
    for path in logs {
        let name = path
            .strip_prefix(directory)
            .unwrap_or(&path)
            .display()
            .to_string();
        writeln!(kept, "==== {name}")?;
        // One that went meanwhile says nothing.
        if let Ok(mut source) = File::open(&path) {
            io::copy(&mut source, &mut kept)?;
        }
        writeln!(kept)?;
    }
    Ok(())
}

/// The logs below a directory. What cannot be read is passed over.
fn collect(directory: &Path, logs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            // PostgreSQL's data holds no logs.
            Ok(kind) if kind.is_dir() && entry.file_name() != "data" => collect(&path, logs),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|it| it == "log") => logs.push(path),
            _ => (),
        }
    }
}

/// The last warnings and errors of a log in JSON, for people; without any, its last lines.
pub(super) fn last_words(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<(bool, String)> = text.lines().filter_map(readable).collect();
    let serious = lines.iter().any(|(serious, _)| *serious);
    let wanted: Vec<String> = lines
        .into_iter()
        .filter(|(is_serious, _)| *is_serious || !serious)
        .map(|(_, line)| line)
        .collect();
    wanted
        .get(wanted.len().saturating_sub(LINES)..)
        .unwrap_or_default()
        .to_vec()
}

/// A line of the log as people read it, and whether it is a warning or an error.
fn readable(line: &str) -> Option<(bool, String)> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else {
        return None;
    };
    let mut take = |key: &str| match fields.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (time, level, message) = (take("timestamp"), take("level"), take("message"));
    drop(take("target"));
    let serious = matches!(level.as_str(), "WARN" | "ERROR");
    // One line for each poll says nothing.
    if message == "request" && !serious {
        return None;
    }
    let time = time.get(11..19).unwrap_or_default().to_owned();
    let rest: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some((
        serious,
        format!("{time} {level:5} {message} {}", rest.join(" "))
            .trim_end()
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_kept_and_their_last_warnings_shown() {
        let top = tempfile::tempdir().unwrap();
        let node = top.path().join("cells/1/log");
        fs::create_dir_all(&node).unwrap();
        fs::create_dir_all(top.path().join("data")).unwrap();
        fs::write(node.join("patroni.log"), "of the node").unwrap();
        fs::write(top.path().join("data/base.log"), "no log").unwrap();
        let log = top.path().join("up.log");
        let line = |level: &str| {
            format!(
                r#"{{"timestamp":"2026-11-22T15:42:02.1Z","level":"{level}","message":"m","pid":7,"target":"t"}}"#
            )
        };
        fs::write(&log, format!("{}\n{}\n", line("WARN"), line("INFO"))).unwrap();
        assert_eq!(last_words(&log), ["15:42:02 WARN  m pid=7"]);
        fs::write(
            &log,
            line("INFO") + "\n" + &line("INFO").replace(r#""m""#, r#""request""#),
        )
        .unwrap();
        assert_eq!(last_words(&log), ["15:42:02 INFO  m pid=7"]);
        let kept = top.path().join("kept");
        keep(top.path(), &kept).unwrap();
        let text = fs::read_to_string(kept).unwrap();
        assert!(
            text.contains("==== cells/1/log/patroni.log\nof the node"),
            "{text}"
        );
        assert!(
            text.contains("==== up.log\n") && !text.contains("no log"),
            "{text}"
        );
    }
}
