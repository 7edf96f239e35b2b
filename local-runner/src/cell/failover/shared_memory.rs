//! The shared memory of a PostgreSQL server, and whether anybody has it attached.
//!
//! **Guarantees.** Whoever commits, and so whoever confirms a commit, has it attached, wherever it works and whatever it is
//! called. "Nobody" is said only of the very segment that the postmaster made and its pid file names, and which is there.
//! **Assumes.** The cell sees the System V IPC namespace of its nodes; otherwise the segment is not there for it.
//! **Source.** PostgreSQL's `sysv_shmem.c`: before a postmaster starts on a directory whose last one has died, it looks in this
//! way whether a backend of that one is left. The pid file's seventh line holds the segment's key and number; proc(5) and
//! `ipc/shm.c` of the kernel describe the table.

use std::{fs, io};

/// A segment of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Segment {
    /// Its number.
    pub(super) id: i64,
    /// The process that made it.
    pub(super) creator: i32,
}

impl Segment {
    /// The one that a pid file names.
    pub(super) fn named_by(pid_file: &str) -> Option<Self> {
        let mut lines = pid_file.lines();
        let creator = lines.next()?.trim().parse().ok()?;
        let id = lines.nth(5)?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Self { id, creator })
    }

    /// Whether certainly no process has it attached. Once that is so, and the postmaster is dead, it stays so: children of the
    /// postmaster inherit it, and whoever starts PostgreSQL anew makes another one and removes this one.
    ///
    /// # Errors
    /// When the kernel's table cannot be read.
    pub(super) fn is_left(self) -> io::Result<bool> {
        let table = fs::read_to_string("/proc/sysvipc/shm")?;
        Ok(self.attached(&table) == Some(0))
    }

    /// How many processes have it attached, by the kernel's table; `None` when it is not there.
    fn attached(self, table: &str) -> Option<u64> {
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_key, id, _permissions, _size, creator, _last, attached, ..] = *fields else {
                return None;
            };
            let is_it = id.parse() == Ok(self.id) && creator.parse() == Ok(self.creator);
            is_it.then(|| attached.parse().ok()).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
   1867777         10   600                    56 24635 27557      5   101   104   101   104 1795394250 1795394250 1795394232                  4096                     0
-1867777777        13   600                    56 24883 28104      0   101   104   101   104 1795394253 1795394253 1795394235                  4096                     0
";

    #[test]
    fn only_a_segment_that_is_there_can_be_left() {
        let attached = |id, creator| Segment { id, creator }.attached(TABLE);
        assert_eq!(attached(10, 24635), Some(5));
        assert_eq!(attached(13, 24883), Some(0));
        assert_eq!(attached(13, 24635), None, "another one that was given the number");
        assert_eq!(attached(14, 24883), None);
        assert_eq!(Segment { id: 13, creator: 1 }.attached(""), None);
    }

    #[test]
    fn a_pid_file_names_it() {
        let file = "24635\n/d/data\n1795394232\n20000\n/d/run\n127.0.0.1\n  1867777        10\nready   \n";
        let named = Segment {
            id: 10,
            creator: 24635,
        };
        assert_eq!(Segment::named_by(file), Some(named));
        let unfinished = "24635\n/d/data\n1795394232\n20000\n/d/run\n";
        assert_eq!(Segment::named_by(unfinished), None);
    }
}
