//! Ports for nodes: one for PostgreSQL, the next for Patroni's REST API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use shared::ids::NodeId;

/// The two ports of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortPair {
    /// Where PostgreSQL listens.
    pub(super) postgresql: u16,
    /// Where Patroni's REST API listens.
    pub(super) rest: u16,
}

impl PortPair {
    /// The pair that starts at a port.
    fn at(first: u16) -> Option<Self> {
        Some(Self {
            postgresql: first,
            rest: first.checked_add(1)?,
        })
    }

    /// Whether nobody listens on either port now.
    pub(super) fn is_free(self, address: IpAddr) -> bool {
        // std sets SO_REUSEADDR: connections of an earlier process that are still timing out do not count.
        let free = |port| TcpListener::bind((address, port)).is_ok();
        free(self.postgresql) && free(self.rest)
    }
}

/// Which node of this cell owns which ports, whether it runs or not.
#[derive(Debug)]
pub(super) struct PortBook {
    /// The port of the cell's own API, which no node gets even while nobody listens on it.
    reserved: u16,
    pairs: Mutex<BTreeMap<NodeId, PortPair>>,
}

impl PortBook {
    /// A book in which no node owns anything.
    pub(super) fn new(reserved: u16) -> Self {
        Self {
            reserved,
            pairs: Mutex::default(),
        }
    }

    /// Notes the ports that a node has had before.
    pub(super) fn restore(&self, node: NodeId, pair: PortPair) {
        self.lock().insert(node, pair);
    }

    /// Finds a free pair for a node, in place of the one that it may own; `None` when all are taken.
    pub(super) fn claim(&self, node: NodeId, address: IpAddr, first: u16) -> Option<PortPair> {
        let mut book = self.lock();
        let owned = book
            .values()
            .flat_map(|pair| [pair.postgresql, pair.rest])
            .chain([self.reserved])
            .collect();
        let pair = search(address, first, &owned)?;
        book.insert(node, pair);
        Some(pair)
    }

    /// Forgets a node's ports.
    pub(super) fn release(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, PortPair>> {
        // No code panics while it holds the lock; the book would be whole even so.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest free pair from `first` upward that no other node of this cell owns, running or not.
fn search(address: IpAddr, first: u16, owned: &BTreeSet<u16>) -> Option<PortPair> {
    (first..=u16::MAX)
        .step_by(2)
        .filter_map(PortPair::at)
        .filter(|pair| !owned.contains(&pair.postgresql) && !owned.contains(&pair.rest))
        .find(|pair| pair.is_free(address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

    #[test]
    fn pairs_that_are_owned_or_in_use_are_passed_over() {
        let first = 26_100;
        let pair = |port| PortPair::at(port).unwrap();
        assert_eq!(search(ADDRESS, first, &BTreeSet::new()), Some(pair(first)));
        let owned = BTreeSet::from([first + 1]);
        assert_eq!(search(ADDRESS, first, &owned), Some(pair(first + 2)));
        let _rest_in_use = TcpListener::bind((ADDRESS, first + 3)).unwrap();
        assert_eq!(search(ADDRESS, first, &owned), Some(pair(first + 4)));
    }

    #[test]
    fn the_search_ends_at_the_last_port() {
        assert_eq!(search(ADDRESS, u16::MAX, &BTreeSet::new()), None);
    }
}
