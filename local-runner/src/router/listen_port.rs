//! Whether HAProxy will be able to listen on a port, and who is in the way.
//!
//! HAProxy refuses a whole configuration when one of its ports cannot be bound, and until it gives up, the worker that
//! runs stops listening on *all* its ports for up to two seconds (it is asked to let them go). So each port is tried
//! before it is put into the configuration.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
};

use shared::ids::Port;

/// Why a port cannot be listened on; `None`: it can.
pub(crate) fn obstacle(address: IpAddr, port: Port) -> Option<String> {
    // The same as HAProxy will do: std sets SO_REUSEADDR, and neither it nor our configuration SO_REUSEPORT.
    match TcpListener::bind(SocketAddr::new(address, port.number())) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Who uses a port, as far as it can be found out.
pub(crate) fn holder(port: Port) -> Option<String> {
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = sockets.iter().filter_map(|path| fs::read_to_string(path).ok());
    let inodes: Vec<String> = tables.flat_map(|table| inodes(&table, port)).collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if links.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// The sockets of a table such as /proc/net/tcp that have the port as their own: listening ones first.
fn inodes(table: &str, port: Port) -> Vec<String> {
    let wanted = format!(":{:04X}", port.number());
    let mut found: Vec<(bool, String)> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else {
                return None;
            };
            // 0: nobody's any more.
            (local.ends_with(&wanted) && *inode != "0").then(|| (*state != "0A", (*inode).to_owned()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, inode)| inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let address = "127.0.0.1".parse().unwrap();
        assert!(obstacle(address, port).unwrap().contains("in use"));
        let holder = holder(port).unwrap();
        assert!(
            holder.ends_with(&format!("(process {})", std::process::id())),
            "{holder}"
        );
        drop(listener);
        assert_eq!(obstacle(address, port), None);
    }
}
