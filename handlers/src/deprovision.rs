//! `DELETE /v2/service_instances/:instance_id` (osb-reference.md, 7).

use lambda_http::Request;
use serde_json::json;
use shared::{
    error::Error,
    service::deprovision::{Deprovision, Deprovisioned, deprovision},
};

use crate::{app::App, request, response::Success};

/// Takes an instance away. The ids of service and plan must be there, but need not be the instance's: orphans are
/// removed this way by platforms that do not know better.
///
/// # Errors
/// What [`deprovision`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    request::required_query(request, "service_id")?;
    request::required_query(request, "plan_id")?;
    let command = Deprovision {
        instance,
        patience: request::patience(app, request, None),
        originating_identity: request::originating_identity(request),
    };
    Ok(match deprovision(&app.broker, &command).await? {
        Deprovisioned::Done => Success::ok(json!({})),
        Deprovisioned::Accepted { operation } => Success::accepted(&operation),
    })
}
