//! When a node's place was given up last. On disk, since a cell that is started again must know it too.

use std::{fs, io, path::Path, time::Duration};

use crate::durable::write_durably;

/// How long ago it was, by Unix time; `None`: never. A file that cannot be read counts as now, and a time to come as that
/// far away.
pub(super) fn elapsed(file: &Path, now: i64) -> Option<Duration> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        read => read.unwrap_or_default(),
    };
    let last = text.trim().parse().unwrap_or(now);
    Some(Duration::from_secs(now.abs_diff(last)))
}

/// Remembers durably that it is now.
pub(super) fn remember(file: &Path, now: i64) -> io::Result<()> {
    write_durably(file, now.to_string().as_bytes(), 0o600, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_and_what_cannot_be_read_was_now() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("failover");
        let seconds = |number| Some(Duration::from_secs(number));
        assert_eq!(elapsed(&file, 1000), None);
        remember(&file, 1000).unwrap();
        assert_eq!(elapsed(&file, 1059), seconds(59));
        assert_eq!(elapsed(&file, 990), seconds(10), "the clock was set back");
        remember(&file, 2000).unwrap();
        assert_eq!(elapsed(&file, 2000), seconds(0));
        fs::write(&file, "rubbish").unwrap();
        assert_eq!(elapsed(&file, 3000), seconds(0));
    }
}
