//! `PUT /v2/service_instances/:instance_id/service_bindings/:binding_id` (osb-reference.md, 9).

use lambda_http::Request;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::{
    binding::BindRequest,
    error::Error,
    service::bind::{Bind, Credentials, bind},
};

use crate::{app::App, front_door, request, response::Success};

/// Since which minor version clients know `endpoints`.
const ENDPOINTS: u16 = 15;

#[derive(Deserialize)]
struct Body {
    service_id: Option<String>,
    plan_id: Option<String>,
    bind_resource: Option<Map<String, Value>>,
    parameters: Option<Map<String, Value>>,
    predecessor_binding_id: Option<String>,
}

/// Makes a binding.
///
/// # Errors
/// What [`bind`] says, and `BadRequest`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let instance = request::instance_id(request)?;
    let binding = request::binding_id(request)?;
    let body: Body = request::body(app, request)?;
    let wanted = BindRequest {
        service_id: request::required("service_id", body.service_id)?,
        plan_id: request::required("plan_id", body.plan_id)?,
        bind_resource: request::object(body.bind_resource),
        parameters: request::object(body.parameters),
    };
    let originating_identity = request::originating_identity(request);
    let bound = bind(
        &app.broker,
        &Bind {
            instance,
            binding,
            request: wanted,
            predecessor: body.predecessor_binding_id.filter(|id| !id.is_empty()),
            originating_identity,
        },
    )
    .await?;
    let answer = answer(
        &bound.credentials,
        front_door::minor_version(app, request.headers())?,
    );
    Ok(if bound.existed {
        Success::ok(answer)
    } else {
        Success::created(answer)
    })
}

/// The credentials in every form that applications look for. Passwords and role names hold letters, digits, `-` and `_`
/// only, so that they stand in URLs as they are.
pub(crate) fn answer(credentials: &Credentials, minor: u16) -> Value {
    let Credentials {
        host,
        port,
        name,
        username,
        password,
    } = credentials;
    let password = password.expose_secret();
    let mut answer = json!({
        "credentials": {
            "uri": format!("postgres://{username}:{password}@{host}:{port}/{name}"),
            "jdbcUrl": format!("jdbc:postgresql://{host}:{port}/{name}?user={username}&password={password}"),
            "host": host,
            "port": port,
            "name": name,
            "username": username,
            "password": password,
        },
    });
    if minor >= ENDPOINTS {
        answer["endpoints"] = json!([{ "host": host, "ports": [port.to_string()], "protocol": "tcp" }]);
    }
    answer
}
