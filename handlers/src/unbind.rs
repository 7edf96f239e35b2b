//! `DELETE /v2/service_instances/:instance_id/service_bindings/:binding_id` (osb-reference.md, 11).

use lambda_http::Request;
use serde_json::json;
use shared::{
    error::Error,
    service::unbind::{Unbind, unbind},
};

use crate::{app::App, request, response::Success};

/// Takes a binding's login away.
///
/// # Errors
/// What [`unbind`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    // Only strict clients are asked for these: what they say changes nothing about which binding is meant.
    let required = ["service_id", "plan_id"]
        .into_iter()
        .filter(|_| !app.is_lenient());
    let lacks = required
        .map(|name| request::required_query(request, name))
        .find_map(Result::err);
    let command = Unbind {
        instance: request::instance_id(request)?,
        binding: request::binding_id(request)?,
        lacks: lacks.map(|error| error.to_string()),
        originating_identity: request::originating_identity(request),
    };
    unbind(&app.broker, &command).await?;
    Ok(Success::ok(json!({})))
}
