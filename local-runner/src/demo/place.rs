//! A place of its own for the demo: a directory, an address and ports that nobody else uses, and its end.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::failure::Failure;
use crate::up::{Settings, StateDirectory, UpError, clear};

/// Where directories are within everybody's reach.
const PARENT: &str = "/var/tmp";
const PREFIX: &str = "patroni-demo-";
const CELLS: u8 = 4;
/// How many public ports it has: it needs one.
const PUBLIC_PORTS: u16 = 8;

/// The demo's place.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
}

impl Place {
    /// A directory that does not exist yet.
    pub(super) fn new() -> Self {
        let random = Uuid::new_v4().simple().to_string();
        let name: String = random.chars().take(6).collect();
        Self {
            directory: Path::new(PARENT).join(format!("{PREFIX}{name}")),
        }
    }

    /// What the stack is told.
    ///
    /// # Errors
    /// When there are no free ports.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        // A net of its own, away from whatever listens on 127.0.0.1; the ports are looked at because some listen on
        // all addresses.
        let [first, second, ..] = Uuid::new_v4().into_bytes();
        let address = Ipv4Addr::new(127, 64 | first, second, 1);
        let sites =
            |count: u8| (0..=count).map(move |n| Ipv4Addr::from_bits(address.to_bits() + u32::from(n)));
        let none = || Failure::new(format!("free ports on {address}"), "none");
        let free = |from: u16, length: u16, cells: u8| {
            let runs = (from..=u16::MAX - length).step_by(usize::from(length));
            runs.into_iter()
                .find(|start| {
                    (*start..start + length).all(|port| sites(cells).all(|site| is_free(site, port)))
                })
                .ok_or_else(none)
        };
        let public = free(30_000, PUBLIC_PORTS, 0)?;
        Ok(Settings {
            state_directory: self.directory.clone(),
            config: None,
            cells: CELLS,
            address,
            port: free(8888, 1, 0)?,
            etcd_port: free(4001, 1, 0)?,
            cell_port: Some(free(8889, 1, CELLS)?),
            public_ports: Some(format!("{public}-{}", public + PUBLIC_PORTS - 1)),
        })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its logs go when something has failed: beside the directory, since that does not stay.
    pub(super) fn kept_log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Removes the directory with everything in it.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Ends and removes what demos that were killed have left behind; answers their directories. Those that run are
/// left alone, and so are those of other users.
pub(super) async fn sweep() -> Vec<PathBuf> {
    let mut swept = Vec::new();
    let entries = fs::read_dir(PARENT).into_iter().flatten().flatten();
    for entry in entries {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let path = entry.path();
        // A directory without a lock is one that another demo is just about to make, or no demo's.
        if ours
            && is_own_directory(&path)
            && path.join("up.lock").is_file()
            && remove_dead(&path).await.is_ok()
        {
            swept.push(path);
        }
    }
    swept
}

/// Whether this user made it. Root must not follow into what anybody can make in a directory that is open to all.
fn is_own_directory(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own)
}

async fn remove_dead(path: &Path) -> Result<(), UpError> {
    let directory = StateDirectory::open(path)?;
    clear(&directory).await?;
    fs::remove_dir_all(path).map_err(|source| UpError::System {
        doing: "removing an old demo's directory",
        source,
    })
}

fn is_free(address: Ipv4Addr, port: u16) -> bool {
    TcpListener::bind((address, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_has_a_place_of_its_own() {
        let (one, two) = (Place::new(), Place::new());
        assert_ne!(one.directory(), two.directory());
        let settings = one.settings().unwrap();
        assert!(settings.address.is_loopback() && settings.address != Ipv4Addr::LOCALHOST);
        assert!(settings.public_ports.unwrap().starts_with("30"));
    }
}
