//! The router's view of etcd, fed by hand.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use shared::{
    ids::Port,
    store::{Entry, Tree, WatchEvent},
};

use crate::router::routes::Routes;

/// The router's view, fed by hand.
pub(super) struct View {
    pub(super) routes: Routes,
    pub(super) now: Instant,
    pub(super) complaints: Vec<String>,
}

impl View {
    /// With both first snapshots empty.
    pub(super) fn new() -> Self {
        let mut view = Self {
            routes: Routes::default(),
            now: Instant::now(),
            complaints: Vec::new(),
        };
        view.snapshot("/routing", &[]);
        view.snapshot("/service", &[]);
        view
    }

    pub(super) fn event(&mut self, key: &str, event: WatchEvent) -> BTreeSet<Port> {
        let changes = if key.starts_with("/routing") {
            self.routes.routing(event)
        } else {
            self.routes.service(event, self.now)
        };
        self.complaints.extend(changes.complaints);
        changes.ports
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> BTreeSet<Port> {
        let event = WatchEvent::Put {
            key: key.to_owned(),
            entry: entry(value),
        };
        self.event(key, event)
    }

    pub(super) fn remove(&mut self, key: &str) -> BTreeSet<Port> {
        self.event(key, removed(key, false))
    }

    pub(super) fn expire(&mut self, key: &str) -> BTreeSet<Port> {
        self.event(key, removed(key, true))
    }

    pub(super) fn snapshot(&mut self, directory: &str, leaves: &[(String, String)]) -> BTreeSet<Port> {
        self.event(directory, WatchEvent::Snapshot(tree(leaves)))
    }

    pub(super) fn lost(&mut self) {
        self.event("/service", WatchEvent::Lost("away".to_owned()));
        self.event("/routing", WatchEvent::Lost("away".to_owned()));
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        let changes = self.routes.expire(self.now);
        self.complaints.extend(changes.complaints);
    }

    /// Where a port leads: `-` for no route, `?` for an unknown leader.
    pub(super) fn leads(&self, number: u16) -> String {
        match self.routes.get(port(number)) {
            None => "-".to_owned(),
            Some(route) => route
                .leader
                .as_ref()
                .map_or_else(|| "?".to_owned(), |leader| leader.endpoint.to_string()),
        }
    }
}

pub(super) fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn entry(value: &str) -> Entry {
    Entry {
        value: value.to_owned(),
        index: NonZeroU64::MIN,
        ttl: None,
    }
}

pub(super) fn removed(key: &str, expired: bool) -> WatchEvent {
    WatchEvent::Removed {
        key: key.to_owned(),
        expired,
        index: NonZeroU64::MIN,
    }
}

fn tree(leaves: &[(String, String)]) -> Tree {
    Tree {
        leaves: leaves
            .iter()
            .map(|(key, value)| (key.clone(), entry(value)))
            .collect(),
        directories: Vec::new(),
        at: 1,
    }
}
