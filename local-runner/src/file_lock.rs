//! An exclusive lock on a file, held until it is dropped.

use std::fs::File;

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A locked file.
#[derive(Debug)]
pub(crate) struct FileLock(File);

impl FileLock {
    /// Locks an open file; `None` when somebody else holds the lock. The lock is the open file's: it ends with the process
    /// however that ends.
    ///
    /// # Errors
    /// When the file system cannot lock.
    pub(crate) fn try_take(file: &File) -> Result<Option<Self>, std::io::Error> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file.try_clone()?))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for FileLock {
    /// Closing alone would not end it: a child that is being started by another thread holds a copy until its exec.
    fn drop(&mut self) {
        // It cannot fail on a lock that is held; and if it did, closing is left.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_when_it_is_dropped_though_the_file_is_still_open() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("lock")).unwrap();
        let other = File::open(directory.path().join("lock")).unwrap();
        let lock = FileLock::try_take(&file).unwrap().unwrap();
        assert!(FileLock::try_take(&other).unwrap().is_none());
        drop(lock);
        assert!(FileLock::try_take(&other).unwrap().is_some());
    }
}
