//! TCP ports for servers under test.
//!
//! **Guarantees.** A port is handed out once for as long as this process lives, also to other processes that use this
//! module at the same time, and was free. It lies below the range that the kernel takes for outgoing connections, so
//! that no connection can take it between its being handed out and the server's start, or while a server restarts.

use std::{
    collections::HashMap,
    fs::{self, File},
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

use crate::locks;

/// Below this, machines have servers of their own.
const LOWEST: u16 = 15_000;

/// The ports of this process, each with the lock that keeps it from others.
static TAKEN: Mutex<Option<HashMap<u16, File>>> = Mutex::new(None);

/// A port that is free on loopback.
///
/// # Panics
/// When none is left.
#[must_use]
pub fn free_port() -> u16 {
    let highest = lowest_ephemeral().saturating_sub(1);
    assert!(highest > LOWEST, "no ports below the ephemeral range");
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_default();
    let count = u32::from(highest - LOWEST);
    // Processes begin at different places, so that they seldom meet.
    let start = std::process::id().wrapping_mul(7_919) % count;
    for offset in 0..count {
        let port = LOWEST + u16::try_from((start + offset) % count).expect("below the highest port");
        if taken.contains_key(&port) {
            continue;
        }
        if let Some(lock) = locks::take(&format!("port-{port}"))
            && is_free(port)
        {
            taken.insert(port, lock);
            return port;
        }
    }
    panic!("no free port from {LOWEST} to {highest}");
}

fn is_free(port: u16) -> bool {
    ["127.0.0.1", "0.0.0.0"]
        .iter()
        .all(|address| TcpListener::bind((*address, port)).is_ok())
}

fn lowest_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|text| text.parse().ok());
    lowest.unwrap_or(32_768)
}
