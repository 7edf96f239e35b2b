//! What handlers read from a request, each thing checked once.

use std::str::FromStr;

use lambda_http::{
    Request, RequestExt,
    http::{HeaderMap, header},
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::{
    error::Error,
    ids::{BindingId, InstanceId, InvalidName},
    service::Patience,
};

use crate::app::App;

/// The header in which a platform says who is asking.
pub(crate) const ORIGINATING_IDENTITY: &str = "X-Broker-API-Originating-Identity";

/// The instance that the path names.
///
/// # Errors
/// `InvalidName` when it cannot be used as an id.
pub fn instance_id(request: &Request) -> Result<InstanceId, Error> {
    path_segment(request, "instance_id")
}

/// The binding that the path names.
///
/// # Errors
/// `InvalidName` when it cannot be used as an id.
pub fn binding_id(request: &Request) -> Result<BindingId, Error> {
    path_segment(request, "binding_id")
}

/// Path parameters are what the gateway matched. Some gateways decode them and some do not; decoding once more changes
/// nothing that is a valid id, since those hold no percent sign.
fn path_segment<T: FromStr<Err = InvalidName>>(request: &Request, name: &str) -> Result<T, Error> {
    let parameters = request.path_parameters();
    let raw = parameters.first(name).unwrap_or_default();
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    Ok(decoded.parse()?)
}

/// A query parameter; an empty one counts as missing.
#[must_use]
pub fn query(request: &Request, name: &str) -> Option<String> {
    let parameters = request.query_string_parameters();
    parameters
        .first(name)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// A query parameter that must be there.
///
/// # Errors
/// `BadRequest`, naming it.
pub fn required_query(request: &Request, name: &str) -> Result<String, Error> {
    query(request, name).ok_or_else(|| Error::BadRequest(format!("the query parameter {name} is missing")))
}

/// A header as text; an empty one counts as missing.
#[must_use]
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty())
}

/// Who the platform says is asking.
#[must_use]
pub fn originating_identity(request: &Request) -> Option<String> {
    header(request.headers(), ORIGINATING_IDENTITY).map(str::to_owned)
}

/// Whether the client polls for the end of an operation or waits for it, which only the lenient posture offers.
#[must_use]
pub fn patience(app: &App, request: &Request, in_body: Option<bool>) -> Patience {
    let asynchronous = query(request, "accepts_incomplete").as_deref() == Some("true")
        || (app.is_lenient() && in_body == Some(true));
    match (asynchronous, app.is_lenient()) {
        (true, _) => Patience::Polls,
        (false, true) => Patience::Waits,
        (false, false) => Patience::Neither,
    }
}

/// The body as JSON. In the lenient posture the Content-Type does not matter: curl -d sends a form's.
///
/// # Errors
/// `BadRequest`, with the place where it stops being what it should be.
pub fn body<T: DeserializeOwned>(app: &App, request: &Request) -> Result<T, Error> {
    if !app.is_lenient()
        && let Some(given) = header(request.headers(), header::CONTENT_TYPE.as_str())
    {
        let essence = given.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Error::BadRequest(
                "the Content-Type must be application/json".to_owned(),
            ));
        }
    }
    let bytes: &[u8] = request.body();
    // A struct can be read from a list as well, field by field.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let problem = match serde_json::from_slice(bytes) {
        Ok(body) if is_object => return Ok(body),
        Err(error) if !error.is_data() => format!("is not valid JSON: {error}"),
        Err(error) if is_object => format!("does not fit: {error}"),
        Ok(_) | Err(_) => "must be a JSON object".to_owned(),
    };
    Err(Error::BadRequest(format!("the request body {problem}")))
}

/// A text that the request must have; an empty one counts as missing.
///
/// # Errors
/// `BadRequest`, naming it.
pub fn required(name: &str, value: Option<String>) -> Result<String, Error> {
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Error::BadRequest(format!("{name} is missing")))
}

/// The version of `maintenance_info` that the client knows; nothing else of it counts.
///
/// # Errors
/// `BadRequest` when it is no text.
pub fn maintenance_version(info: Option<Map<String, Value>>) -> Result<Option<String>, Error> {
    match info.unwrap_or_default().remove("version") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(version)) => Ok(Some(version)),
        Some(_) => Err(Error::BadRequest(
            "maintenance_info.version must be a text".to_owned(),
        )),
    }
}

/// An object that may be left out or be null.
#[must_use]
pub fn object(value: Option<Map<String, Value>>) -> Map<String, Value> {
    value.unwrap_or_default()
}
