//! Who holds a TCP port that we cannot have.

use std::{fs, net::SocketAddr};

/// `: <command> (process <pid>) holds it`, as far as `/proc` tells; nothing otherwise.
pub(crate) fn describe(address: SocketAddr) -> String {
    holder(address.port())
        .map(|(pid, name)| format!(": {name} (process {pid}) holds it"))
        .unwrap_or_default()
}

fn holder(port: u16) -> Option<(u32, String)> {
    let tables: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .collect();
    // Whoever listens; otherwise an outgoing connection that was given this port.
    [true, false].into_iter().find_map(|listening| {
        let inodes = tables.iter().flat_map(|table| inodes(table, port, listening));
        let sockets: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
        process_with(&sockets)
    })
}

fn process_with(sockets: &[String]) -> Option<(u32, String)> {
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = descriptors.any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
        });
        holds.then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            (pid, name.trim().to_owned())
        })
    })
}

/// The sockets with this port as their own, from a table as proc(5) describes it.
fn inodes(table: &str, port: u16, listening: bool) -> Vec<String> {
    const LISTEN: &str = "0A";
    let wanted = format!("{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
            let matches =
                (*state == LISTEN) == listening && local.rsplit(':').next() == Some(wanted.as_str());
            matches.then(|| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (pid, _) = holder(address.port()).unwrap();
        assert_eq!(pid, std::process::id());
        assert!(describe(address).ends_with("holds it"));

        let outgoing = std::net::TcpStream::connect(address).unwrap();
        let (pid, _) = holder(outgoing.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
    }
}
