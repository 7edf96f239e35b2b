//! `GET /v2/service_instances/:instance_id/service_bindings/:binding_id/last_operation` (osb-reference.md, 12).

use lambda_http::Request;
use serde_json::json;
use shared::{error::Error, service::last_binding_operation::last_binding_operation};

use crate::{app::App, front_door, request, response::Success};

/// Since which minor version there is this endpoint.
const SINCE: u16 = 14;

/// How far a binding is.
///
/// # Errors
/// What [`last_binding_operation`] says, and `ApiVersion`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    front_door::require_minor(app, request.headers(), SINCE)?;
    let instance = request::instance_id(request)?;
    let binding = request::binding_id(request)?;
    let operation = request::query(request, "operation");
    let last = last_binding_operation(&app.broker, &instance, &binding, operation.as_deref()).await?;
    let answer = Success::ok(json!({ "state": last.state, "description": last.description }));
    Ok(answer.to_be_polled(last.state))
}
