//! The broker as one process: every handler behind one HTTP port, and the reconcile loop.
//!
//! **Guarantees.** The handlers are the functions that are deployed behind a gateway; nothing here decides anything about
//! an instance. Killed at any moment, it leaves only what etcd holds, and goes on from that when it is started again.

mod http;
mod reconcile_loop;

use std::{net::SocketAddr, sync::Arc};

use handlers::app::App;
use shared::{config::Config, setup::SetupError};
use tokio::net::TcpListener;

use crate::port_holder;

/// Why the broker could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The configuration cannot be put to work.
    #[error("the configuration cannot be put to work")]
    Setup(#[from] SetupError),
    /// The port cannot be used.
    #[error("cannot listen on {address}{}", port_holder::describe(*address))]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Serving ended.
    #[error("the HTTP server ended")]
    Serve(#[source] std::io::Error),
}

/// A broker that holds its port already.
pub(crate) struct BrokerServer {
    app: Arc<App>,
    listener: TcpListener,
}

impl BrokerServer {
    /// Takes the port.
    ///
    /// # Errors
    /// When the configuration cannot be put to work, or the port is taken.
    pub(crate) async fn open(config: Config) -> Result<Self, BrokerError> {
        let address = SocketAddr::new(config.broker.bind_address, config.broker.port);
        let app = Arc::new(App::new(config)?);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BrokerError::Listen { address, source })?;
        tracing::info!(%address, "the broker listens");
        Ok(Self { app, listener })
    }

    /// Serves until `stop`; requests that are under way are finished first.
    ///
    /// # Errors
    /// When the server fails.
    pub(crate) async fn serve(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), BrokerError> {
        let reconcile = tokio::spawn(reconcile_loop::run(self.app.broker.clone()));
        let served = http::serve(self.listener, self.app, stop).await;
        reconcile.abort();
        served.map_err(BrokerError::Serve)
    }
}
