//! A disk that is lost.

use std::{fs, path::Path};

use uuid::Uuid;

/// Takes a directory away at once, whatever still happens in it.
///
/// It is put aside, beside where it was. Removed file by file, it would not be empty in the end if one appeared meanwhile: a
/// process that was killed need not have ended with all its threads where it is not seen any more.
///
/// # Panics
/// When it is not there.
pub fn lose(directory: &Path) {
    let mut aside = directory.as_os_str().to_owned();
    aside.push(format!("-lost-{}", Uuid::new_v4()));
    fs::rename(directory, aside).unwrap();
}
