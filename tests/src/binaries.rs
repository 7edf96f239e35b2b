//! The programs of this workspace, as they were built for tests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The path of a program, which lies two levels above the tests' own executables: `target/debug/<name>`.
///
/// # Panics
/// When it was not built, or not since its sources have changed.
#[must_use]
pub fn path(name: &str) -> String {
    let path = directory(2).join(name);
    let build = "run 'cargo build --workspace' first, as 'make test' does";
    assert!(path.is_file(), "{} is not there: {build}", path.display());
    if let Some(source) = newer_source(&path) {
        panic!("{} is older than {source}: {build}", path.display());
    }
    path.display().to_string()
}

/// Cargo's target directory.
#[must_use]
pub fn target() -> PathBuf {
    directory(3)
}

/// The directory so many levels above the tests' own executables, which lie in `target/debug/deps`.
fn directory(levels: usize) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let above = test.ancestors().nth(levels);
    above
        .expect("a test's executable lies in target/debug/deps")
        .to_owned()
}

/// The path of cargo-lambda, which `make` installs below `target/tools`.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn cargo_lambda() -> String {
    let tools = target().join("tools");
    let installed = fs::read_dir(&tools).into_iter().flatten().flatten();
    let mut programs = installed
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("cargo-lambda-"))
        .map(|entry| entry.path().join("bin/cargo-lambda"));
    let program = programs.find(|program| program.is_file());
    let program =
        program.unwrap_or_else(|| panic!("no cargo-lambda in {}: run 'make test'", tools.display()));
    program.display().to_string()
}

/// A source that has changed since the program was built, according to cargo's list of them beside it.
fn newer_source(program: &Path) -> Option<String> {
    let changed = |path: &str| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let built = changed(program.to_str()?)?;
    let list = fs::read_to_string(program.with_extension("d")).ok()?;
    // One line, as in a Makefile. A blank in a path is escaped: such a path is not found, and says nothing.
    let (_, sources) = list.split_once(": ")?;
    let mut sources = sources.split_whitespace();
    sources
        .find(|source| changed(source).is_some_and(|time| time > built))
        .map(str::to_owned)
}

/// A file of this repository, by its path from the top.
#[must_use]
pub fn repository_file(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A program that `make test` has installed into `target/tools`.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test
        .ancestors()
        .nth(3)
        .expect("a test's executable lies in target/debug/deps");
    let installed = fs::read_dir(target.join("tools")).into_iter().flatten().flatten();
    let programs = installed.map(|tool| tool.path().join("bin").join(name));
    programs
        .filter(|program| program.is_file())
        .max()
        .unwrap_or_else(|| panic!("{name} is not there: run 'make test'"))
}
