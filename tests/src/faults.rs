//! The table of the README: faults tried, operations finished, orphans found.

/// A row for each fault, by name.
pub const ROWS: [&str; 20] = [
    "real etcd: killed at each step of a bind",
    "real etcd: killed at each step of a change of passwords",
    "real etcd: killed at each step of a change to a plan with larger settings",
    "real etcd: killed at each step of a change to a plan with smaller settings",
    "real etcd: killed at each step of a deprovision",
    "real etcd: killed at each step of a move to other cells",
    "real etcd: killed at each step of a provision",
    "real etcd: killed at each step of an unbind",
    "real etcd: killed at each step of an update to fewer nodes",
    "real etcd: killed at each step of an update to more nodes",
    "simulation: a call comes late",
    "simulation: a call is done twice",
    "simulation: a call is lost",
    "simulation: a call is refused",
    "simulation: a cell is cut off",
    "simulation: a process stands still",
    "simulation: a read fails",
    "simulation: an answer is lost",
    "simulation: killed after a step",
    "simulation: killed before a step",
];

/// What came of a fault.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How often it was tried.
    pub tried: usize,
    /// How many operations ended in the runs in which it was tried.
    pub finished: usize,
    /// How many things were left in the end that should not have been there: nodes, ports, keys.
    pub orphans: usize,
}

impl Tally {
    /// Counts a run.
    pub fn add(&mut self, tried: usize, finished: usize, orphans: usize) {
        self.tried += tried;
        self.finished += finished;
        self.orphans += orphans;
    }

    /// Prints the row.
    ///
    /// # Panics
    /// When the table has no such row, or there is nothing in it.
    pub fn print(&self, row: &str) {
        assert!(ROWS.contains(&row), "{row}");
        assert!(self.tried > 0 && self.finished > 0, "{row}: {self:?}");
        // A line of its own, whatever the test runner has printed before.
        println!(
            "\n| {row} | {} | {} | {} |",
            self.tried, self.finished, self.orphans
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binaries::repository_file;

    #[test]
    fn the_readme_has_these_rows() {
        let readme = std::fs::read_to_string(repository_file("README.md")).unwrap();
        let (_, table) = readme.split_once("| fault |").unwrap();
        // Others follow.
        let (table, _) = table.split_once("\n\n").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
        let names: Vec<_> = rows.filter_map(|row| row.split(" | ").next()).collect();
        assert_eq!(names, ROWS);
        assert!(ROWS.is_sorted());
    }
}
