//! `DELETE /v2/service_instances/:instance_id/service_bindings/:binding_id` (osb-reference.md, 11).

use lambda_http::Request;
use serde_json::json;
use shared::{error::Error, service::unbind::unbind};

use crate::{app::App, request, response::Success};

/// Takes a binding's login away.
///
/// # Errors
/// What [`unbind`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    let binding = request::binding_id(request)?;
    // Only strict clients are asked for these: what they say changes nothing about which binding is meant.
    if !app.is_lenient() {
        request::required_query(request, "service_id")?;
        request::required_query(request, "plan_id")?;
    }
    unbind(&app.broker, &instance, &binding).await?;
    Ok(Success::ok(json!({})))
}
