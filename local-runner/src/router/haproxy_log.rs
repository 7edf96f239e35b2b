//! What HAProxy says: it goes to a file and not to a pipe, since HAProxy may outlive the router.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use shared::ids::Port;

use super::{
    haproxy_config::port_of,
    state_directory::{LOG, StateDirectory},
};

/// HAProxy writes a line for each port at each reload: so many bytes are enough to look back on.
const LARGEST: u64 = 4 * 1024 * 1024;

/// The messages that come from some time on.
#[derive(Debug)]
pub(crate) struct HaproxyLog(File);

impl HaproxyLog {
    /// Begins to listen; answers also the file for HAProxy to write to.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(directory: &StateDirectory) -> io::Result<(Self, File)> {
        let path = directory.path().join(LOG);
        let writer = File::options().create(true).append(true).open(&path)?;
        if writer.metadata()?.len() > LARGEST {
            writer.set_len(0)?;
        }
        // A file of its own: what HAProxy writes would move the position of a shared one.
        let mut reader = File::open(path)?;
        reader.seek(SeekFrom::End(0))?;
        Ok((Self(reader), writer))
    }

    /// The complaints that have come since the last call.
    pub(crate) fn alerts(&mut self) -> String {
        let mut said = Vec::new();
        // Whatever can be read is better than nothing.
        let _ = self.0.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let alerts: Vec<_> = said.lines().filter(|line| line.contains("[ALERT]")).collect();
        alerts.join("\n")
    }
}

/// The ports that complaints name, each with the complaint.
pub(crate) fn blamed(alerts: &str) -> BTreeMap<Port, String> {
    let mut blamed = BTreeMap::new();
    for line in alerts.lines() {
        let words = line.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        blamed.extend(words.filter_map(port_of).map(|port| (port, line.to_owned())));
    }
    blamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_that_haproxy_complains_about_are_found() {
        let alerts = "[ALERT]    (1) : Starting proxy instance_21101: cannot bind socket (Address already in use) \
                      [127.0.0.1:21101]\n\
                      [ALERT]    (1) : [haproxy.main()] Some protocols failed to start their listeners! Exiting.";
        let found: Vec<_> = blamed(alerts).into_iter().collect();
        let line = alerts.lines().next().unwrap();
        assert_eq!(found, [(Port::new(21101).unwrap(), line.to_owned())]);
        assert!(blamed("").is_empty());
    }
}
