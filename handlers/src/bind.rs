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

use crate::{app::App, request, response::Success};

#[derive(Deserialize)]
struct Body {
    service_id: Option<String>,
    plan_id: Option<String>,
    bind_resource: Option<Map<String, Value>>,
    parameters: Option<Map<String, Value>>,
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
            originating_identity,
        },
    )
    .await?;
    let answer = answer(&bound.credentials);
    Ok(if bound.existed {
        Success::ok(answer)
    } else {
        Success::created(answer)
    })
}

/// The credentials in every form that applications look for. Passwords and role names hold letters, digits, `-` and `_`
/// only, so that they stand in URLs as they are.
fn answer(credentials: &Credentials) -> Value {
    let Credentials {
        host,
        port,
        name,
        username,
        password,
    } = credentials;
    let password = password.expose_secret();
    json!({
        "credentials": {
            "uri": format!("postgres://{username}:{password}@{host}:{port}/{name}"),
            "jdbcUrl": format!("jdbc:postgresql://{host}:{port}/{name}?user={username}&password={password}"),
            "host": host,
            "port": port,
            "name": name,
            "username": username,
            "password": password,
        },
        "endpoints": [{ "host": host, "ports": [port.to_string()], "protocol": "tcp" }],
    })
}
