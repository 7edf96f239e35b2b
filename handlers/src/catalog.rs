//! `GET /v2/catalog` (osb-reference.md, 3).

use std::fmt::Write;

use lambda_http::{
    Request,
    http::{HeaderMap, HeaderValue, header},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::error::Error;

use crate::{
    app::App,
    front_door,
    response::{self, Success},
};

/// What is on offer, in the fields that the client's version of the API knows; 304 if the client has that already.
///
/// # Errors
/// `ApiVersion`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let minor = front_door::minor_version(app, request.headers())?;
    let published = app.broker.settings.catalog.published(minor);
    // Texts, numbers and maps with text keys: serde_json cannot fail on them.
    let body = serde_json::to_value(published).unwrap_or_else(|_| json!({ "services": [] }));
    let tag = tag(&body);
    let answer = if is_known(request.headers(), &tag) {
        Success::not_modified()
    } else {
        Success::ok(body)
    };
    let vary = HeaderValue::from_static("X-Broker-API-Version");
    let answer = answer.with(header::VARY, vary);
    Ok(match HeaderValue::from_str(&tag) {
        Ok(tag) => answer.with(header::ETAG, tag),
        Err(_) => answer,
    })
}

/// A strong validator (RFC 9110, 8.8.3): equal for equal answers only, whichever broker gives them.
fn tag(body: &Value) -> String {
    let digest = Sha256::digest(response::text(body));
    let mut tag = String::from("\"");
    for byte in &digest[..16] {
        // Writing to a text cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}

/// Whether the client named the tag, or any (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let mut given = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim);
    given.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}
