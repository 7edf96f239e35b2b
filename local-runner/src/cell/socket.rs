//! Where a node's PostgreSQL puts its Unix socket: below the node's home, or, when that path is longer than the kernel
//! takes, in a short directory of its own.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use shared::ids::NodeId;

use super::account::Account;

/// `sun_path` of Linux without its final zero byte.
const LONGEST: usize = 107;
/// The longest name that PostgreSQL gives a socket (its lock file is longer, but no socket).
const NAME: &str = ".s.PGSQL.65535";

/// Where the socket of a node goes.
pub(super) fn directory(home: &Path, node: NodeId, account: &Account) -> PathBuf {
    let usual = home.join("run");
    if usual.join(NAME).as_os_str().len() <= LONGEST {
        return usual;
    }
    let short = match account {
        Account::Own { .. } => "/tmp",
        Account::Other { .. } => "/run",
    };
    Path::new(short).join(format!("patroni-{node}"))
}

/// Makes the directory, which may have gone with a reboot.
///
/// # Errors
/// When something is there that does not belong to the node's user.
pub(super) fn prepare(directory: &Path, account: &Account) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => account.give(directory),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::symlink_metadata(directory)?;
            if there.is_dir() && there.uid() == account.uid() {
                return Ok(());
            }
            let text = format!(
                "{} is there already and belongs to somebody else",
                directory.display()
            );
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
        Err(error) => Err(error),
    }
}

/// Removes the directory when it lies outside the node's home.
pub(super) fn remove(directory: &Path, home: &Path) -> io::Result<()> {
    if directory.starts_with(home) {
        return Ok(());
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_replaced_by_a_short_one() {
        let account = Account::Own { uid: 1 };
        let node: NodeId = Uuid::from_u128(1).into();
        // "/run/" and the name take 19 bytes.
        let longest = PathBuf::from(format!("/{}", "d".repeat(LONGEST - 20)));
        assert_eq!(directory(&longest, node, &account), longest.join("run"));
        let longer = PathBuf::from(format!("/{}", "d".repeat(LONGEST - 19)));
        assert_eq!(
            directory(&longer, node, &account),
            Path::new("/tmp/patroni-00000000-0000-0000-0000-000000000001")
        );
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let top = tempfile::tempdir().unwrap();
        let own = Account::Own {
            uid: rustix::process::geteuid().as_raw(),
        };
        let path = top.path().join("s");
        prepare(&path, &own).unwrap();
        prepare(&path, &own).unwrap();
        let other = Account::Own { uid: own.uid() + 1 };
        assert!(prepare(&path, &other).is_err());
        remove(&path, Path::new("/elsewhere")).unwrap();
        remove(&path, Path::new("/elsewhere")).unwrap();
        assert!(!path.exists());
    }
}
