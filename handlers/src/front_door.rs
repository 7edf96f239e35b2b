//! What every request passes before its handler, and every answer after it.
//!
//! **Guarantees.** Nothing is done for a caller without credentials: neither is a body read, nor is it told which paths
//! there are. The comparison takes the same time whatever is given. Whatever happens inside, also a panic, the answer is
//! JSON, repeats the request identity, and holds nothing that is meant for the log.
//!
//! The order is 401, then 412, then 404 and 405, then what the handler says (osb-reference.md, 1, Check order).

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use lambda_http::{
    Body, Request, RequestExt, Response,
    http::{HeaderMap, header, request::Parts},
};
use shared::{basic_auth, error::Error};

use crate::{
    app::App,
    request,
    response::{self, Success},
    routes::Route,
};

const VERSION: &str = "X-Broker-API-Version";
const REQUEST_IDENTITY: &str = "X-Broker-API-Request-Identity";

/// How much of a client's header or id is logged, in bytes.
const LOGGED: usize = 256;
/// How much of a reason is logged, in bytes: it may repeat what the client sent.
const LOGGED_REASON: usize = 2048;

/// The newest version that this broker speaks, for clients that name none (lenient posture).
pub const NEWEST_MINOR: u16 = shared::catalog::NEWEST_MINOR;

/// Lets a request in that is there as a whole, has it handled, and sees the answer out.
pub async fn pass(app: &App, route: &Route, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    receive(app, Ok(route), head, async { Ok(body) }).await
}

/// Lets a request in whose body is still to be read, has it handled, and sees the answer out. `route` is what its path leads
/// to, or why it leads nowhere.
pub async fn receive(
    app: &App,
    route: Result<&Route, Error>,
    head: Parts,
    body: impl Future<Output = Result<Body, Error>>,
) -> Response<Body> {
    let began = Instant::now();
    let path = route.as_ref().map_or("unknown", |route| route.path);
    let outcome = handle(app, route, &head, body).await;
    let mut response = match &outcome {
        Ok(success) => success.response(),
        Err(error) => {
            // Nothing is kept from a client that did not say what it knows.
            let minor = minor_version(app, &head.headers).unwrap_or(NEWEST_MINOR);
            response::of_error(error, minor)
        }
    };
    let identity = head.headers.get(REQUEST_IDENTITY);
    if let Some(identity) = identity.filter(|identity| !identity.is_empty()) {
        response.headers_mut().insert(REQUEST_IDENTITY, identity.clone());
    }
    log(&head, path, &response, outcome.as_ref(), began.elapsed());
    response
}

async fn handle(
    app: &App,
    route: Result<&Route, Error>,
    head: &Parts,
    body: impl Future<Output = Result<Body, Error>>,
) -> Result<Success, Error> {
    authenticate(app, &head.headers)?;
    minor_version(app, &head.headers)?;
    let route = route?;
    let request = Request::from_parts(head.clone(), body.await?);
    let handled = AssertUnwindSafe(route.handle(app, &request)).catch_unwind();
    handled.await.unwrap_or(Err(Error::Panicked))
}

/// One line for each request.
fn log(
    head: &Parts,
    path: &str,
    response: &Response<Body>,
    outcome: Result<&Success, &Error>,
    took: Duration,
) {
    let error = outcome.err();
    let method = head.method.as_str();
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let parameters = head.path_parameters();
    let instance = parameters.first("instance_id").map(|text| cut(text, LOGGED));
    let binding = parameters.first("binding_id").map(|text| cut(text, LOGGED));
    let identity =
        request::header(&head.headers, request::ORIGINATING_IDENTITY).map(|text| cut(text, LOGGED));
    // The one that was begun or joined, or that is asked about.
    let asked_about = head.query_string_parameters();
    let begun = outcome.ok().and_then(Success::operation);
    let operation = begun.or(asked_about.first("operation"));
    let operation = operation.map(|text| cut(text, LOGGED));
    let of_lambda = || Some(head.lambda_context_ref()?.request_id.as_str());
    let request_id = request::header(&head.headers, REQUEST_IDENTITY).or_else(of_lambda);
    let request_id = request_id.map(|text| cut(text, LOGGED));
    let reason = error.map(chain);
    let reason = reason.as_deref().map(|text| cut(text, LOGGED_REASON));
    // The level is a part of where an event is in the source.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                method,
                path,
                status,
                duration_ms,
                instance,
                binding,
                operation,
                identity,
                request_id,
                reason,
                "request"
            )
        };
    }
    if error.is_some_and(|error| error.answer().alarming) {
        line!(error);
    } else {
        line!(info);
    }
}

/// The first bytes of a text, at most so many.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
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
///
/// # Errors
/// `Unauthorized`.
pub fn authenticate(app: &App, headers: &HeaderMap) -> Result<(), Error> {
    let given = request::header(headers, header::AUTHORIZATION.as_str());
    let pairs = app.credentials.iter();
    if basic_auth::accepts(given, pairs.map(|pair| (pair.username.as_str(), &pair.password))) {
        Ok(())
    } else {
        Err(Error::Unauthorized)
    }
}

/// The minor version that the client speaks. Any 2.x will do; a lenient broker assumes the newest when none is named.
///
/// # Errors
/// `ApiVersion` for a missing, malformed or other major version.
pub fn minor_version(app: &App, headers: &HeaderMap) -> Result<u16, Error> {
    let Some(given) = headers.get(VERSION) else {
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
        .filter(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|minor| minor.parse().ok());
    minor.ok_or_else(|| {
        Error::ApiVersion(format!(
            "{VERSION} is not 2.x; this broker speaks 2.0 to 2.{NEWEST_MINOR}"
        ))
    })
}

/// Refuses clients of a version that does not know the endpoint yet (osb-reference.md, 14).
///
/// # Errors
/// `ApiVersion`.
pub fn require_minor(app: &App, headers: &HeaderMap, least: u16) -> Result<u16, Error> {
    let minor = minor_version(app, headers)?;
    if minor < least {
        return Err(Error::ApiVersion(format!(
            "this endpoint came with version 2.{least}, and {VERSION} is 2.{minor}"
        )));
    }
    Ok(minor)
}
