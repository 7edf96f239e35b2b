//! What the router is told by whoever starts it.

use std::{net::IpAddr, path::PathBuf};

use shared::config;

/// How the router runs HAProxy.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The address that the public ports are bound to.
    pub(crate) bind_address: IpAddr,
    /// HAProxy's program.
    pub(crate) haproxy: PathBuf,
    /// Where HAProxy's configuration, sockets and messages are kept; made when it does not exist. One router at a time.
    pub(crate) state_directory: PathBuf,
    /// How many client connections HAProxy holds at once, over all instances. One instance gets at most a quarter of
    /// them, so that a client that never closes its connections cannot shut out the others.
    pub(crate) max_connections: u32,
}

impl Settings {
    /// A router as configured.
    pub(crate) fn of(router: config::Router) -> Self {
        Self {
            bind_address: router.bind_address,
            haproxy: router.haproxy,
            state_directory: router.state_directory,
            max_connections: router.max_connections,
        }
    }
}
