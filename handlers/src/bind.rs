//! `PUT /v2/service_instances/:instance_id/service_bindings/:binding_id` (osb-reference.md, 9).

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use lambda_http::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::{
    binding::{BindRequest, Successor, Wanted},
    error::Error,
    service::bind::{Bind, Credentials, bind},
};

use crate::{app::App, front_door, request, response::Success};

/// Since which minor version clients know `endpoints`.
const ENDPOINTS: u16 = 15;

/// What does not stand for itself in every part of a URL (RFC 3986, 2.3).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

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
    let given = |value: Option<String>| value.filter(|text| !text.is_empty());
    let wanted = match given(body.predecessor_binding_id) {
        None => Wanted::New(BindRequest {
            service_id: request::required("service_id", body.service_id)?,
            plan_id: request::required("plan_id", body.plan_id)?,
            bind_resource: request::object(body.bind_resource),
            parameters: request::object(body.parameters),
            predecessor_binding_id: None,
        }),
        Some(predecessor) => Wanted::Successor(Successor {
            predecessor: predecessor.parse()?,
            service_id: given(body.service_id),
            plan_id: given(body.plan_id),
            bind_resource: body.bind_resource,
            parameters: body.parameters,
        }),
    };
    let originating_identity = request::originating_identity(request);
    let bound = bind(
        &app.broker,
        &Bind {
            instance,
            binding,
            wanted,
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

/// The credentials in every form that applications look for. Passwords and role names that this broker makes stand in URLs
/// as they are; nothing else relies on that.
pub(crate) fn answer(credentials: &Credentials, minor: u16) -> Value {
    let Credentials {
        host,
        port,
        name,
        username,
        password,
    } = credentials;
    let password = password.expose_secret();
    let in_url = |text| utf8_percent_encode(text, IN_URL);
    // RFC 3986, 3.2.2: an IPv6 address stands in brackets.
    let url_host = match host.parse() {
        Ok(address @ IpAddr::V6(_)) => format!("[{address}]"),
        _ => host.clone(),
    };
    let (url_name, url_user, url_password) = (in_url(name), in_url(username), in_url(password));
    let mut answer = json!({
        "credentials": {
            "uri": format!("postgres://{url_user}:{url_password}@{url_host}:{port}/{url_name}"),
            "jdbcUrl": format!(
                "jdbc:postgresql://{url_host}:{port}/{url_name}?user={url_user}&password={url_password}"
            ),
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
