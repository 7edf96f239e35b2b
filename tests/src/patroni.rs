//! The versions of Patroni that tests run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::binaries;

/// One that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patroni {
    /// The distribution's.
    Distribution,
    /// That of `target/tools/patroni-4`, which `make test` installs.
    Four,
}

impl Patroni {
    /// The command that starts it, for a cell's variable. The user that Patroni runs as must reach it, which it does not
    /// below somebody's home: it is copied to `directory`.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn command(self, directory: &Path) -> String {
        if self == Self::Distribution {
            return "patroni".to_owned();
        }
        let packages = directory.join("patroni-4");
        if !packages.exists() {
            let mut copy = Command::new("cp");
            let copied = copy.arg("-rL").arg(packages_of_four()).arg(&packages).status();
            assert!(
                copied.expect("cp").success(),
                "the packages of Patroni 4 are copied"
            );
        }
        let packages = packages.display();
        format!("/usr/bin/env,PYTHONPATH={packages},/usr/bin/python3,-m,patroni")
    }
}

/// The directory of its Python packages.
fn packages_of_four() -> PathBuf {
    let program = binaries::target().join("tools/patroni-4/lib");
    let pythons = fs::read_dir(&program);
    let pythons = pythons.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run 'make target/tools/patroni-4/bin/patroni' first, as 'make test' does",
            program.display()
        )
    });
    let python = pythons.flatten().next().expect("a version of Python");
    python.path().join("site-packages")
}
