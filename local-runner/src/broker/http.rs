//! Routing: turns HTTP requests into those that a gateway would send to the functions.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{self, Body as HttpBody, HttpBody as _},
    extract::{RawPathParams, Request as HttpRequest, rejection::RawPathParamsRejection},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::map_response,
    response::Response as HttpResponse,
    routing::{MethodFilter, get, on},
};
use handlers::{
    app::App,
    front_door,
    routes::{self, Route},
};
use http_body_util::LengthLimitError;
use lambda_http::{Body, RequestExt, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shared::error::Error;
use tokio::time::timeout;

use super::{
    metrics,
    monitor::{self, Monitor},
};

/// The largest body of a request. The schemas of parameters are far smaller.
const BODY_LIMIT: usize = 1 << 20;

/// What does not stand for itself in every part of a URL (RFC 3986, 2.3).
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

pub(super) fn router(app: &Arc<App>, monitor: &Arc<Monitor>) -> Router {
    let mut router = own_routes(app, monitor);
    for route in routes::ALL {
        let app = Arc::clone(app);
        let handler = move |parameters: Result<RawPathParams, RawPathParamsRejection>,
                            request: HttpRequest| async move {
            match parameters {
                Ok(parameters) => {
                    let request = request.with_path_parameters(as_sent(&parameters));
                    answer(&app, Ok(route), request).await
                }
                Err(_) => answer(&app, Err(not_text()), request).await,
            }
        };
        let method = Method::from_bytes(route.method.as_bytes()).unwrap_or_default();
        let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
        router = router.route(route.path, on(filter, handler));
    }
    let refuse = |error: fn() -> Error| {
        let app = Arc::clone(app);
        move |request: HttpRequest| async move { answer(&app, Err(error()), request).await }
    };
    let router = router
        .fallback(refuse(|| Error::NoEndpoint))
        .method_not_allowed_fallback(refuse(|| Error::MethodNotAllowed));
    // Around all of it, for what a path adds to its answers comes after the layers on it.
    Router::new()
        .fallback_service(router)
        .layer(map_response(tell_strangers_nothing))
}

/// The ids in a path as a client sends them, for handlers decode them. One that fits is not changed.
fn as_sent(parameters: &RawPathParams) -> HashMap<String, String> {
    let encoded = |value: &str| utf8_percent_encode(value, IN_PATH).to_string();
    parameters
        .iter()
        .map(|(name, value)| (name.to_owned(), encoded(value)))
        .collect()
}

fn not_text() -> Error {
    Error::BadRequest("an id in the path is not UTF-8".to_owned())
}

/// What is about this process, and no function has. Probes send no credentials, and are told nothing that is worth any.
fn own_routes(app: &Arc<App>, monitor: &Arc<Monitor>) -> Router {
    let (app, ready, told) = (Arc::clone(app), Arc::clone(monitor), Arc::clone(monitor));
    let metrics = move |request: HttpRequest| async move {
        match front_door::authenticate(&app, request.headers()) {
            Ok(()) => told.metrics().await,
            Err(refused) => answer(&app, Err(refused), request).await,
        }
    };
    Router::new()
        .route("/healthz", get(async || monitor::alive()))
        .route("/readyz", get(move || async move { ready.ready().await }))
        .route("/metrics", get(metrics))
}

/// What the handlers answer. The body is read only for a caller whom the front door lets in.
async fn answer(app: &App, route: Result<&Route, Error>, request: HttpRequest) -> HttpResponse {
    let query = request.uri().query().and_then(|query| {
        query
            .parse::<lambda_http::aws_lambda_events::query_map::QueryMap>()
            .ok()
    });
    let request = match query {
        Some(query) => request.with_query_string_parameters(query),
        None => request,
    };
    let began = Instant::now();
    let (method, path) = route
        .as_ref()
        .map_or(("other", "unknown"), |route| (route.method, route.path));
    let (head, content) = request.into_parts();
    let is_read = head.method == Method::PUT || head.method == Method::PATCH;
    let content = async move {
        match is_read {
            true => read(content).await,
            false => Ok(Body::Empty),
        }
    };
    let response = front_door::receive(app, route, head, content).await;
    metrics::request(method, path, response.status().as_u16(), began.elapsed());
    write(response)
}

async fn read(content: HttpBody) -> Result<Body, Error> {
    let too_large = || Error::TooLarge { limit: BODY_LIMIT };
    // What is announced is refused before it comes.
    if content.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_large());
    }
    match timeout(BODY_TIME, body::to_bytes(content, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(Body::Binary(bytes.to_vec())),
        Ok(Err(error)) if is_too_large(&error) => Err(too_large()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a request body could not be read");
            Err(Error::BadRequest(
                "the request body cannot be read as a whole".to_owned(),
            ))
        }
        Err(_) => Err(Error::TooSlow),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<LengthLimitError>())
}

/// axum says at every path that exists which methods there are.
async fn tell_strangers_nothing(mut response: HttpResponse) -> HttpResponse {
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().remove(header::ALLOW);
    }
    response
}

fn write(response: Response<Body>) -> HttpResponse {
    let mut response = response.map(|content| match content {
        Body::Text(text) => HttpBody::from(text),
        Body::Binary(bytes) => HttpBody::from(bytes),
        _ => HttpBody::empty(),
    });
    // A stranger who guesses makes a connection for each guess.
    if response.status() == StatusCode::UNAUTHORIZED {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}
