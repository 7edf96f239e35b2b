//! What a cell asks the Patroni of its own node over its REST API (Patroni's documentation, "Patroni REST API").

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use shared::cell_api::REST_USER;

/// For one answer. Patroni asks a PostgreSQL that fails it once more, up to two seconds later.
const ANSWER: Duration = Duration::from_secs(5);

/// How far a Patroni has taken the passwords of its configuration file over: it reads that again at the end of a loop only, and
/// tells nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenOver {
    /// It has not said anything.
    Unanswered,
    /// Not yet, as far as is known; or its PostgreSQL is not there to be asked, which copying and recovering take long for.
    Nothing,
    /// Its API has; but it does not get in to its PostgreSQL, which runs. A Patroni whose session there has broken since the roles
    /// changed stays like that: it asks PostgreSQL before it takes over what it would need for the answer.
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
    match answer {
        Err(_) => return TakenOver::Unanswered,
        Ok(answer) if answer.status() != StatusCode::BAD_REQUEST => return TakenOver::Nothing,
        Ok(_) => {}
    }
    match status(client, address).await {
        None => TakenOver::Unanswered,
        // PostgreSQL itself has said this.
        Some(status) if status["server_version"].is_number() => TakenOver::Everything,
        // That it runs is what Patroni knows; a query has failed (Patroni's api.py, get_postgresql_status).
        Some(status) if status["state"] == "unknown" => TakenOver::Api,
        Some(_) => TakenOver::Nothing,
    }
}

/// Whether the PostgreSQL of the Patroni at `address` starts, and lets nobody in yet; also when that cannot be known.
pub(super) async fn may_be_starting(client: &Client, address: &str) -> bool {
    status(client, address)
        .await
        .is_none_or(|status| status["state"] == "starting")
}

async fn status(client: &Client, address: &str) -> Option<Value> {
    let request = client.get(format!("http://{address}/patroni")).timeout(ANSWER);
    request.send().await.ok()?.json().await.ok()
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        http::HeaderMap,
        routing::{get, patch},
    };
    use tokio::net::TcpListener;

    use super::*;

    /// A Patroni that knows the password `known` (base64 of `patroni:known` or of another), and says this of its PostgreSQL.
    async fn patroni(says: &'static str) -> String {
        let change = async |headers: HeaderMap| {
            let known = headers["authorization"] == "Basic cGF0cm9uaTprbm93bg==";
            match known {
                true => StatusCode::BAD_REQUEST,
                false => StatusCode::UNAUTHORIZED,
            }
        };
        let status = move || async move { (StatusCode::SERVICE_UNAVAILABLE, says) };
        let router = Router::new()
            .route("/config", patch(change))
            .route("/patroni", get(status));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn a_patroni_that_is_not_there_has_said_nothing() {
        let client = Client::new();
        let asked = taken_over(&client, "127.0.0.1:1", "known").await;
        assert_eq!(asked, TakenOver::Unanswered);
        assert!(may_be_starting(&client, "127.0.0.1:1").await);
    }

    #[tokio::test]
    async fn only_a_running_postgresql_that_refuses_patroni_counts_as_taken_over_half() {
        let client = Client::new();
        for (says, expected, starts) in [
            (
                r#"{"state":"running","server_version":150018}"#,
                TakenOver::Everything,
                false,
            ),
            (r#"{"state":"unknown","role":"replica"}"#, TakenOver::Api, false),
            (
                r#"{"state":"creating replica","role":"replica"}"#,
                TakenOver::Nothing,
                false,
            ),
            (
                r#"{"state":"start failed","role":"replica"}"#,
                TakenOver::Nothing,
                false,
            ),
            (
                r#"{"state":"starting","role":"replica"}"#,
                TakenOver::Nothing,
                true,
            ),
            ("?", TakenOver::Unanswered, true),
        ] {
            let address = patroni(says).await;
            assert_eq!(taken_over(&client, &address, "known").await, expected, "{says}");
            assert_eq!(
                taken_over(&client, &address, "other").await,
                TakenOver::Nothing,
                "{says}"
            );
            assert_eq!(may_be_starting(&client, &address).await, starts, "{says}");
        }
    }
}
