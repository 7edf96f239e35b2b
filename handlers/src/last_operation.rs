//! `GET /v2/service_instances/:instance_id/last_operation` (osb-reference.md, 8).

use lambda_http::Request;
use serde_json::json;
use shared::{error::Error, service::last_operation::last_operation};

use crate::{
    app::App,
    front_door, request,
    response::{self, Success},
};

/// How far an instance's latest operation is.
///
/// # Errors
/// What [`last_operation`] says.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    let operation = request::query(request, "operation");
    let last = last_operation(&app.broker, &instance, operation.as_deref()).await?;
    let mut answer = json!({ "state": last.state, "description": last.description });
    let minor = front_door::minor_version(app, request.headers())?;
    response::add_after_failure(&mut answer, last.after_failure, minor);
    Ok(Success::ok(answer).to_be_polled(last.state))
}
