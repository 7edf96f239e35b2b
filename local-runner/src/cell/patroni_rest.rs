//! What a cell asks the Patroni of its own node over its REST API (Patroni's documentation, "Patroni REST API").

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::json;
use shared::cell_api::REST_USER;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether the Patroni at `address` (`host:port`) has taken this password over: it reads its configuration again at the end of a
/// loop only, and tells nobody. An empty change of the configuration changes nothing: whoever may make it gets 400, others 401.
pub(super) async fn takes(client: &Client, address: &str, password: &str) -> bool {
    let request = client.patch(format!("http://{address}/config"));
    let request = request.basic_auth(REST_USER, Some(password)).timeout(ANSWER);
    let answer = request.json(&json!({})).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::BAD_REQUEST)
}
