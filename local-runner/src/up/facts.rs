//! What there is to know about a stack from outside: what runs where, and how to use it.

use std::{net::SocketAddr, path::PathBuf};

use secrecy::ExposeSecret;
use shared::config::{Config, Credentials};

use super::state_directory::StateDirectory;
use crate::cell;

/// What there is to know about a stack from outside.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Where the broker listens.
    pub(crate) broker: SocketAddr,
    /// Who may call it.
    pub(crate) credentials: Option<Credentials>,
    /// The first plan of the first service.
    pub(crate) example: Option<Example>,
    /// Where everything is kept.
    pub(crate) state_directory: PathBuf,
    /// The log.
    pub(crate) log: PathBuf,
    /// The cells' own directory.
    pub(crate) cells: PathBuf,
    /// etcd's base URLs.
    pub(super) etcd: String,
    versions: Versions,
    public_ports: String,
    /// Address and zone of each.
    places: Vec<(String, String)>,
}

/// A plan that can be had.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    /// Its service.
    pub(crate) service_id: String,
    /// The plan.
    pub(crate) plan_id: String,
    /// Whether a commit waits until a replica has it too.
    pub(crate) synchronous: bool,
    /// After how many seconds of silence a leader has lost its place.
    pub(crate) ttl: u32,
}

/// The versions of what the stack runs.
#[derive(Debug, Clone)]
pub(super) struct Versions {
    /// Such as `3.4.23`.
    pub(super) etcd: String,
    /// Such as `2.6.12`.
    pub(super) haproxy: String,
    /// Such as `3.0.2`.
    pub(super) patroni: String,
}

impl Facts {
    pub(super) fn of(
        config: &Config,
        cells: &[cell::Settings],
        versions: Versions,
        directory: &StateDirectory,
    ) -> Self {
        let service = config.catalog.services().first();
        let plan = service.and_then(|service| service.plans.first());
        Self {
            broker: SocketAddr::new(config.broker.bind_address, config.broker.port),
            credentials: config.broker.credentials.first().cloned(),
            example: service.zip(plan).map(|(service, plan)| Example {
                service_id: service.id.clone(),
                plan_id: plan.id.clone(),
                synchronous: plan.cluster.synchronous,
                ttl: plan.cluster.patroni.ttl,
            }),
            state_directory: directory.root().to_owned(),
            log: directory.log(),
            cells: directory.cells(),
            versions,
            etcd: config.kvstore.machines.join(", "),
            public_ports: format!("{}-{}", config.ports.first, config.ports.last),
            places: cells
                .iter()
                .map(|cell| (cell.host.clone(), cell.availability_zone.clone()))
                .collect(),
        }
    }

    /// The broker's URL without user and password.
    pub(crate) fn broker_url(&self) -> String {
        format!("http://{}", self.broker)
    }

    /// The broker's URL with user and password.
    pub(super) fn broker_uri(&self) -> String {
        match &self.credentials {
            Some(Credentials { username, password }) => {
                format!("http://{username}:{}@{}", password.expose_secret(), self.broker)
            }
            None => self.broker_url(),
        }
    }

    pub(super) fn etcd_line(&self) -> String {
        format!("etcd {} on {}", self.versions.etcd, self.etcd)
    }

    pub(super) fn cells_line(&self) -> String {
        let mut zones: Vec<&str> = self.places.iter().map(|(_, zone)| zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let zones = zones.join(", ");
        let places = match self.places.as_slice() {
            [(address, _)] => format!("1 cell on {address}"),
            // They are in one row: 127.0.0.2-5.
            [(first, _), .., (last, _)] => {
                let last = last.rsplit('.').next().unwrap_or_default();
                format!("{} cells on {first}-{last}", self.places.len())
            }
            [] => "no cells".to_owned(),
        };
        format!("{places} in {zones} (Patroni {})", self.versions.patroni)
    }

    pub(super) fn router_line(&self) -> String {
        let (address, version) = (self.broker.ip(), &self.versions.haproxy);
        format!(
            "router on {address}, ports {} (HAProxy {version})",
            self.public_ports
        )
    }

    pub(super) fn broker_line(&self) -> String {
        format!("broker on {}", self.broker_url())
    }
}
