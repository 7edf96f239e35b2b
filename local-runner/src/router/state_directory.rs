//! The directory in which HAProxy runs, held by one router at a time.
//!
//! **Guarantees.** Two routers never hold the same directory (a lock on the directory itself, which the kernel takes
//! back when the router ends in whatever way). Sockets in it are reached however long its path is: HAProxy gets their
//! bare names, since it runs in the directory, and the router goes through its own descriptor.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use super::error::RouterError;
use crate::file_lock::FileLock;

/// HAProxy's configuration.
pub(crate) const CONFIG: &str = "haproxy.cfg";
/// What HAProxy says.
pub(crate) const LOG: &str = "haproxy.log";
/// The socket of HAProxy's master process.
pub(crate) const MASTER: &str = "master.sock";

/// The directory.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    handle: File,
    /// Absent in a directory that is only looked at.
    lock: Option<FileLock>,
    identity: (u64, u64),
}

impl StateDirectory {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// When that is not possible, or another router holds it.
    pub(crate) fn open(path: &Path) -> Result<Self, RouterError> {
        let unusable = |source| RouterError::StateDirectory {
            path: path.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        // A cell may have its directory beside this one, where PostgreSQL's user must be able to go.
        if let Some(parent) = path.parent() {
            builder.mode(0o755).create(parent).map_err(unusable)?;
        }
        // Nobody else may send commands to HAProxy.
        builder.mode(0o700).create(path).map_err(unusable)?;
        let mut directory = Self::peek(path).map_err(unusable)?;
        directory.lock = FileLock::try_take(&directory.handle).map_err(unusable)?;
        if directory.lock.is_some() {
            Ok(directory)
        } else {
            Err(RouterError::Busy { path: directory.path })
        }
    }

    /// The directory without its lock, to look at it only.
    pub(super) fn peek(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let handle = File::open(&path)?;
        let metadata = handle.metadata()?;
        Ok(Self {
            path,
            identity: (metadata.dev(), metadata.ino()),
            handle,
            lock: None,
        })
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path to a socket in it, short enough for a socket's address.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }

    /// Whether a path leads to this directory.
    pub(crate) fn is(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// Puts a file there, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let draft = self.path.join(draft(name));
        fs::write(&draft, text)?;
        fs::rename(draft, self.path.join(name))
    }

    /// What a file there holds; nothing, if it cannot be read.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }

    /// The highest number that a worker's socket has had; 0 without any. The configuration counts, too: an earlier router
    /// may have ended when HAProxy had only begun to load it.
    pub(crate) fn last_worker(&self) -> u64 {
        let config = self.read(CONFIG);
        let words = config.split(|letter: char| letter.is_whitespace() || letter == '@');
        let named = words.filter_map(worker_number);
        named.chain(self.workers()).max().unwrap_or(0)
    }

    /// The numbers of the workers' sockets that are there.
    fn workers(&self) -> Vec<u64> {
        let names = self.names().into_iter();
        names.filter_map(|name| worker_number(&name)).collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Removes the sockets of all workers but one.
    pub(crate) fn forget_workers(&self, except: Option<u64>) {
        for number in self.workers() {
            if Some(number) != except {
                self.remove(&worker(number));
            }
        }
    }

    /// Removes all that HAProxy and the router have put there.
    pub(crate) fn clear(&self) {
        self.forget_workers(None);
        for name in [MASTER, CONFIG, LOG, &draft(CONFIG)] {
            self.remove(name);
        }
        for name in self.names().iter().filter(|name| is_half_made_socket(name)) {
            self.remove(name);
        }
    }

    fn remove(&self, name: &str) {
        // Absence is what is wanted; anything else shows when the name is used again.
        let _ = fs::remove_file(self.path.join(name));
    }
}

fn draft(name: &str) -> String {
    format!("{name}.new")
}

/// The name of a worker's socket.
pub(crate) fn worker(number: u64) -> String {
    format!("worker-{number}.sock")
}

fn worker_number(name: &str) -> Option<u64> {
    name.strip_prefix("worker-")?.strip_suffix(".sock")?.parse().ok()
}

/// Whether HAProxy leaves a socket under this name when it ends while it takes its place: `<socket>.<process>.tmp`, or
/// `.bak` for the one that was there before.
fn is_half_made_socket(name: &str) -> bool {
    let socket = || {
        let rest = name.strip_suffix(".tmp").or_else(|| name.strip_suffix(".bak"))?;
        let (socket, process) = rest.rsplit_once('.')?;
        process.parse::<u32>().ok()?;
        Some(socket)
    };
    socket().is_some_and(|socket| socket == MASTER || worker_number(socket).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_itself_is_closed_to_others() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("patroni-broker/router");
        let directory = StateDirectory::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(directory.path()), 0o700);
        // As far as the umask lets it.
        let usual = top.path().join("usual");
        DirBuilder::new().mode(0o755).create(&usual).unwrap();
        assert_eq!(mode(&top.path().join("patroni-broker")), mode(&usual));
    }

    #[test]
    fn the_last_worker_is_known_from_sockets_and_from_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(directory.path()).unwrap();
        assert_eq!(directory.last_worker(), 0);
        fs::write(directory.path().join(worker(9)), "").unwrap();
        assert_eq!(directory.last_worker(), 9);
        let config = "global\n    stats socket unix@worker-10.sock mode 600 level admin\n";
        directory.write(CONFIG, config).unwrap();
        assert_eq!(directory.last_worker(), 10);
        directory.forget_workers(Some(9));
        assert_eq!(directory.workers(), [9]);
        for name in ["worker-1.sock.32412.tmp", "master.sock.7.bak", "mine.7.tmp"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        directory.clear();
        assert_eq!(directory.last_worker(), 0);
        let left = directory.names();
        assert!(left.contains(&"mine.7.tmp".to_owned()), "{left:?}");
        assert!(!left.iter().any(|name| name.contains(".sock")), "{left:?}");
    }
}
