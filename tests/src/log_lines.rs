//! Logs of JSON, line by line.

use std::{fs, path::Path};

use serde_json::Value;

/// All lines of a log.
///
/// # Panics
/// When one is not JSON.
#[must_use]
pub fn of(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    text.lines().map(parse).collect()
}

/// All lines of the logs in a directory whose names begin like this.
///
/// # Panics
/// When a line is not JSON.
#[must_use]
pub fn of_all(directory: &Path, beginning: &str) -> Vec<Value> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let named = files.filter(|file| file.file_name().to_string_lossy().starts_with(beginning));
    named.flat_map(|file| of(&file.path())).collect()
}

/// Those that tell of an instance's operations, the first first.
#[must_use]
pub fn operations<'l>(lines: &'l [Value], instance: &str) -> Vec<&'l Value> {
    let told = |line: &&Value| line["target"] == "operation" && line["instance"] == instance;
    let mut told: Vec<&Value> = lines.iter().filter(told).collect();
    told.sort_by_key(|line| line["timestamp"].as_str());
    told
}

/// Asserts that operations of these kinds were told of, one after the other, each from its start to its good end.
///
/// # Panics
/// When something else was told.
#[track_caller]
pub fn assert_told(lines: &[Value], instance: &str, kinds: &[&str]) {
    let told = operations(lines, instance);
    let ends: Vec<_> = told
        .iter()
        .filter(|line| line["state"] != "in progress")
        .map(|line| (line["kind"].as_str().unwrap(), line["state"].as_str().unwrap()))
        .collect();
    let expected: Vec<_> = kinds
        .iter()
        .flat_map(|kind| [(*kind, "started"), (*kind, "succeeded")])
        .collect();
    assert_eq!(ends, expected, "{told:#?}");
    for line in told {
        assert!(line["duration_ms"].is_u64(), "{line}");
        assert!(line["operation"].is_string(), "{line}");
        assert!(!line["description"].as_str().unwrap().is_empty(), "{line}");
    }
}
