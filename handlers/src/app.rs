//! What every handler is given: the broker, and who may call it how.

use std::sync::Arc;

use shared::{
    broker::Broker,
    config::{Config, Credentials, Posture},
    etcd::Etcd,
    setup::{self, SetupError},
};

/// Built once for each process, before the first request, without asking anybody.
pub struct App {
    /// The broker behind the handlers.
    pub broker: Broker,
    /// The client that the broker reaches etcd through, for those who count what goes over it.
    pub etcd: Etcd,
    /// The pairs of which a caller must know one.
    pub credentials: Vec<Credentials>,
    /// How closely requests must follow the specification.
    pub posture: Posture,
}

impl App {
    /// An app as configured.
    ///
    /// # Errors
    /// When the connection to etcd cannot be set up.
    pub fn new(config: Config) -> Result<Self, SetupError> {
        let (credentials, posture) = (config.broker.credentials.clone(), config.broker.posture);
        let etcd = setup::store(&config.kvstore)?;
        Ok(Self {
            broker: setup::broker_on(Arc::new(etcd.clone()), config)?,
            etcd,
            credentials,
            posture,
        })
    }

    /// Whether the caller may be a person with `curl` or a script (design.md, 6).
    #[must_use]
    pub fn is_lenient(&self) -> bool {
        self.posture == Posture::Lenient
    }
}
