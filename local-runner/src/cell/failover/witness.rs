//! A node's postmaster, held by its process descriptor while it runs, so that its death is certain when it comes.
//!
//! **Guarantees.** [`Fate::Killed`] is said only of a postmaster that was held while it was alive: the one that its pid
//! file named then and names still, of the node's user, in the node's data directory and in the cell's own PID namespace,
//! and only until that death is settled. One that was started but never seen alive by this cell is [`Fate::Unknown`].
//! **Source.** PostgreSQL's documentation ("Database File Layout"): `postmaster.pid` begins with the postmaster's number
//! and is removed by a shutdown, also by an immediate one.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    super::process::{Process, ProcessId},
    shared_memory::Segment,
};

/// How often the pid file is read while no postmaster that lives is held.
const LOOK: Duration = Duration::from_millis(500);

/// What has become of a postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Fate {
    /// It runs.
    Alive,
    /// It has ended without removing its pid file.
    Killed,
    /// It was shut down, was never seen, or another one took its place unseen.
    Unknown,
}

/// Whoever holds a node's postmaster.
#[derive(Debug)]
pub(in super::super) struct Witness {
    data: PathBuf,
    uid: u32,
    held: Option<Process>,
}

impl Witness {
    /// Looks for the postmaster of a data directory that works for a user.
    pub(in super::super) fn new(data: PathBuf, uid: u32) -> Self {
        let mut witness = Self {
            data,
            uid,
            held: None,
        };
        witness.look();
        witness
    }

    /// Keeps hold of whichever postmaster runs: comes back when it has ended, or when it is time to have looked for another.
    /// Cancel-safe.
    pub(in super::super) async fn tend(&mut self) {
        if self.fate() == Fate::Alive {
            self.ended().await;
        } else {
            sleep(LOOK).await;
            self.look();
        }
    }

    /// Waits for the end of the postmaster that is held; for ever, when there is none.
    pub(in super::super) async fn ended(&self) {
        match &self.held {
            // A descriptor that cannot be waited for tells nothing.
            Some(process) if process.ended().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    /// What has become of it by now.
    pub(in super::super) fn fate(&self) -> Fate {
        let Some(process) = &self.held else {
            return Fate::Unknown;
        };
        let named = named_by(&self.data) == Some(process.id().pid);
        match ProcessId::of(process.id().pid) {
            Ok(Some(id)) if id == *process.id() => Fate::Alive,
            Ok(None) if named => Fate::Killed,
            // Another process was given its number, perhaps another postmaster.
            Ok(_) | Err(_) => Fate::Unknown,
        }
    }

    /// The shared memory of the postmaster that is held, while the pid file names both.
    pub(super) fn memory(&self) -> Option<Segment> {
        let segment = Segment::named_by(&pid_file(&self.data)?)?;
        let held = self.held.as_ref()?.id().pid;
        (segment.creator == held).then_some(segment)
    }

    /// Everything was done that follows from the death of the postmaster that was held.
    pub(in super::super) fn settle(&mut self) {
        self.held = None;
    }

    /// Takes hold of the postmaster that runs, if one does.
    pub(in super::super) fn look(&mut self) {
        if let Ok(Some(process)) = self.find() {
            self.held = Some(process);
        }
    }

    /// The postmaster that the pid file names, if it runs and is certainly the one that is meant.
    fn find(&self) -> io::Result<Option<Process>> {
        let Some(id) = named_by(&self.data).map(ProcessId::of).transpose()?.flatten() else {
            return Ok(None);
        };
        let pid = id.pid;
        // Held first, so that what is read below is read of this process.
        let Some(process) = Process::open(id)? else {
            return Ok(None);
        };
        let at = PathBuf::from(format!("/proc/{pid}"));
        let namespace = |of: &Path| fs::read_link(of.join("ns/pid"));
        let is_it = fs::metadata(&at)?.uid() == self.uid
            && fs::read_link(at.join("cwd"))? == self.data
            && namespace(&at)? == namespace(Path::new("/proc/self"))?;
        Ok((is_it && process.id().is_alive()?).then_some(process))
    }
}

/// The number in the first line of a pid file.
fn named_by(data: &Path) -> Option<i32> {
    pid_file(data)?.lines().next()?.trim().parse().ok()
}

fn pid_file(data: &Path) -> Option<String> {
    fs::read_to_string(data.join("postmaster.pid")).ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Scene {
        top: tempfile::TempDir,
        children: Vec<Child>,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                top: tempfile::tempdir().unwrap(),
                children: Vec::new(),
            }
        }

        fn data(&self) -> PathBuf {
            self.top.path().canonicalize().unwrap()
        }

        /// Starts what stands for a postmaster.
        fn start(&mut self, directory: &Path) -> u32 {
            let mut command = Command::new("/bin/sleep");
            command.arg("60").current_dir(directory).stdin(Stdio::null());
            self.children.push(command.spawn().unwrap());
            self.children.last().unwrap().id()
        }

        fn name(&self, pid: u32) {
            fs::write(self.data().join("postmaster.pid"), format!("{pid}\n/x\n")).unwrap();
        }

        fn witness(&self) -> Witness {
            Witness::new(self.data(), rustix::process::geteuid().as_raw())
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            for child in &mut self.children {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    #[tokio::test]
    async fn a_postmaster_that_was_held_and_is_named_still_was_killed() {
        let mut scene = Scene::new();
        let pid = scene.start(&scene.data());
        scene.name(pid);
        let mut witness = scene.witness();
        assert_eq!(witness.fate(), Fate::Alive);
        assert_eq!(witness.memory(), None, "it has made none yet");
        scene.children[0].kill().unwrap();
        tokio::time::timeout(Duration::from_secs(20), witness.ended())
            .await
            .unwrap();
        assert_eq!(witness.fate(), Fate::Killed, "a zombie has ended");
        scene.children[0].wait().unwrap();
        assert_eq!(witness.fate(), Fate::Killed);
        witness.look();
        assert_eq!(witness.fate(), Fate::Killed, "nobody has taken its place");
        let memory = |pid| format!("{pid}\n/x\n1\n2\n/r\nh\n 17 4\n");
        fs::write(scene.data().join("postmaster.pid"), memory(pid)).unwrap();
        let creator = i32::try_from(pid).unwrap();
        assert_eq!(witness.memory(), Some(Segment { id: 4, creator }));
        fs::write(scene.data().join("postmaster.pid"), memory(1)).unwrap();
        assert_eq!((witness.memory(), witness.fate()), (None, Fate::Unknown));
        scene.name(pid);
        assert_eq!(witness.fate(), Fate::Killed);
        fs::remove_file(scene.data().join("postmaster.pid")).unwrap();
        assert_eq!(witness.fate(), Fate::Unknown, "it was shut down");
        scene.name(pid);
        witness.settle();
        assert_eq!(witness.fate(), Fate::Unknown, "that is over");
    }

    #[tokio::test]
    async fn a_postmaster_that_was_not_seen_alive_is_unknown() {
        let mut scene = Scene::new();
        assert_eq!(scene.witness().fate(), Fate::Unknown, "no pid file");
        let pid = scene.start(&scene.data());
        scene.name(pid);
        let mut witness = scene.witness();
        let elsewhere = tempfile::tempdir().unwrap();
        let stranger = scene.start(elsewhere.path());
        scene.name(stranger);
        assert_eq!(scene.witness().fate(), Fate::Unknown, "it works elsewhere");
        let user = rustix::process::geteuid().as_raw() + 1;
        assert_eq!(
            Witness::new(scene.data(), user).fate(),
            Fate::Unknown,
            "another user's"
        );

        // Another one has taken its place, and has died too.
        scene.children[0].kill().unwrap();
        scene.children[0].wait().unwrap();
        assert_eq!(witness.fate(), Fate::Unknown);

        // One that lives is found.
        let pid = scene.start(&scene.data());
        scene.name(pid);
        let found = async {
            while witness.fate() != Fate::Alive {
                witness.tend().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .unwrap();
    }
}
