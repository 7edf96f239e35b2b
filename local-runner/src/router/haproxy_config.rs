//! HAProxy's configuration as text.
//!
//! **Guarantees.** Pure. Each port has one section with one server: the leader that is known now, or a server in
//! maintenance, so that a worker that has just started sends nobody to a former leader or a replica. Nothing that
//! comes from etcd gets into the text but numbers and IP addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use shared::ids::Port;

use super::account::Account;

/// Where each port's sessions go; `None`: the leader is unknown.
pub(crate) type Targets = BTreeMap<Port, Option<SocketAddr>>;

/// The one server of every section.
pub(crate) const SERVER: &str = "leader";

/// What stands for an address while a server is in maintenance: nobody answers there (RFC 5737).
const NOWHERE: &str = "192.0.2.1:9";

const PREFIX: &str = "instance_";

/// File descriptors that HAProxy needs besides those of listeners and connections: sockets of its own, one or two
/// for each thread.
const SPARE_DESCRIPTORS: u64 = 400;

/// What a worker takes in bytes, without ports and for each port (HAProxy 2.6 with two threads: 13 MiB and 21 KiB).
const WORKER_MEMORY: u64 = 16 * 1024 * 1024;
const PORT_MEMORY: u64 = 24 * 1024;
/// How many reloads a worker survives at least and at most.
const FEWEST_REPLACED: u64 = 4;
const MOST_REPLACED: u64 = 50;

/// What the configuration is made from.
#[derive(Debug)]
pub(crate) struct Config<'config> {
    /// The address that the ports are bound to.
    pub(crate) bind_address: IpAddr,
    /// The file name of the worker's runtime socket, in HAProxy's working directory.
    pub(crate) socket: &'config str,
    /// How many client connections HAProxy may hold.
    pub(crate) max_connections: u32,
    /// How many file descriptors it may have; `None`: any number.
    pub(crate) descriptors: Option<u64>,
    /// How many bytes of memory the machine has.
    pub(crate) memory: u64,
    /// Whom the workers run as; `None`: as whoever starts HAProxy.
    pub(crate) account: Option<Account>,
    /// The ports and where they lead.
    pub(crate) targets: &'config Targets,
}

/// The name of a port's section. (Ids of instances may hold characters that HAProxy refuses.)
pub(crate) fn section(port: Port) -> String {
    format!("{PREFIX}{port}")
}

/// The port of a section; `None` for names that [`section`] does not make.
pub(crate) fn port_of(section: &str) -> Option<Port> {
    section.strip_prefix(PREFIX)?.parse().ok()
}

/// The ports of a configuration as it was written.
pub(crate) fn ports(text: &str) -> BTreeSet<Port> {
    let sections = text.lines().filter_map(|line| line.strip_prefix("listen "));
    sections.filter_map(port_of).collect()
}

impl Config<'_> {
    /// The configuration file's text.
    pub(crate) fn render(&self) -> String {
        let Self { socket, targets, .. } = self;
        let connections = self.connections();
        let one_instance = (connections / 4).max(1);
        let replaced = self.replaced_workers();
        let account = self.account.map_or_else(String::new, |account| {
            format!("    uid {}\n    gid {}\n", account.uid, account.gid)
        });
        // noreuseport: two HAProxys must never share a port, for one of them would route to former leaders. A reload
        // hands the listening sockets over and does not need it.
        let mut text = format!(
            "# Written by the router. It replaces this file whenever the set of instances changes.
global
    maxconn {connections}
    stats socket unix@{socket} mode 600 level admin
    stats timeout 1m
    noreuseport
    mworker-max-reloads {replaced}
{account}
defaults
    mode tcp
    maxconn {one_instance}
    retries 0
    timeout connect 1s
    timeout client 24h
    timeout server 24h
    timeout tunnel 24h
    timeout client-fin 1m
    timeout server-fin 1m
    option clitcpka
    option srvtcpka
"
        );
        for (port, target) in *targets {
            let bind = SocketAddr::new(self.bind_address, port.number());
            let section = section(*port);
            let server = target.map_or_else(|| format!("{NOWHERE} disabled"), |address| address.to_string());
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\nlisten {section}\n    bind {bind}\n    server {SERVER} {server} on-marked-down shutdown-sessions\n"
            );
        }
        text
    }

    /// How many reloads a worker survives. One that was replaced stays until its last session ends, which may take
    /// days; all together they may take a quarter of the memory, before the oldest have to go.
    fn replaced_workers(&self) -> u64 {
        let ports = u64::try_from(self.targets.len()).unwrap_or(u64::MAX);
        let worker = WORKER_MEMORY.saturating_add(ports.saturating_mul(PORT_MEMORY));
        (self.memory / 4 / worker).clamp(FEWEST_REPLACED, MOST_REPLACED)
    }

    /// HAProxy refuses to start when it may not have two descriptors for each connection.
    fn connections(&self) -> u32 {
        let Some(descriptors) = self.descriptors else {
            return self.max_connections.max(1);
        };
        let listeners = u64::try_from(self.targets.len()).unwrap_or(u64::MAX);
        let left = descriptors.saturating_sub(listeners.saturating_add(SPARE_DESCRIPTORS)) / 2;
        u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(self.max_connections)
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn config(targets: &Targets) -> Config<'_> {
        Config {
            bind_address: "127.0.0.1".parse().unwrap(),
            socket: "worker-7.sock",
            max_connections: 1000,
            descriptors: None,
            memory: 8 << 30,
            account: None,
            targets,
        }
    }

    #[test]
    fn a_section_for_each_port_with_its_leader_or_in_maintenance() {
        let targets = Targets::from([
            (port(31000), Some("10.0.0.1:5432".parse().unwrap())),
            (port(31001), None),
            (port(31002), Some("[::1]:5433".parse().unwrap())),
        ]);
        let text = config(&targets).render();
        for line in [
            "    stats socket unix@worker-7.sock mode 600 level admin",
            "    maxconn 1000",
            "    maxconn 250",
            "listen instance_31000\n    bind 127.0.0.1:31000\n    server leader 10.0.0.1:5432 on-marked",
            "listen instance_31001\n    bind 127.0.0.1:31001\n    server leader 192.0.2.1:9 disabled on-marked",
            "listen instance_31002\n    bind 127.0.0.1:31002\n    server leader [::1]:5433 on-marked",
        ] {
            assert!(text.contains(line), "{line}\n\n{text}");
        }
        assert!(!text.contains("uid"));
        assert_eq!(ports(&text), targets.keys().copied().collect());
    }

    #[test]
    fn connections_fit_into_the_file_descriptors() {
        let targets = (1..=100).map(|number| (port(number), None)).collect();
        let mut config = config(&targets);
        for (descriptors, expected) in [(1_000_000, 1000), (1500, 500), (10, 1)] {
            config.descriptors = Some(descriptors);
            assert_eq!(config.connections(), expected, "{descriptors}");
        }
    }

    #[test]
    fn replaced_workers_take_a_quarter_of_the_memory() {
        for (ports, gib, expected) in [(10, 8, 50), (1000, 4, 25), (8000, 8, 10), (8000, 1, 4)] {
            let targets = (1..=ports).map(|number| (port(number), None)).collect();
            let mut config = config(&targets);
            config.memory = gib << 30;
            assert_eq!(config.replaced_workers(), expected, "{ports} ports, {gib} GiB");
        }
    }

    #[test]
    fn workers_run_as_another_user_when_there_is_one() {
        let targets = Targets::new();
        let mut config = config(&targets);
        config.account = Some(Account { uid: 103, gid: 106 });
        assert!(config.render().contains("    uid 103\n    gid 106\n"));
    }

    #[test]
    fn the_name_of_a_section_tells_its_port() {
        assert_eq!(port_of(&section(port(31000))), Some(port(31000)));
        for other in ["GLOBAL", "instance_", "instance_x", "instance_0", "31000"] {
            assert_eq!(port_of(other), None, "{other}");
        }
    }
}
