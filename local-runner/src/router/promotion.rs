//! Whether a member that holds the leader key takes writes by now, asked of its own Patroni.
//!
//! A member takes the leader key some tenths of a second before its promotion ends, and a leader whose PostgreSQL has
//! crashed keeps the key while that starts as a standby: until then sessions would be on a replica. Patroni's member key
//! tells of the end of a promotion only up to a loop later; its REST API tells at once.

use std::{iter, time::Duration};

use reqwest::Client;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// Between two questions while a promotion may end at any moment.
const PAUSE: Duration = Duration::from_millis(20);
/// How many questions are asked at that pace: two seconds of them. A promotion seldom takes longer.
const EAGER: usize = 100;
/// Between two questions at most.
const LONGEST: Duration = Duration::from_secs(1);
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
    for pause in pauses() {
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
        sleep(pause).await;
    }
}

/// The pauses between questions, without end.
fn pauses() -> impl Iterator<Item = Duration> {
    let longer = |pause: &Duration| Some((*pause * 2).min(LONGEST));
    iter::repeat_n(PAUSE, EAGER).chain(iter::successors(longer(&PAUSE), longer))
}

/// Whether this is Patroni's word, of whatever version, for who leads when its promotion has ended.
pub(super) fn is_primary(role: &str) -> bool {
    matches!(role, "master" | "primary" | "standby_leader")
}

async fn ask(client: &Client, api: &str) -> Result<Status, reqwest::Error> {
    client.get(api).timeout(ANSWER).send().await?.json().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_asked_eagerly_for_two_seconds_and_ever_more_seldom_then() {
        let eager: Duration = pauses().take(EAGER).sum();
        assert_eq!(eager, Duration::from_secs(2));
        assert!(pauses().take(EAGER).all(|pause| pause == PAUSE));
        let later: Vec<u128> = pauses()
            .skip(EAGER)
            .take(8)
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(later, [40, 80, 160, 320, 640, 1000, 1000, 1000]);
        assert_eq!(pauses().nth(100_000), Some(LONGEST), "they do not end");
    }
}
