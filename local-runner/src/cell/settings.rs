//! What a cell must be told.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;
use serde_json::{Map, Value};
use shared::{config::CellConfig, ids::CellGuid};

/// Everything a cell needs to know. It reads neither a file nor the environment for more.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The cell's name in records and heartbeats. No two live cells may share it.
    pub(crate) guid: CellGuid,
    /// Where the API and all nodes listen.
    pub(crate) address: IpAddr,
    /// How others reach [`Self::address`]: a name or an address, without a port.
    pub(crate) host: String,
    /// Where the API listens; 0 takes a free port.
    pub(crate) api_port: u16,
    /// The cell's availability zone.
    pub(crate) availability_zone: String,
    /// Where everything is kept. Another cell on the same directory refuses to start.
    pub(crate) data_directory: PathBuf,
    /// How many nodes it may run.
    pub(crate) capacity: u32,
    /// User of the API.
    pub(crate) username: String,
    /// Password of the API.
    pub(crate) password: SecretString,
    /// Ports of nodes are searched from here upward: one for PostgreSQL, the next for Patroni's REST API.
    pub(crate) first_port: u16,
    /// How long a heartbeat counts; it is renewed every third of it. Whole seconds.
    pub(crate) heartbeat_ttl: Duration,
    /// How Patroni and PostgreSQL are run.
    pub(crate) patroni: PatroniSettings,
    /// How Patroni reaches etcd.
    pub(crate) etcd: EtcdAccess,
}

impl Settings {
    /// A cell as configured. It listens on its address when that is an IP address, otherwise on all of the machine's.
    pub(crate) fn of(config: CellConfig) -> Self {
        let CellConfig { cell, kvstore } = config;
        let (username, password) = match kvstore.credentials {
            Some(credentials) => (Some(credentials.username), Some(credentials.password)),
            None => (None, None),
        };
        let (cert, key) = match kvstore.client_certificate {
            Some(certificate) => (Some(certificate.certificate_file), Some(certificate.key_file)),
            None => (None, None),
        };
        Self {
            guid: cell.guid,
            address: cell.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host: cell.address,
            api_port: cell.api_port.number(),
            availability_zone: cell.availability_zone,
            data_directory: cell.data_directory,
            capacity: cell.capacity,
            username: cell.credentials.username,
            password: cell.credentials.password,
            first_port: cell.first_port.number(),
            heartbeat_ttl: cell.heartbeat_ttl,
            patroni: PatroniSettings {
                command: cell.patroni.command,
                postgres_bin: cell.patroni.postgres_bin,
                user: cell.patroni.user,
                version: None,
                parameters: cell.postgresql_parameters,
            },
            etcd: EtcdAccess {
                machines: kvstore.machines,
                username,
                password,
                ca: kvstore.ca_file,
                cert,
                key,
            },
        }
    }

    /// Where the API listens.
    pub(crate) fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.api_port)
    }

    /// `host:port` as others reach it.
    pub(super) fn advertised(&self, port: u16) -> String {
        if self.host.contains(':') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }
}

/// How Patroni and PostgreSQL are run.
#[derive(Debug, Clone)]
pub(crate) struct PatroniSettings {
    /// The command and its leading arguments; the configuration file is appended.
    pub(crate) command: Vec<String>,
    /// Where PostgreSQL's programs are; `None`: the newest `/usr/lib/postgresql/*/bin`.
    pub(crate) postgres_bin: Option<PathBuf>,
    /// Whom Patroni runs as when the cell runs as root; `None`: `postgres`.
    pub(crate) user: Option<String>,
    /// Its version, when it was asked already whether it runs; `None`: the cell asks.
    pub(crate) version: Option<String>,
    /// More PostgreSQL parameters for every node of this cell.
    pub(crate) parameters: Map<String, Value>,
}

impl Default for PatroniSettings {
    fn default() -> Self {
        Self {
            command: vec!["/usr/bin/patroni".to_owned()],
            postgres_bin: None,
            user: None,
            version: None,
            parameters: Map::new(),
        }
    }
}

/// How Patroni reaches etcd.
#[derive(Debug, Clone, Default)]
pub(crate) struct EtcdAccess {
    /// Base URLs, all of one scheme: `http://127.0.0.1:2379`.
    pub(crate) machines: Vec<String>,
    /// User, when etcd asks for one.
    pub(crate) username: Option<String>,
    /// Its password.
    pub(crate) password: Option<SecretString>,
    /// The authorities that etcd's certificate must be signed by.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that Patroni shows. Readable by the user that Patroni runs as.
    pub(crate) cert: Option<PathBuf>,
    /// Its key. Readable by the user that Patroni runs as.
    pub(crate) key: Option<PathBuf>,
}
