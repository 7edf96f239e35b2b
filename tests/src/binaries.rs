//! The programs of this workspace, as they were built for tests.

use std::path::PathBuf;

/// The path of a program, which lies two levels above the tests' own executables: `target/debug/<name>`.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn path(name: &str) -> String {
    let test = std::env::current_exe().expect("the path of this test");
    let path: PathBuf = test
        .ancestors()
        .nth(2)
        .expect("a test's executable lies in target/debug/deps")
        .join(name);
    assert!(
        path.is_file(),
        "{} is not there: run 'cargo build --workspace' first, as 'make test' does",
        path.display()
    );
    path.display().to_string()
}

/// A file of this repository, by its path from the top.
#[must_use]
pub fn repository_file(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}
