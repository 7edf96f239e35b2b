//! What a cell asks the Patroni of its own node over its REST API (Patroni's documentation, "Patroni REST API").

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use shared::cell_api::REST_USER;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// How far a Patroni has taken the passwords of its configuration file over: it reads that again at the end of a loop only, and
/// tells nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenOver {
    /// Not yet, as far as is known.
    Nothing,
    /// Its API has; but it does not get in to its PostgreSQL. A Patroni whose session there has broken since the roles changed
    /// stays like that: it asks PostgreSQL before it takes over what it would need for the answer.
    Api,
    /// All of it.
    Everything,
}

/// Asks the Patroni at `address` (`host:port`).
pub(super) async fn taken_over(client: &Client, address: &str, password: &str) -> TakenOver {
    // An empty change of the configuration changes nothing: whoever may make it gets 400, others 401.
    let request = client.patch(format!("http://{address}/config"));
    let request = request.basic_auth(REST_USER, Some(password)).timeout(ANSWER);
    let answer = request.json(&json!({})).send().await;
    if !answer.is_ok_and(|answer| answer.status() == StatusCode::BAD_REQUEST) {
        return TakenOver::Nothing;
    }
    let request = client.get(format!("http://{address}/patroni")).timeout(ANSWER);
    let status: Option<Value> = match request.send().await {
        Ok(answer) => answer.json().await.ok(),
        Err(_) => None,
    };
    // PostgreSQL itself has said this.
    match status.is_some_and(|status| status["server_version"].is_number()) {
        true => TakenOver::Everything,
        false => TakenOver::Api,
    }
}
