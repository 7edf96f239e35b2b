//! `GET /v2/service_instances/:instance_id` (osb-reference.md, 5).

use lambda_http::Request;
use serde_json::json;
use shared::{error::Error, service::fetch_instance::fetch_instance};

use crate::{app::App, front_door, request, response::Success};

/// Since which minor version there is this endpoint.
const SINCE: u16 = 14;
/// Since which minor version it tells of maintenance.
const MAINTENANCE_INFO: u16 = 17;

/// What an instance is. The hints in the query say nothing that the broker does not know.
///
/// # Errors
/// What [`fetch_instance`] says, and `ApiVersion`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let minor = front_door::require_minor(app, request.headers(), SINCE)?;
    let id = request::instance_id(request)?;
    let instance = fetch_instance(&app.broker, &id).await?;
    let mut answer = json!({
        "service_id": instance.service_id,
        "plan_id": instance.plan_id,
        "parameters": instance.parameters,
    });
    if let Some(version) = instance.maintenance_version.filter(|_| minor >= MAINTENANCE_INFO) {
        answer["maintenance_info"] = json!({ "version": version });
    }
    Ok(Success::ok(answer))
}
