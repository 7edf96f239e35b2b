//! A handler as a function: the whole of a binary's `main`.
//!
//! **Guarantees.** At its start a function reads its configuration, from the environment, and nothing else: no connection is
//! made before the first request. A request is answered with one connection to etcd. Nothing goes on after an answer.

use std::{panic, sync::Arc};

use lambda_http::{
    Request,
    lambda_runtime::{self, LambdaEvent},
    service_fn,
};
use serde_json::{Map, Value};
use shared::config::{Config, ConfigError, ScheduledConfig};

use crate::{app::App, embedded_metrics::Measurement, front_door, reconcile, routes::Route};

/// Serves one endpoint to the Lambda runtime API until the process ends.
///
/// # Errors
/// When the configuration is not usable, or the runtime API goes away.
pub async fn run(route: &'static Route) -> Result<(), lambda_http::Error> {
    let app = prepare(|| {
        let mut config = Config::load(None)?;
        // A cold function waits for its connections far longer than for a read, and a small one has little processor for
        // TLS.
        config.kvstore.one_connection = true;
        Ok(config)
    })?;
    lambda_http::run(service_fn(move |request: Request| {
        let app = Arc::clone(&app);
        async move {
            let measurement = Measurement::begin(&app, route.name);
            let response = front_door::pass(&app, route, request).await;
            let status = response.status();
            let properties = Map::from_iter([("status".to_owned(), status.as_u16().into())]);
            measurement.end(status.is_server_error(), &[], properties);
            Ok::<_, std::convert::Infallible>(response)
        }
    }))
    .await
}

/// Serves the events of a schedule, whatever they hold, to the Lambda runtime API until the process ends.
///
/// # Errors
/// As [`run`].
pub async fn run_on_schedule() -> Result<(), lambda_http::Error> {
    let app = prepare(|| Ok(ScheduledConfig::load(None)?.config))?;
    lambda_runtime::run(service_fn(move |_: LambdaEvent<Value>| {
        let app = Arc::clone(&app);
        async move {
            let measurement = Measurement::begin(&app, "reconcile");
            let found = reconcile::handle(&app).await;
            let counts = found.as_ref().map(reconcile::Found::counts);
            let counts = counts.as_ref().map_or(&[][..], |counts| counts);
            measurement.end(found.is_err(), counts, Map::new());
            found.map_err(lambda_http::Error::from)
        }
    }))
    .await
}

fn prepare(load: impl FnOnce() -> Result<Config, ConfigError>) -> Result<Arc<App>, lambda_http::Error> {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::INFO)
        .with_current_span(false)
        .init();
    panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(Arc::new(App::new(load()?)?))
}
