//! The cell's HTTP API (shared/src/cell_api.rs): decode, one call to the roster, encode.

use std::{error::Error as _, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request, State, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use secrecy::SecretString;
use serde::Serialize;
use shared::{
    basic_auth,
    cell_api::{NodeParameters, Refusal, StartNode},
    ids::NodeId,
};

use super::{
    refused::Refused,
    roster::{Admitted, Dismissed, Roster},
};

/// The longest body that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// Who may call.
struct Credentials {
    username: String,
    password: SecretString,
}

/// The API over a roster.
pub(super) fn router(roster: Arc<Roster>, username: String, password: SecretString) -> Router {
    let credentials = Arc::new(Credentials { username, password });
    Router::new()
        .route("/v2/service_instances", get(list))
        .route(
            "/v2/service_instances/{node}",
            get(show).put(start).delete(remove),
        )
        .fallback(async || refuse(&Refused::NotFound("there is nothing at this path")))
        .method_not_allowed_fallback(async || refuse(&Refused::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(credentials, authenticate))
        .with_state(roster)
}

async fn authenticate(State(credentials): State<Arc<Credentials>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let pair = (credentials.username.as_str(), &credentials.password);
    if basic_auth::accepts(given, [pair]) {
        return next.run(request).await;
    }
    let mut response = refuse(&Refused::Unauthorized);
    let challenge = HeaderValue::from_static("Basic realm=\"cell\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

async fn list(State(roster): State<Arc<Roster>>) -> Response {
    match roster.list().await {
        Ok(status) => answer(StatusCode::OK, &status),
        Err(refused) => {
            log("list", "", &refused);
            refuse(&refused)
        }
    }
}

async fn show(State(roster): State<Arc<Roster>>, Path(node): Path<String>) -> Response {
    match node.parse().ok().and_then(|node| roster.status(node)) {
        Some(status) => answer(StatusCode::OK, &status),
        None => refuse(&Refused::NotFound("the cell holds no such node")),
    }
}

async fn start(
    State(roster): State<Arc<Roster>>,
    Path(node): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let outcome = match parameters(&node, body) {
        Ok(parameters) => to_the_end(async move { roster.admit(parameters).await }).await,
        Err(refused) => Err(refused),
    };
    match outcome {
        Ok(Admitted::Now(status)) => answer(StatusCode::CREATED, &status),
        Ok(Admitted::Before(status)) => answer(StatusCode::OK, &status),
        Err(refused) => {
            log("start", &node, &refused);
            refuse(&refused)
        }
    }
}

async fn remove(State(roster): State<Arc<Roster>>, Path(node): Path<String>) -> Response {
    let outcome = match node_id(&node) {
        Ok(node) => to_the_end(async move { roster.dismiss(node).await }).await,
        Err(refused) => Err(refused),
    };
    let nothing = serde_json::Map::new();
    match outcome {
        Ok(Dismissed::Done) => answer(StatusCode::OK, &nothing),
        Ok(Dismissed::UnderWay) => answer(StatusCode::ACCEPTED, &nothing),
        Err(refused) => {
            log("remove", &node, &refused);
            refuse(&refused)
        }
    }
}

/// Does something to its end, also when the caller hangs up meanwhile: a node that is on disk has a task.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|error| Err(Refused::Failed(error.into())))
}

fn log(doing: &str, node: &str, refused: &Refused) {
    let cause = refused.source().map(ToString::to_string);
    match refused {
        // Says what a caller wrote, which may hold a password.
        Refused::BadRequest(_) => tracing::warn!(doing, "refused a request that makes no sense"),
        // The usual answer to a repeated DELETE.
        Refused::Retired => tracing::debug!(doing, node, "refused: the node is retired"),
        Refused::Failed(_) => {
            tracing::error!(doing, node, cause, "the cell could not do what it was asked");
        }
        _ => tracing::warn!(doing, node, reason = %refused, cause, "refused"),
    }
}

fn node_id(path: &str) -> Result<NodeId, Refused> {
    path.parse()
        .map_err(|error| Refused::BadRequest(format!("the node's id is not a UUID: {error}")))
}

fn parameters(path: &str, body: Result<Bytes, BytesRejection>) -> Result<NodeParameters, Refused> {
    let node = node_id(path)?;
    let bad = |text: &str| Err(Refused::BadRequest(text.to_owned()));
    let body = body.map_err(|error| Refused::BadRequest(error.body_text()))?;
    let request: StartNode = serde_json::from_slice(&body)
        .map_err(|error| Refused::BadRequest(format!("the body is not what a cell understands: {error}")))?;
    let parameters = request.parameters;
    if parameters.node_id != node {
        return bad("NODE_ID is not the node of the path");
    }
    let passwords = [
        &parameters.superuser_password,
        &parameters.replication_password,
        &parameters.rewind_password,
        &parameters.restapi_password,
    ];
    // Patroni writes them into connection strings and password files.
    let usable =
        |password: &&String| !password.is_empty() && password.bytes().all(|byte| byte.is_ascii_graphic());
    if !passwords.iter().all(usable) {
        return bad("every password must consist of printable ASCII characters, at least one");
    }
    Ok(parameters)
}

fn refuse(refused: &Refused) -> Response {
    let (status, word) = refused.code();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let refusal = Refusal {
        error: word.to_owned(),
        description: refused.to_string(),
    };
    answer(status, &refusal)
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    // Texts and numbers only: serde_json cannot fail on them.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
