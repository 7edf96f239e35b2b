//! The broker as one process: every handler behind one HTTP port, and the reconcile loop.
//!
//! **Guarantees.** The handlers are the functions that are deployed behind a gateway; nothing here decides anything about
//! an instance. Killed at any moment, it leaves only what etcd holds, and goes on from that when it is started again.

mod http;
mod lookout;
pub(crate) mod metrics;
mod monitor;
mod reconcile_loop;

use std::{net::SocketAddr, sync::Arc};

use handlers::app::App;
use shared::{config::Config, setup::SetupError};
use tokio::{net::TcpListener, task::JoinSet};

use self::{lookout::Lookout, metrics::Metrics, monitor::Monitor};
use crate::{
    http_server::{self, Certificate},
    port_holder,
};

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
    /// What runs beside the port, the reconcile loop or what follows the certificate, has ended. The process must be
    /// started anew.
    #[error("a part of the broker has ended")]
    Part(#[source] std::io::Error),
    /// The metrics cannot be kept.
    #[error("the metrics cannot be kept")]
    Metrics(#[from] metrics::MetricsError),
    /// The certificate cannot be used.
    #[error("the broker's certificate cannot be used")]
    Certificate(#[source] std::io::Error),
}

/// A broker that holds its port already.
pub(crate) struct BrokerServer {
    app: Arc<App>,
    metrics: Metrics,
    lookout: Arc<Lookout>,
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

impl BrokerServer {
    /// Takes the port.
    ///
    /// # Errors
    /// When the configuration cannot be put to work, its certificate included, or the port is taken.
    pub(crate) async fn open(config: Config) -> Result<Self, BrokerError> {
        let address = SocketAddr::new(config.broker.bind_address, config.broker.port);
        let certificate = config.broker.certificate.clone().map(Certificate::load);
        let certificate = certificate.transpose().map_err(BrokerError::Certificate)?;
        let hasty = lookout::client(&config.kvstore)?;
        let app = Arc::new(App::new(config)?);
        let lookout = Lookout::new(hasty, Arc::clone(&app.broker.settings));
        let metrics = Metrics::keep()?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BrokerError::Listen { address, source })?;
        tracing::info!(%address, tls = certificate.is_some(), "the broker listens");
        Ok(Self {
            app,
            metrics,
            lookout: Arc::new(lookout),
            listener,
            certificate: certificate.map(Arc::new),
        })
    }

    /// Serves until `stop`; requests that are under way are finished first.
    ///
    /// # Errors
    /// When something that runs beside has ended, which happens by a panic only.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), BrokerError> {
        let mut beside = JoinSet::new();
        beside.spawn(reconcile_loop::run(self.app.broker.clone()));
        if let Some(certificate) = self.certificate.clone() {
            beside.spawn(async move { certificate.follow().await });
        }
        let metrics = self.metrics.clone();
        beside.spawn(async move { metrics.keep_small().await });
        let monitor = Monitor::new(&self.app, self.metrics, self.lookout);
        let router = http::router(&self.app, &Arc::new(monitor));
        let server = http_server::serve(self.listener, self.certificate, router, stop);
        while_nothing_ends(server, beside).await
    }
}

/// Serves as long as everything beside goes on.
async fn while_nothing_ends(
    server: impl Future<Output = ()>,
    mut beside: JoinSet<()>,
) -> Result<(), BrokerError> {
    let ended = tokio::select! {
        () = server => return Ok(()),
        Some(ended) = beside.join_next() => ended,
    };
    let source = ended.map_or_else(Into::into, |()| {
        std::io::Error::other("it ended without a reason")
    });
    Err(BrokerError::Part(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_broker_and_one_that_goes_on_does_not() {
        let mut beside = JoinSet::new();
        beside.spawn(std::future::pending());
        while_nothing_ends(std::future::ready(()), beside).await.unwrap();

        let mut beside = JoinSet::new();
        beside.spawn(std::future::pending());
        beside.spawn(async { panic!("a bug") });
        let error = while_nothing_ends(std::future::pending(), beside)
            .await
            .unwrap_err();
        assert!(matches!(error, BrokerError::Part(_)), "{error}");
    }
}
