//! `GET /v2/service_instances/:instance_id/service_bindings/:binding_id` (osb-reference.md, 10).

use lambda_http::Request;
use shared::{error::Error, service::fetch_binding::fetch_binding};

use crate::{app::App, bind, front_door, request, response::Success};

/// Since which minor version there is this endpoint.
const SINCE: u16 = 14;

/// A binding with its credentials. The hints in the query say nothing that the broker does not know.
///
/// # Errors
/// What [`fetch_binding`] says, and `ApiVersion`.
pub async fn handle(app: &App, request: &Request) -> Result<Success, Error> {
    let minor = front_door::require_minor(app, request.headers(), SINCE)?;
    let instance = request::instance_id(request)?;
    let binding = request::binding_id(request)?;
    let fetched = fetch_binding(&app.broker, &instance, &binding).await?;
    let mut answer = bind::answer(&fetched.credentials, minor);
    answer["parameters"] = fetched.parameters.into();
    Ok(Success::ok(answer))
}
