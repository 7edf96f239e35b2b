//! A cell of a stack.

use std::{fs, path::PathBuf};

use super::Server;
use crate::processes;

/// A cell.
#[derive(Debug)]
pub struct CellServer {
    /// Its name in records: its address.
    pub guid: String,
    /// Its process. The nodes' processes live on when it is killed.
    pub server: Server,
    pub(super) data: PathBuf,
}

impl CellServer {
    /// Where its nodes work.
    #[must_use]
    pub fn nodes_directory(&self) -> PathBuf {
        self.data.join("nodes")
    }

    /// Kills the cell, and then Patroni and PostgreSQL of all its nodes, as a power cut would.
    ///
    /// # Panics
    /// When something does not end.
    pub fn cut_power(&mut self) {
        self.server.kill();
        let left = processes::kill_below(&self.nodes_directory());
        left.expect("processes that can be killed");
    }

    /// What is left of nodes on its disk, quarantine included.
    ///
    /// # Panics
    /// When it cannot be read.
    pub(super) fn node_directories(&self) -> Vec<String> {
        let list = |name: &str| {
            let entries = fs::read_dir(self.data.join(name)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.map(|node| format!("{}/{name}/{node}", self.guid)).collect()
        };
        ["nodes", "quarantine", "scratch"]
            .map(list)
            .into_iter()
            .flat_map(Vec::into_iter)
            .collect()
    }
}
