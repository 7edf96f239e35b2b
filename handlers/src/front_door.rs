//! What every request passes before its handler, and every answer after it.
//!
//! **Guarantees.** Nothing is done for a caller without credentials; the comparison takes the same time wherever the first
//! difference is. Whatever happens inside, the answer is JSON, repeats the request identity, and holds nothing that is
//! meant for the log.
//!
//! The order is 401, then 412, then what the handler says (osb-reference.md, 1, Check order).

use std::time::Instant;

use base64::{Engine, prelude::BASE64_STANDARD};
use lambda_http::{Body, Request, RequestExt, Response, http::header};
use secrecy::ExposeSecret;
use shared::error::Error;
use subtle::{Choice, ConstantTimeEq};

use crate::{
    app::App,
    request,
    response::{self, Success},
    routes::Route,
};

const VERSION: &str = "X-Broker-API-Version";
const REQUEST_IDENTITY: &str = "X-Broker-API-Request-Identity";

/// The newest version that this broker speaks, for clients that name none (lenient posture).
pub const NEWEST_MINOR: u16 = shared::catalog::NEWEST_MINOR;

/// Lets a request in, has it handled, and sees the answer out.
pub async fn pass(app: &App, route: &Route, request: Request) -> Response<Body> {
    let began = Instant::now();
    let identity = request.headers().get(REQUEST_IDENTITY).cloned();
    let outcome = handle(app, route, &request).await;
    let mut response = match &outcome {
        Ok(success) => success.response(),
        Err(error) => response::of_error(error),
    };
    if let Some(identity) = identity.clone().filter(|identity| !identity.is_empty()) {
        response.headers_mut().insert(REQUEST_IDENTITY, identity);
    }
    log(route, &request, &response, &outcome, began);
    response
}

async fn handle(app: &App, route: &Route, request: &Request) -> Result<Success, Error> {
    authenticate(app, request)?;
    minor_version(app, request)?;
    route.handle(app, request).await
}

/// One line for each request.
fn log(
    route: &Route,
    request: &Request,
    response: &Response<Body>,
    outcome: &Result<Success, Error>,
    began: Instant,
) {
    let status = response.status().as_u16();
    let duration_ms = began.elapsed().as_millis();
    let parameters = request.path_parameters();
    let instance = parameters.first("instance_id");
    let binding = parameters.first("binding_id");
    let identity = request::originating_identity(request);
    let request_id = request::header(request, REQUEST_IDENTITY);
    let method = route.method;
    let path = route.path;
    match outcome {
        Ok(_) => {
            tracing::info!(
                method,
                path,
                status,
                duration_ms,
                instance,
                binding,
                identity,
                request_id,
                "request"
            );
        }
        Err(error) if error.answer().alarming => {
            let reason = chain(error);
            tracing::error!(
                method,
                path,
                status,
                duration_ms,
                instance,
                binding,
                identity,
                request_id,
                reason,
                "request"
            );
        }
        Err(error) => {
            let reason = chain(error);
            tracing::info!(
                method,
                path,
                status,
                duration_ms,
                instance,
                binding,
                identity,
                request_id,
                reason,
                "request"
            );
        }
    }
}

/// An error with all its sources.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// HTTP basic authentication (RFC 7617) with any of the accepted pairs.
fn authenticate(app: &App, request: &Request) -> Result<(), Error> {
    let given = request::header(request, header::AUTHORIZATION.as_str())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded.trim()).ok())
        .ok_or(Error::Unauthorized)?;
    let matches = app.credentials.iter().fold(Choice::from(0), |found, pair| {
        let expected = format!("{}:{}", pair.username, pair.password.expose_secret());
        // Every pair is compared, so that the time does not tell which one was nearly right.
        found | expected.as_bytes().ct_eq(&given)
    });
    if bool::from(matches) {
        Ok(())
    } else {
        Err(Error::Unauthorized)
    }
}

/// The minor version that the client speaks. Any 2.x will do; a lenient broker assumes the newest when none is named.
///
/// # Errors
/// `ApiVersion` for a missing, malformed or other major version.
pub fn minor_version(app: &App, request: &Request) -> Result<u16, Error> {
    let Some(given) = request.headers().get(VERSION) else {
        return if app.is_lenient() {
            Ok(NEWEST_MINOR)
        } else {
            Err(Error::ApiVersion(format!(
                "the header {VERSION} is missing; this broker speaks 2.{NEWEST_MINOR}"
            )))
        };
    };
    let minor = given
        .to_str()
        .ok()
        .and_then(|text| text.trim().strip_prefix("2."))
        .and_then(|text| text.parse().ok());
    minor.ok_or_else(|| {
        Error::ApiVersion(format!(
            "{VERSION} is not 2.x; this broker speaks 2.0 to 2.{NEWEST_MINOR}"
        ))
    })
}
