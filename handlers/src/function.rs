//! A handler as a function: the whole of a binary's `main`.
//!
//! **Guarantees.** At its start a function reads its configuration, from the environment, and nothing else: no connection is
//! made before the first request. Nothing goes on after an answer.

use std::sync::Arc;

use lambda_http::{Request, service_fn};
use shared::config::Config;
use tracing_subscriber::EnvFilter;

use crate::{app::App, front_door, routes::Route};

/// Serves one endpoint to the Lambda runtime API until the process ends.
///
/// # Errors
/// When the configuration is not usable, or the runtime API goes away.
pub async fn run(route: &'static Route) -> Result<(), lambda_http::Error> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::new("info"))
        .with_current_span(false)
        .init();
    let app = Arc::new(App::new(Config::load(None)?)?);
    lambda_http::run(service_fn(move |request: Request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(front_door::pass(&app, route, request).await) }
    }))
    .await
}
