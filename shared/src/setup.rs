//! A broker from a configuration. Nothing is read from etcd, and no connection is made, until a request needs it.

use std::{sync::Arc, time::Duration};

use crate::{
    broker::{Broker, Settings},
    cells::{Cell, HttpCells, KnownCells},
    clock::SystemClock,
    config::{Config, KvStore},
    database::PostgresDatabases,
    decide::{decide, placement::CellView},
    etcd::{self, Etcd},
    patroni_rest::HttpPatroni,
    ports::PortRange,
    store::Store,
};

/// How long a request of a lenient client waits. Longer than a bootstrap on a busy machine, shorter than `curl`'s users are
/// patient.
const SYNCHRONOUS_WAIT: Duration = Duration::from_secs(300);

/// Why a configuration that was read cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The connection to etcd cannot be set up as configured.
    #[error("section kvstore")]
    KvStore(#[from] etcd::InvalidSettings),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// A client of etcd as configured.
///
/// # Errors
/// When a certificate cannot be read, or a machine is not a URL.
pub fn store(kvstore: &KvStore) -> Result<Etcd, SetupError> {
    Ok(Etcd::new(&etcd_settings(kvstore))?)
}

/// How etcd is reached as configured, with the usual time limits.
#[must_use]
pub fn etcd_settings(kvstore: &KvStore) -> etcd::Settings {
    let mut settings = etcd::Settings::new(kvstore.machines.clone());
    if let Some(credentials) = &kvstore.credentials {
        settings.username = Some(credentials.username.clone());
        settings.password = Some(credentials.password.clone());
    }
    settings.one_connection = kvstore.one_connection;
    settings.ca_file.clone_from(&kvstore.ca_file);
    if let Some(certificate) = &kvstore.client_certificate {
        settings.certificate_file = Some(certificate.certificate_file.clone());
        settings.key_file = Some(certificate.key_file.clone());
    }
    settings
}

/// A broker as configured.
///
/// # Errors
/// When the connection to etcd cannot be set up.
pub fn broker(config: Config) -> Result<Broker, SetupError> {
    let store = store(&config.kvstore)?;
    broker_on(Arc::new(store), config)
}

/// The same on a store that is set up already.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub fn broker_on(store: Arc<dyn Store>, config: Config) -> Result<Broker, SetupError> {
    let configured = config.backends.into_iter().map(|backend| Cell {
        view: CellView {
            guid: backend.guid,
            availability_zone: backend.availability_zone,
            room: None,
        },
        uri: backend.uri,
        username: backend.credentials.username,
        password: backend.credentials.password,
    });
    let known_cells = KnownCells {
        configured: configured.collect(),
        others: config.cell_credentials,
    };
    let settings = Settings {
        router_hostname: config.hostname,
        ports: PortRange {
            first: config.ports.first,
            last: config.ports.last,
        },
        quarantine: config.ports.quarantine,
        provision_deadline: config.operations.provision,
        update_deadline: config.operations.update,
        deprovision_deadline: config.operations.deprovision,
        synchronous_wait: SYNCHRONOUS_WAIT,
        tombstone_ttl: config.operations.tombstone_ttl,
        replace_after: config.operations.replace_after,
        known_cells,
        master_keys: config.master_keys,
        catalog: config.catalog,
    };
    Ok(Broker {
        store,
        cells: Arc::new(HttpCells::new()?),
        patroni: Arc::new(HttpPatroni::new()?),
        databases: Arc::new(PostgresDatabases),
        decide,
        clock: Arc::new(SystemClock),
        settings: Arc::new(settings),
    })
}
