//! `PUT /v2/service_instances/:instance_id` (osb-reference.md, 4).

use lambda_http::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::{
    error::Error,
    record,
    service::provision::{Provision, Provisioned, provision},
};

use crate::{app::App, request, response::Success};

#[derive(Deserialize)]
struct Body {
    service_id: Option<String>,
    plan_id: Option<String>,
    organization_guid: Option<String>,
    space_guid: Option<String>,
    context: Option<Map<String, Value>>,
    parameters: Option<Map<String, Value>>,
    maintenance_info: Option<Map<String, Value>>,
    /// The original took it here as well as in the query.
    accepts_incomplete: Option<bool>,
}

/// Makes an instance.
///
/// # Errors
/// What [`provision`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    let body: Body = request::body(app, request)?;
    let guid = |name, value: Option<String>| match value {
        None if app.is_lenient() => Ok(String::new()),
        value => request::required(name, value),
    };
    let wanted = record::Request {
        service_id: request::required("service_id", body.service_id)?,
        plan_id: request::required("plan_id", body.plan_id)?,
        organization_guid: guid("organization_guid", body.organization_guid)?,
        space_guid: guid("space_guid", body.space_guid)?,
        parameters: request::object(body.parameters),
    };
    let command = Provision {
        instance,
        request: wanted,
        context: request::object(body.context),
        maintenance_version: request::maintenance_version(body.maintenance_info)?,
        patience: request::patience(app, request, body.accepts_incomplete),
        originating_identity: request::originating_identity(request),
    };
    Ok(match provision(&app.broker, &command).await? {
        Provisioned::Exists => Success::ok(json!({})),
        Provisioned::Created => Success::created(json!({})),
        Provisioned::Accepted { operation } => Success::accepted(&operation),
    })
}
