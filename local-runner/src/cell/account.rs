//! The user that Patroni and PostgreSQL run as: PostgreSQL refuses to run as root.

use std::{
    fs, io,
    os::unix::fs::{chown, lchown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::error::CellError;

/// Whom Patroni runs as when the cell runs as root and its settings name nobody.
const DEFAULT_USER: &str = "postgres";

/// The user that Patroni and PostgreSQL run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// The cell's own.
    Own {
        /// Its number.
        uid: u32,
    },
    /// Another one, since the cell runs as root.
    Other {
        /// Its name.
        name: String,
        /// Its number.
        uid: u32,
        /// The number of its group.
        gid: u32,
    },
}

impl Account {
    /// The account to use: the cell's own unless that is root's.
    ///
    /// # Errors
    /// When the user does not exist, or is root itself.
    pub(crate) fn choose(user: Option<&str>) -> Result<Self, CellError> {
        let own = rustix::process::geteuid();
        if !own.is_root() {
            return Ok(Self::Own { uid: own.as_raw() });
        }
        let name = user.unwrap_or(DEFAULT_USER);
        let passwd = fs::read_to_string("/etc/passwd")
            .map_err(|error| CellError::Settings(format!("/etc/passwd is not readable: {error}")))?;
        match find(&passwd, name) {
            Some((0, _)) => Err(CellError::Settings(format!(
                "user '{name}' is root, as whom PostgreSQL does not run: name another one"
            ))),
            Some((uid, gid)) => Ok(Self::Other {
                name: name.to_owned(),
                uid,
                gid,
            }),
            None => Err(CellError::Settings(format!(
                "user '{name}', whom Patroni would run as, is not in /etc/passwd: create it, or name another one"
            ))),
        }
    }

    /// The user's number.
    pub(crate) fn uid(&self) -> u32 {
        match self {
            Self::Own { uid } | Self::Other { uid, .. } => *uid,
        }
    }

    /// What messages call it.
    fn label(&self) -> String {
        match self {
            Self::Own { uid } => uid.to_string(),
            Self::Other { name, .. } => name.clone(),
        }
    }

    /// Makes a command run as this user.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Self::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Gives a file or directory to this user.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own { .. } => Ok(()),
            Self::Other { uid, gid, .. } => lchown(path, Some(*uid), Some(*gid)),
        }
    }

    /// Lets this user's group have a file or directory that stays the cell's own.
    pub(super) fn share(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own { .. } => Ok(()),
            Self::Other { gid, .. } => chown(path, None, Some(*gid)),
        }
    }

    /// Checks that this user gets into a directory. The kernel is asked, since access lists count as well as modes.
    ///
    /// # Errors
    /// Names the outermost directory that it cannot enter.
    pub(crate) fn check_reach(&self, directory: &Path) -> Result<(), CellError> {
        let outermost_first: Vec<&Path> = directory.ancestors().collect();
        for step in outermost_first.into_iter().rev() {
            if !self.succeeds(Command::new("/bin/true").current_dir(step)) {
                return Err(CellError::Unreachable {
                    user: self.label(),
                    directory: step.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Checks that this user can read a file.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn check_readable(&self, file: &PathBuf) -> Result<(), CellError> {
        if self.succeeds(Command::new("/usr/bin/test").arg("-r").arg(file)) {
            return Ok(());
        }
        Err(CellError::Unreadable {
            user: self.label(),
            file: file.clone(),
        })
    }

    fn succeeds(&self, command: &mut Command) -> bool {
        self.apply(command);
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }
}

/// The user's and its group's number, from the text of `/etc/passwd`.
fn find(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:8::/:/x\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find(passwd, "postgres"), Some((101, 104)));
        assert_eq!(find(passwd, "root"), Some((0, 0)));
        assert_eq!(find(passwd, "post"), None);
        assert_eq!(find("postgres:x:abc:1", "postgres"), None);
    }

    #[test]
    fn the_outermost_closed_directory_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let closed = top.path().join("closed");
        let deep = closed.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let account = Account::choose(None).unwrap();
        account.check_reach(&deep).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let CellError::Unreachable { directory, .. } = account.check_reach(&deep).unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(directory, closed);
    }
}
