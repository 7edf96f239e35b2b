//! Who holds a TCP port that we cannot have.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `: <who> holds it`, as far as `/proc` tells; nothing otherwise.
pub(crate) fn describe(address: SocketAddr) -> String {
    find(address).map_or_else(String::new, |who| format!(": {who} holds it"))
}

/// Who listens on an address, or on all of them: `<command> (process <pid>)`. Of other users' processes an ordinary
/// user learns the user only.
pub(crate) fn find(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let sockets: Vec<Socket> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table))
        .filter(|socket| socket.is_in_the_way_of(address))
        .collect();
    let stranger = || Some(format!("a process of user {}", user(&sockets.first()?.uid)));
    process(&sockets).or_else(stranger)
}

/// A socket that listens.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    uid: String,
    /// As the links of its process's descriptors name it.
    link: String,
}

impl Socket {
    fn is_in_the_way_of(&self, wanted: SocketAddr) -> bool {
        let (ip, other) = (self.address.ip(), wanted.ip());
        self.address.port() == wanted.port() && (ip == other || ip.is_unspecified() || other.is_unspecified())
    }
}

/// The first process that can be seen to hold one of them.
fn process(sockets: &[Socket]) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = descriptors.any(|descriptor| {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            sockets
                .iter()
                .any(|socket| link.as_os_str() == socket.link.as_str())
        });
        holds.then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (process {pid})", name.trim())
        })
    })
}

fn user(uid: &str) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_owned())
}

/// The sockets that listen, from a table as proc(5) describes it.
fn listening(table: &str) -> Vec<Socket> {
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (local, state) = (columns.get(1)?, columns.get(3)?);
        let (ip, port) = local.split_once(':')?;
        let socket = Socket {
            address: SocketAddr::new(ip_address(ip)?, u16::from_str_radix(port, 16).ok()?),
            uid: (*columns.get(7)?).to_owned(),
            link: format!("socket:[{}]", columns.get(9)?),
        };
        (*state == LISTEN).then_some(socket)
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Words of 32 bits, each in the byte order of the machine.
fn ip_address(hexadecimal: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..hexadecimal.len()).step_by(8) {
        let word = u32::from_str_radix(hexadecimal.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let listener = TcpListener::bind(bound).unwrap();
            let mut address = listener.local_addr().unwrap();
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::new(127, 0, 0, 7).into());
            }
            let own = format!("(process {})", std::process::id());
            assert!(find(address).unwrap().ends_with(&own), "{bound}");
            assert!(describe(address).ends_with("holds it"));
        }
    }

    #[test]
    fn a_port_of_another_address_is_not_in_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(find(SocketAddr::from(([127, 0, 0, 2], port))), None);
        assert_eq!(describe(SocketAddr::from(([127, 0, 0, 2], port))), "");
    }

    #[test]
    fn users_have_names() {
        assert_eq!(user("0"), "root");
        assert_eq!(user("4294967293"), "4294967293");
    }
}
