//! Names that one process on this machine holds at a time, whoever runs it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
};

/// Takes a name for as long as the answered file is open; `None` while another process, or this one, has it.
///
/// # Panics
/// When the directory for temporary files cannot be used.
pub(crate) fn take(name: &str) -> Option<File> {
    let directory = std::env::temp_dir().join("patroni-broker-test-locks");
    match DirBuilder::new().create(&directory) {
        // Tests may be run by several users of a machine.
        Ok(()) => fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("a new directory"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => panic!("{} cannot be made: {error}", directory.display()),
    }
    let path = directory.join(name);
    // Opened first, since the kernel may refuse to "create" the file of another user.
    let lock = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => File::create(&path),
        opened => opened,
    };
    let lock = lock.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()));
    lock.try_lock().is_ok().then_some(lock)
}
