//! A busy machine.

use std::path::Path;

use crate::child::Child;

/// Processes that do nothing but compute, until this is dropped.
#[derive(Debug)]
pub struct Load(#[expect(dead_code, reason = "they are killed with it")] Vec<Child>);

impl Load {
    /// One process for each processor. `directory` takes their empty logs.
    #[must_use]
    pub fn start(directory: &Path) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arguments = ["-c", "while :; do :; done"].map(str::to_owned);
        let log = directory.join("load");
        let spin = |_| Child::start("sh", &arguments, &log);
        Self((0..processors).map(spin).collect())
    }
}
