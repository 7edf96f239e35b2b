//! The cells' API (shared/src/cell_api.rs) below `/cells/<guid>`, and Patroni's REST API below `/nodes/<node>`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, patch, post, put},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::{
    cell_api::{Refusal, StartNode, refusal},
    cells::RemoveAnswer,
    effect::StartAnswer,
    ids::{CellGuid, NodeId},
    master_keys::Passwords,
};
use tokio::task::spawn_blocking;

use super::super::World;

#[derive(Clone)]
struct Shared {
    world: Arc<World>,
    address: SocketAddr,
}

pub(super) fn router(world: Arc<World>, address: SocketAddr) -> Router {
    Router::new()
        .route("/cells/{cell}/v2/service_instances", get(list))
        .route(
            "/cells/{cell}/v2/service_instances/{node}",
            put(start).delete(remove),
        )
        .route("/nodes/{node}/patroni", get(status))
        .route("/nodes/{node}/config", patch(configure))
        .route("/nodes/{node}/switchover", post(switch_over))
        .with_state(Shared { world, address })
}

impl Shared {
    /// Does something that blocks.
    async fn with<T: Send + 'static>(&self, call: impl FnOnce(&World) -> T + Send + 'static) -> T {
        let world = Arc::clone(&self.world);
        spawn_blocking(move || call(&world)).await.unwrap()
    }

    fn api(&self, node: NodeId) -> String {
        format!("http://{}/nodes/{node}", self.address)
    }
}

async fn list(State(shared): State<Shared>, Path(guid): Path<CellGuid>) -> Response {
    let cell = guid.clone();
    match shared.with(move |world| world.status(&cell)).await {
        Ok(status) => answer(StatusCode::OK, &status),
        Err(reason) => refuse(StatusCode::SERVICE_UNAVAILABLE, refusal::STOPPING, reason),
    }
}

async fn start(
    State(shared): State<Shared>,
    Path((cell, node)): Path<(CellGuid, NodeId)>,
    body: Bytes,
) -> Response {
    let request: StartNode = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, refusal::BAD_REQUEST, error.to_string()),
    };
    let started = shared.with(move |world| match world.examine(&cell, node, &request) {
        Ok(()) => world.admit(&cell, node, &request),
        Err(settled) => settled,
    });
    match started.await {
        StartAnswer::Accepted(_) => answer(StatusCode::CREATED, &json!({})),
        // All words for a certain no are the same to a broker.
        StartAnswer::Refused(reason) => refuse(StatusCode::UNPROCESSABLE_ENTITY, refusal::FULL, reason),
        StartAnswer::Unclear(reason) => refuse(StatusCode::CONFLICT, refusal::NOT_ASSIGNED, reason),
    }
}

async fn remove(State(shared): State<Shared>, Path((cell, node)): Path<(CellGuid, NodeId)>) -> Response {
    match shared.with(move |world| world.remove(&cell, node)).await {
        RemoveAnswer::Gone => answer(StatusCode::OK, &json!({})),
        RemoveAnswer::NotYet(reason) => refuse(StatusCode::CONFLICT, refusal::ASSIGNED, reason),
    }
}

async fn status(State(shared): State<Shared>, Path(node): Path<NodeId>) -> Response {
    let api = shared.api(node);
    told(
        shared
            .with(move |world| world.replication(&api))
            .await
            .map(|standbys| {
                let standby = |(name, state)| json!({"application_name": name, "state": state});
                let standbys: Vec<Value> = standbys.into_iter().map(standby).collect();
                json!({"replication": standbys})
            }),
    )
}

async fn configure(
    State(shared): State<Shared>,
    Path(node): Path<NodeId>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let api = shared.api(node);
    let passwords = passwords(&headers);
    let Ok(change) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        return told(Err("not an object".to_owned()));
    };
    let done = shared.with(move |world| world.configure(&api, &passwords, &change));
    told(done.await.map(|()| json!({})))
}

#[derive(Deserialize)]
struct Switchover {
    leader: String,
    candidate: String,
}

async fn switch_over(
    State(shared): State<Shared>,
    Path(node): Path<NodeId>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let api = shared.api(node);
    let passwords = passwords(&headers);
    let Ok(Switchover { leader, candidate }) = serde_json::from_slice(&body) else {
        return told(Err("leader and candidate must be named".to_owned()));
    };
    let done = shared.with(move |world| world.switchover(&api, &passwords, &leader, &candidate));
    told(done.await.map(|()| json!({})))
}

/// The password of basic authentication.
fn password(headers: &HeaderMap) -> Option<String> {
    let encoded = headers
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

fn passwords(headers: &HeaderMap) -> Passwords {
    SecretString::from(password(headers).unwrap_or_default()).into()
}

/// What Patroni says.
fn told(outcome: Result<Value, String>) -> Response {
    match outcome {
        Ok(body) => answer(StatusCode::OK, &body),
        Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn refuse(status: StatusCode, word: &str, description: String) -> Response {
    let error = word.to_owned();
    answer(status, &Refusal { error, description })
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap()));
    *response.status_mut() = status;
    response
}
