//! The addresses behind the host names of leaders. (On most systems Patroni publishes addresses, and there is nothing to
//! look up.)

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::ids::Port;
use tokio::{
    net::lookup_host,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::member::Endpoint;

/// Before a name that is not known is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// The endpoint that a port leads to.
#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    /// `None` while it is being looked up.
    address: Option<SocketAddr>,
    lookup: Option<AbortHandle>,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(lookup) = &self.lookup {
            lookup.abort();
        }
    }
}

/// What is known and looked up of the endpoint of each port.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    tasks: JoinSet<(Port, SocketAddr)>,
    known: HashMap<Port, Known>,
}

impl Lookups {
    /// The address of a port's endpoint, if it is known. Otherwise [`Self::next`] will tell.
    pub(crate) fn resolve(&mut self, port: Port, endpoint: Option<&Endpoint>) -> Option<SocketAddr> {
        let Some(endpoint) = endpoint else {
            self.known.remove(&port);
            return None;
        };
        if let Some(known) = self.known.get(&port).filter(|known| known.endpoint == *endpoint) {
            return known.address;
        }
        let address = endpoint.host.parse::<IpAddr>();
        let address = address.ok().map(|host| SocketAddr::new(host, endpoint.port));
        let lookup = match address {
            Some(_) => None,
            None => Some(self.tasks.spawn(look_up(port, endpoint.clone()))),
        };
        let known = Known {
            endpoint: endpoint.clone(),
            address,
            lookup,
        };
        self.known.insert(port, known);
        address
    }

    /// The next lookup that succeeds; never, while there is none.
    pub(crate) async fn next(&mut self) -> (Port, SocketAddr) {
        loop {
            match self.tasks.join_next_with_id().await {
                Some(Ok((id, (port, address)))) => {
                    let known = self.known.get_mut(&port);
                    let current =
                        |known: &&mut Known| known.lookup.as_ref().is_some_and(|task| task.id() == id);
                    // One that was given up may have been done already.
                    if let Some(known) = known.filter(current) {
                        known.address = Some(address);
                        return (port, address);
                    }
                }
                // Given up.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn look_up(port: Port, endpoint: Endpoint) -> (Port, SocketAddr) {
    let mut complained = false;
    loop {
        let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await;
        // Only one address can be served. A host that has both kinds, but a PostgreSQL that listens on one of them, is
        // likely to have it on IPv4.
        let wrong = match found.map(|addresses| addresses.min_by_key(SocketAddr::is_ipv6)) {
            Ok(Some(address)) => return (port, address),
            Ok(None) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut complained, true) {
            tracing::warn!(%port, host = endpoint.host, error = wrong, "the leader's host is not known");
        }
        sleep(AGAIN).await;
    }
}
