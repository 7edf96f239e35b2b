//! What `up` keeps on disk.
//!
//! ```text
//! up.lock         held for as long as it runs
//! up.log          its log: JSON
//! master-key      what all passwords are derived from (0600)
//! etcd/           etcd's data and log
//! cells/<n>/      the data directory of the nth cell
//! router/         HAProxy's configuration and sockets
//! functions.env   what functions need to work beside it, for a shell (0600)
//! ```
//!
//! **Guarantees.** One process at a time holds it. A master key is made only where nothing depends on another one.
//! **Caveats.** However long its path is, sockets are reached: those of etcd and HAProxy by names relative to their
//! directories, and nodes whose paths are too long have theirs elsewhere (`cell/socket.rs`).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::geteuid;

use crate::{
    durable::{sync_directory, write_durably},
    file_lock::FileLock,
};

/// A link in the lock's place is somebody's trap: the file is truncated.
const O_NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The directory, locked.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
    _lock: FileLock,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirectoryError {
    /// Its path is of no use.
    #[error("the state directory {path} cannot be used: {reason}; choose another one with --state-dir")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another `up` holds it.
    #[error(
        "another `local-runner up`{holder} uses {path}: stop that one first, or choose another directory with --state-dir (and other ports)"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Which process, if it is known.
        holder: String,
    },
    /// The key is gone, and what depends on it is not.
    #[error(
        "{key} is missing, but {data} holds instances whose passwords are derived from it: put it back, or remove the whole directory with all instances"
    )]
    KeyLost {
        /// The key's path.
        key: PathBuf,
        /// etcd's data.
        data: PathBuf,
    },
    /// The disk fails.
    #[error("{doing} {path}")]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Where the state goes unless somebody says otherwise: on a disk that lasts, and within reach of the user that
/// PostgreSQL runs as. For root that is another one, to whom a home is closed.
pub(crate) fn default_path() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return PathBuf::from("/var/lib/patroni-broker/up");
    }
    match std::env::home_dir().filter(|home| home.is_absolute() && home.is_dir()) {
        Some(home) => home.join(".local/state/patroni-broker"),
        None => PathBuf::from(format!("/var/tmp/patroni-broker-{}", uid.as_raw())),
    }
}

impl StateDirectory {
    /// Opens a directory, and at first makes it, and locks it.
    ///
    /// # Errors
    /// When another process holds it, its path cannot be used, or the disk fails.
    pub(crate) fn open(path: &Path) -> Result<Self, StateDirectoryError> {
        let refuse = |path: &Path, reason: &str| StateDirectoryError::Path {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let absolute = std::path::absolute(path).map_err(|error| refuse(path, &error.to_string()))?;
        make_path(&absolute).map_err(|error| refuse(&absolute, &error.to_string()))?;
        let root = absolute
            .canonicalize()
            .map_err(|error| refuse(&absolute, &error.to_string()))?;
        check(&root).map_err(|reason| refuse(&root, &reason))?;
        let lock = lock(&root)?;
        let directory = Self { root, _lock: lock };
        for (place, mode) in [(directory.etcd(), 0o700), (directory.cells(), 0o711)] {
            make_directory(&place, mode).map_err(disk("making", &place))?;
        }
        Ok(directory)
    }

    /// Where it is, with symbolic links resolved.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The log.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("up.log")
    }

    /// etcd's own.
    pub(super) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// The cells' own.
    pub(super) fn cells(&self) -> PathBuf {
        self.root.join("cells")
    }

    /// The nth cell's own. By number and not by guid: the paths of sockets below it must be short.
    pub(super) fn cell(&self, number: u8) -> PathBuf {
        self.cells().join(number.to_string())
    }

    /// The router's own.
    pub(super) fn router(&self) -> PathBuf {
        self.root.join("router")
    }

    /// Where the master key is; makes one at first.
    ///
    /// # Errors
    /// When the disk fails, or there was one once.
    pub(super) fn master_key(&self) -> Result<PathBuf, StateDirectoryError> {
        let key = self.root.join("master-key");
        let data = self.etcd().join("data");
        if key.try_exists().map_err(disk("looking for", &key))? {
            return Ok(key);
        }
        if data.try_exists().map_err(disk("looking for", &data))? {
            return Err(StateDirectoryError::KeyLost { key, data });
        }
        let mut bytes = [0; 32];
        let random = Path::new("/dev/urandom");
        File::open(random)
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(disk("reading", random))?;
        let text = STANDARD.encode(bytes) + "\n";
        write_durably(&key, text.as_bytes(), 0o600, |_| Ok(())).map_err(disk("writing", &key))?;
        Ok(key)
    }

    /// Leaves word for functions.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn write_functions(&self, variables: &str) -> Result<(), StateDirectoryError> {
        let path = self.root.join("functions.env");
        write_durably(&path, variables.as_bytes(), 0o600, |_| Ok(())).map_err(disk("writing", &path))
    }
}

fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirectoryError {
    let path = path.to_owned();
    move |source| StateDirectoryError::Disk { doing, path, source }
}

/// Whether everything that is put below a directory can be used there.
fn check(root: &Path) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    if !root.to_str().is_some_and(|text| text.bytes().all(plain)) {
        let reason = "it may hold letters, digits, '/', '.', '_', '+' and '-' only, as PostgreSQL's tools pass it through a shell";
        return Err(reason.to_owned());
    }
    Ok(())
}

fn lock(root: &Path) -> Result<FileLock, StateDirectoryError> {
    let path = root.join("up.lock");
    let mut options = OpenOptions::new();
    options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW);
    let mut file = options.open(&path).map_err(disk("opening", &path))?;
    let Some(held) = FileLock::try_take(&file).map_err(disk("locking", &path))? else {
        let mut text = String::new();
        let holder = match file.read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
            Ok(Ok(pid)) => format!(" (process {pid})"),
            _ => String::new(),
        };
        let path = root.to_owned();
        return Err(StateDirectoryError::Locked { path, holder });
    };
    // Only for the message above.
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(disk("writing", &path))?;
    Ok(held)
}

/// Makes a directory and those above it that are missing, open to be passed through, whatever the umask.
fn make_path(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_path(parent)?;
        make_directory(path, 0o711)?;
        sync_directory(parent)?;
    }
    Ok(())
}

/// Makes a directory unless it is there, with exactly this mode whatever the umask.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        let first = StateDirectory::open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
        let refusal = StateDirectory::open(&path).unwrap_err().to_string();
        let holder = format!("(process {})", std::process::id());
        assert!(refusal.contains(&holder), "{refusal}");
        drop(first);
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn a_master_key_is_made_once_and_never_replaced() {
        let top = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(top.path()).unwrap();
        let key = directory.master_key().unwrap();
        let made = fs::read_to_string(&key).unwrap();
        assert_eq!(STANDARD.decode(made.trim()).unwrap().len(), 32);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::create_dir(directory.etcd().join("data")).unwrap();
        assert_eq!(fs::read_to_string(directory.master_key().unwrap()).unwrap(), made);
        fs::remove_file(&key).unwrap();
        assert!(matches!(
            directory.master_key(),
            Err(StateDirectoryError::KeyLost { .. })
        ));
    }

    #[test]
    fn paths_that_cannot_be_used_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let refusal = StateDirectory::open(&top.path().join("with space")).unwrap_err();
        assert!(matches!(refusal, StateDirectoryError::Path { .. }), "{refusal}");
        fs::write(top.path().join("file"), "").unwrap();
        StateDirectory::open(&top.path().join("file/below")).unwrap_err();
    }
}
