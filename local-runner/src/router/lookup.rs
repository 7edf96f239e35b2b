//! The addresses of leaders, as soon as there is one and the leader takes writes. (On most systems Patroni publishes
//! addresses, and there is nothing to look up.)

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use reqwest::Client;
use shared::ids::Port;
use tokio::{
    net::lookup_host,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{cluster::Leader, member::Endpoint, promotion};

/// Before a name that is not known is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// The leader that a port leads to.
#[derive(Debug)]
struct Known {
    leader: Leader,
    /// `None` while it is being looked up, or the leader does not take writes yet.
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

impl Known {
    /// Whether this news of the leader leaves everything as it is: that a served leader now says itself that it takes
    /// writes is none.
    fn stands(&self, leader: &Leader) -> bool {
        let same = self.leader.member == leader.member && self.leader.endpoint == leader.endpoint;
        let confirms = self.address.is_some() && leader.ask.is_none();
        same && (self.leader.ask == leader.ask || confirms)
    }
}

/// What is known and looked up of the leader of each port.
#[derive(Debug)]
pub(crate) struct Lookups {
    http: Client,
    tasks: JoinSet<(Port, SocketAddr)>,
    known: HashMap<Port, Known>,
}

impl Lookups {
    /// Nothing is known yet; `http` asks Patroni.
    pub(crate) fn new(http: Client) -> Self {
        Self {
            http,
            tasks: JoinSet::new(),
            known: HashMap::new(),
        }
    }

    /// The address of a port's leader, if it is known and can be served. Otherwise [`Self::next`] will tell.
    pub(crate) fn resolve(&mut self, port: Port, leader: Option<&Leader>) -> Option<SocketAddr> {
        let Some(leader) = leader else {
            self.known.remove(&port);
            return None;
        };
        if let Some(known) = self.known.get_mut(&port).filter(|known| known.stands(leader)) {
            known.leader = leader.clone();
            return known.address;
        }
        let address = plain_address(&leader.endpoint).filter(|_| leader.ask.is_none());
        let lookup = match address {
            Some(_) => None,
            None => Some(self.tasks.spawn(find(self.http.clone(), port, leader.clone()))),
        };
        let known = Known {
            leader: leader.clone(),
            address,
            lookup,
        };
        self.known.insert(port, known);
        address
    }

    /// Whether the address of any leader is still to come.
    pub(crate) fn are_under_way(&self) -> bool {
        self.known.values().any(|known| known.address.is_none())
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

async fn find(http: Client, port: Port, leader: Leader) -> (Port, SocketAddr) {
    let address = match plain_address(&leader.endpoint) {
        Some(address) => address,
        None => look_up(port, &leader.endpoint).await,
    };
    if let Some(api) = &leader.ask {
        promotion::ended(&http, &leader.member, api).await;
    }
    (port, address)
}

/// The address of an endpoint that is named by it.
fn plain_address(endpoint: &Endpoint) -> Option<SocketAddr> {
    let host = endpoint.host.parse::<IpAddr>().ok()?;
    Some(SocketAddr::new(host, endpoint.port))
}

async fn look_up(port: Port, endpoint: &Endpoint) -> SocketAddr {
    let mut complained = false;
    loop {
        let found = lookup_host((endpoint.host.as_str(), endpoint.port)).await;
        // Only one address can be served. A host that has both kinds, but a PostgreSQL that listens on one of them, is
        // likely to have it on IPv4.
        let wrong = match found.map(|addresses| addresses.min_by_key(SocketAddr::is_ipv6)) {
            Ok(Some(address)) => return address,
            Ok(None) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut complained, true) {
            tracing::warn!(%port, host = endpoint.host, error = wrong, "the leader's host is not known");
        }
        sleep(AGAIN).await;
    }
}
