//! Whether a member that holds the leader key takes writes by now, asked of its own Patroni.
//!
//! A member takes the leader key some tenths of a second before its promotion ends, and a leader whose PostgreSQL has
//! crashed keeps the key while that starts as a standby: until then sessions would be on a replica. Patroni's member key
//! tells of the end of a promotion only up to a loop later; its REST API tells at once.

use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(1);
/// After so long without any answer the leader key alone counts: the router may be kept from the API.
const SILENCE: Duration = Duration::from_secs(3);

/// What `GET /patroni` answers (Patroni's documentation, "Patroni REST API").
#[derive(Deserialize)]
struct Status {
    state: String,
    role: String,
}

/// Waits until a member takes writes.
///
/// `api` is the `api_url` of its member key.
pub(super) async fn ended(client: &Client, member: &str, api: &str) {
    let mut heard = Instant::now();
    loop {
        match ask(client, api).await {
            Ok(status) if status.state == "running" && is_primary(&status.role) => return,
            Ok(_) => heard = Instant::now(),
            Err(error) if heard.elapsed() >= SILENCE => {
                let error = crate::chain(&error);
                tracing::warn!(
                    member,
                    api,
                    error,
                    "Patroni does not say whether the leader takes writes: it is served"
                );
                return;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

/// Whether this is Patroni's word, of whatever version, for who leads when its promotion has ended.
pub(super) fn is_primary(role: &str) -> bool {
    matches!(role, "master" | "primary" | "standby_leader")
}

async fn ask(client: &Client, api: &str) -> Result<Status, reqwest::Error> {
    client.get(api).timeout(ANSWER).send().await?.json().await
}
