//! `GET /v2/catalog` (osb-reference.md, 3).

use lambda_http::Request;
use serde_json::{Value, json};
use shared::error::Error;

use crate::{app::App, front_door, response::Success};

/// What is on offer, in the fields that the client's version of the API knows.
///
/// # Errors
/// `ApiVersion`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let published = app
        .broker
        .settings
        .catalog
        .published(front_door::minor_version(app, request)?);
    // Texts, numbers and maps with text keys: serde_json cannot fail on them.
    Ok(Success::ok(serde_json::to_value(published).unwrap_or_else(
        |_| json!({ "services": Value::Array(Vec::new()) }),
    )))
}
