//! What those are told who watch over the broker: whether it lives, whether it can serve, and its metrics.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use handlers::app::App;
use serde_json::{Value, json};
use shared::etcd::Etcd;

use super::{lookout::Lookout, metrics::Metrics};

/// Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the answers come from.
pub(super) struct Monitor {
    metrics: Metrics,
    lookout: Arc<Lookout>,
    etcd: Etcd,
}

/// The process answers, which is all there is to say.
pub(super) fn alive() -> Response {
    json_answer(StatusCode::OK, &json!({ "status": "alive" }))
}

impl Monitor {
    pub(super) fn new(app: &App, metrics: Metrics, lookout: Arc<Lookout>) -> Self {
        Self {
            metrics,
            lookout,
            etcd: app.etcd.clone(),
        }
    }

    /// Whether a request of a user could be served: 200, or 503 with what is missing, in words that name nothing inside.
    pub(super) async fn ready(&self) -> Response {
        let missing = match self.lookout.look().await {
            None => "etcd does not answer",
            Some(sight) if !sight.has_live_cell() => "no cell is alive",
            Some(_) => return json_answer(StatusCode::OK, &json!({ "status": "ready" })),
        };
        json_answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "not ready", "description": missing }),
        )
    }

    /// All metrics.
    pub(super) async fn metrics(&self) -> Response {
        let sight = self.lookout.look().await;
        let text = self.metrics.text(self.etcd.traffic(), sight.as_deref());
        ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], text).into_response()
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], format!("{body}\n")).into_response()
}
