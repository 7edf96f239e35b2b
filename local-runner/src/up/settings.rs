//! What the stack is told.

use std::{net::Ipv4Addr, path::PathBuf};

/// What the stack is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where everything is kept.
    pub(crate) state_directory: PathBuf,
    /// The configuration to start from; `None`: the built-in one.
    pub(crate) config: Option<PathBuf>,
    /// How many cells.
    pub(crate) cells: u8,
    /// Where the broker, the router and etcd listen. The cells have the addresses that follow.
    pub(crate) address: Ipv4Addr,
    /// The broker's port.
    pub(crate) port: u16,
    /// etcd's port.
    pub(crate) etcd_port: u16,
    /// The port of the cells' APIs; `None`: as configured.
    pub(crate) cell_port: Option<u16>,
    /// The public ports, such as `30000-32767`; `None`: as configured.
    pub(crate) public_ports: Option<String>,
}
