//! What a cell keeps on disk.
//!
//! ```text
//! cell.lock                     held for as long as the cell lives; names the cell
//! nodes/<node>/                 the cell's; the node's user may look inside but not write
//!     node.json                 what the cell was told (0600: passwords)
//!     patroni.yml               Patroni's configuration (passwords)
//!     process.json              which process is the node's Patroni
//!     output.log                what Patroni printed before its own log was open
//!     failover                  when its place was given up last, in Unix time
//!     home/                     the node's user's, 0700: data/ log/ run/ tmp/ pgpass
//! retired/<node>                its id is never accepted again
//! quarantine/<node>-<seconds>/  a node's directory that nothing named any more
//! scratch/                      being made, or being deleted; emptied at start
//! ```
//!
//! **Guarantees.** A node's directory appears in `nodes/` as a whole or not at all, and a retired id is on disk before
//! [`DataDirectory::retire`] returns; both survive a power cut. One process at a time holds a data directory.
//! **Assumes.** A file system on which a rename is atomic, and `flock` works.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shared::{
    cell_api::NodeParameters,
    ids::{CellGuid, InstanceId, NodeId},
};

use super::{account::Account, error::CellError, ports::PortPair};
use crate::{
    durable::{sync_directory, write_durably},
    file_lock::FileLock,
};

/// The data directory of a cell, locked.
#[derive(Debug)]
pub(super) struct DataDirectory {
    root: PathBuf,
    account: Account,
    /// The lock goes with the file.
    _lock: FileLock,
}

/// What the cell keeps about a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeFile {
    /// What it was told.
    pub(super) parameters: NodeParameters,
    /// What it chose.
    pub(super) ports: PortPair,
}

/// The directory of one node.
#[derive(Debug, Clone)]
pub(super) struct NodeDirectory(PathBuf);

impl NodeDirectory {
    /// What the cell was told.
    fn node_json(&self) -> PathBuf {
        self.0.join("node.json")
    }

    /// Patroni's configuration.
    pub(super) fn patroni_yml(&self) -> PathBuf {
        self.0.join("patroni.yml")
    }

    /// Which process is the node's Patroni.
    pub(super) fn process_json(&self) -> PathBuf {
        self.0.join("process.json")
    }

    /// When its place was given up last.
    pub(super) fn last_failover(&self) -> PathBuf {
        self.0.join("failover")
    }

    /// PostgreSQL's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    /// What Patroni printed.
    pub(super) fn output(&self) -> PathBuf {
        self.0.join("output.log")
    }

    /// The part that belongs to the node's user. Everything that works for the node works in here.
    pub(super) fn home(&self) -> PathBuf {
        self.0.join("home")
    }
}

impl DataDirectory {
    /// Opens, and at first makes, a data directory, and locks it.
    ///
    /// # Errors
    /// When another process holds it, it is another cell's, its path cannot be used, or the disk fails.
    pub(super) fn open(path: &Path, account: Account, guid: &CellGuid) -> Result<Self, CellError> {
        if !path.is_absolute() || !path.to_str().is_some_and(is_plain) {
            return Err(CellError::Settings(format!(
                "the data directory '{}' must be an absolute path of letters, digits, '/', '.', '_', '+' and '-': \
                 PostgreSQL's tools pass it through a shell",
                path.display()
            )));
        }
        let disk = |doing| {
            move |source| CellError::Disk {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .map_err(disk("creating"))?;
        let root = path.canonicalize().map_err(disk("resolving"))?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(root.join("cell.lock"))
            .map_err(disk("opening the lock of"))?;
        let Some(held) = FileLock::try_take(&lock).map_err(disk("locking"))? else {
            return Err(CellError::Locked(root));
        };
        let owner = own(&mut lock, guid).map_err(disk("naming the owner of"))?;
        if owner != guid.as_str() {
            return Err(CellError::OtherCell {
                directory: root,
                owner,
                guid: guid.clone(),
            });
        }
        let directory = Self {
            root,
            account,
            _lock: held,
        };
        directory.lay_out().map_err(disk("preparing"))?;
        Ok(directory)
    }

    fn lay_out(&self) -> io::Result<()> {
        remove_if_there(&self.scratch())?;
        for (name, mode) in [
            ("nodes", 0o711),
            ("retired", 0o700),
            ("quarantine", 0o700),
            ("scratch", 0o700),
        ] {
            make_directory(&self.root.join(name), mode)?;
        }
        sync_directory(&self.root)
    }

    /// Where it is, with symbolic links resolved.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    fn retired(&self) -> PathBuf {
        self.root.join("retired")
    }

    /// The directory of a node, whether it is there or not.
    pub(super) fn node(&self, node: NodeId) -> NodeDirectory {
        NodeDirectory(self.nodes().join(node.to_string()))
    }

    /// Keeps a node durably, with the directories that it needs.
    pub(super) fn create(&self, node: NodeId, file: &NodeFile) -> io::Result<NodeDirectory> {
        let new = NodeDirectory(self.scratch().join(node.to_string()));
        remove_if_there(&new.0)?;
        make_directory(&new.0, 0o750)?;
        self.account.share(&new.0)?;
        let json = serde_json::to_vec(file)?;
        write_durably(&new.node_json(), &json, 0o600, |_| Ok(()))?;
        make_directory(&new.home(), 0o700)?;
        self.account.give(&new.home())?;
        for name in ["log", "run", "tmp"] {
            let path = new.home().join(name);
            make_directory(&path, 0o700)?;
            self.account.give(&path)?;
        }
        sync_directory(&new.0)?;
        let finished = self.node(node);
        fs::rename(&new.0, &finished.0)?;
        sync_directory(&self.nodes())?;
        Ok(finished)
    }

    /// Remembers another choice of ports.
    pub(super) fn update(&self, node: NodeId, file: &NodeFile) -> io::Result<()> {
        let json = serde_json::to_vec(file)?;
        write_durably(&self.node(node).node_json(), &json, 0o600, |_| Ok(()))
    }

    /// Writes a node's Patroni configuration: the node's user may read but not change it.
    pub(super) fn write_patroni_yml(&self, node: NodeId, text: &str) -> io::Result<()> {
        let mode = match self.account {
            Account::Own { .. } => 0o600,
            Account::Other { .. } => 0o640,
        };
        let share = |file: &Path| self.account.share(file);
        write_durably(&self.node(node).patroni_yml(), text.as_bytes(), mode, share)
    }

    /// Which nodes have a directory, and what the cell was told about each. A file that cannot be read is its error.
    pub(super) fn held(&self) -> io::Result<Vec<(NodeId, io::Result<NodeFile>)>> {
        let mut held = Vec::new();
        for name in names(&self.nodes())? {
            if let Ok(node) = name.parse() {
                held.push((node, read_node(&self.node(node))));
            }
        }
        Ok(held)
    }

    /// The ids of all nodes that have a directory, in quarantine or not, whether they can be read or not.
    pub(super) fn ids(&self) -> io::Result<BTreeSet<NodeId>> {
        let mut ids = self.quarantined_ids()?;
        ids.extend(
            names(&self.nodes())?
                .iter()
                .filter_map(|name| name.parse::<NodeId>().ok()),
        );
        Ok(ids)
    }

    /// The instance of a node of which a directory is there, by Patroni's configuration.
    pub(super) fn scope(&self, node: NodeId) -> io::Result<InstanceId> {
        #[derive(Deserialize)]
        struct Scoped {
            scope: InstanceId,
        }
        let kept = self.node(node);
        let kept = match self.latest_quarantine(node)? {
            Some(path) if !kept.0.try_exists()? => NodeDirectory(path),
            _ => kept,
        };
        let read = fs::read(kept.patroni_yml()).and_then(|text| Ok(serde_json::from_slice::<Scoped>(&text)?));
        let unknown = |error: io::Error| {
            let place = kept.0.display();
            io::Error::other(format!(
                "nobody knows whose data is in {place}, for neither node.json nor patroni.yml can be read ({error}): \
                 restore one of them, or delete the directory by hand if the data is not needed"
            ))
        };
        read.map(|scoped| scoped.scope).map_err(unknown)
    }

    /// Which nodes were set aside, the latest directory of each, and what the cell was told about it.
    pub(super) fn quarantined(&self) -> io::Result<Vec<(NodeId, io::Result<NodeFile>)>> {
        let mut found = Vec::new();
        for node in self.quarantined_ids()? {
            if let Some(path) = self.latest_quarantine(node)? {
                found.push((node, read_node(&NodeDirectory(path))));
            }
        }
        Ok(found)
    }

    fn quarantined_ids(&self) -> io::Result<BTreeSet<NodeId>> {
        let names = names(&self.quarantine())?;
        Ok(names
            .iter()
            .filter_map(|name| quarantine_name(name))
            .map(|(node, _)| node)
            .collect())
    }

    fn latest_quarantine(&self, node: NodeId) -> io::Result<Option<PathBuf>> {
        let names = names(&self.quarantine())?;
        let latest = names
            .iter()
            .filter_map(|name| Some((quarantine_name(name)?, name)))
            .filter(|((whose, _), _)| *whose == node)
            .max();
        Ok(latest.map(|(_, name)| self.quarantine().join(name)))
    }

    /// Sets a node's directory aside; answers where it went. `seconds` is Unix time.
    pub(super) fn set_aside(&self, node: NodeId, seconds: i64) -> io::Result<PathBuf> {
        let mut seconds = seconds;
        let target = loop {
            let target = self.quarantine().join(format!("{node}-{seconds}"));
            if !target.exists() {
                break target;
            }
            seconds += 1;
        };
        fs::rename(self.node(node).0, &target)?;
        sync_directory(&self.quarantine())?;
        sync_directory(&self.nodes())?;
        Ok(target)
    }

    /// Takes a node's directory back out of quarantine.
    pub(super) fn take_back(&self, node: NodeId) -> io::Result<()> {
        let path = self
            .latest_quarantine(node)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nothing of it is in quarantine"))?;
        fs::rename(path, self.node(node).0)?;
        sync_directory(&self.nodes())?;
        sync_directory(&self.quarantine())
    }

    /// Remembers durably that a node's id is never to be accepted again.
    pub(super) fn retire(&self, node: NodeId) -> io::Result<()> {
        let path = self.retired().join(node.to_string());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        file.sync_all()?;
        sync_directory(&self.retired())
    }

    /// Whether a node's id was retired here.
    pub(super) fn is_retired(&self, node: NodeId) -> io::Result<bool> {
        self.retired().join(node.to_string()).try_exists()
    }

    /// Deletes all that is kept of a node, except that it is retired.
    pub(super) fn delete(&self, node: NodeId) -> io::Result<()> {
        let mut doomed = Vec::new();
        if self.node(node).0.try_exists()? {
            doomed.push(self.node(node).0);
        }
        while let Some(path) = doomed.pop().or(self.latest_quarantine(node)?) {
            // Out of the way first: what is half deleted must not be taken for a node after a crash.
            let scratch = self.scratch().join(format!("{node}-deleted"));
            remove_if_there(&scratch)?;
            fs::rename(&path, &scratch)?;
            sync_directory(&self.nodes())?;
            fs::remove_dir_all(&scratch)?;
        }
        Ok(())
    }
}

/// Whether a path goes through a shell and PostgreSQL's lists of directories unharmed.
fn is_plain(path: &str) -> bool {
    path.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte))
}

/// Whose directory it is: the cell's that opened it first. To another one, no record would assign what is in it.
fn own(lock: &mut File, guid: &CellGuid) -> io::Result<String> {
    let mut owner = String::new();
    lock.read_to_string(&mut owner)?;
    if owner.is_empty() {
        owner = guid.to_string();
        lock.write_all(owner.as_bytes())?;
        lock.sync_all()?;
    }
    Ok(owner)
}

fn quarantine_name(name: &str) -> Option<(NodeId, i64)> {
    let (node, seconds) = name.rsplit_once('-')?;
    Some((node.parse().ok()?, seconds.parse().ok()?))
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn read_node(directory: &NodeDirectory) -> io::Result<NodeFile> {
    Ok(serde_json::from_slice(&fs::read(directory.node_json())?)?)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory unless it is there, with exactly this mode whatever the umask.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests;
