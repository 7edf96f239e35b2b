//! `PATCH /v2/service_instances/:instance_id` (osb-reference.md, 6).

use lambda_http::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::{
    error::Error,
    service::update::{Update, Updated, update},
};

use crate::{app::App, request, response::Success};

#[derive(Deserialize)]
struct Body {
    service_id: Option<String>,
    plan_id: Option<String>,
    parameters: Option<Map<String, Value>>,
    context: Option<Map<String, Value>>,
    maintenance_info: Option<Map<String, Value>>,
    /// The original took it here as well as in the query.
    accepts_incomplete: Option<bool>,
}

/// Changes an instance.
///
/// # Errors
/// What [`update`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    let body: Body = request::body(app, request)?;
    let command = Update {
        instance,
        service_id: request::required("service_id", body.service_id)?,
        plan_id: body.plan_id.filter(|plan| !plan.is_empty()),
        parameters: request::object(body.parameters),
        context: body.context,
        maintenance_version: request::maintenance_version(body.maintenance_info)?,
        patience: request::patience(app, request, body.accepts_incomplete),
        originating_identity: request::originating_identity(request),
    };
    Ok(match update(&app.broker, &command).await? {
        Updated::Done => Success::ok(json!({})),
        Updated::Accepted { operation } => Success::accepted(&operation),
    })
}
