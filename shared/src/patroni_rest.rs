//! Patroni's REST API, as far as the broker uses it (Patroni's documentation, "Patroni REST API").

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{cell_api::REST_USER, cells, master_keys::Passwords};

/// Reading answers at once; a busy machine may take a moment.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// A switchover answers after 2 to 3 s (patroni-reference.md, REST).
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(15);
/// Patroni answers when PostgreSQL runs again, and goes on when nobody waits any more.
const RESTART_LIMIT: Duration = Duration::from_secs(15);

/// What the broker asks of Patroni. Errors are sentences: none of them decides anything, the next look at etcd does.
#[async_trait]
pub trait PatroniClient: Send + Sync {
    /// Who streams from the leader: state by member name.
    async fn replication(&self, leader_api: &str) -> Result<BTreeMap<String, String>, String>;
    /// Patches the dynamic configuration.
    async fn configure(
        &self,
        api: &str,
        passwords: &Passwords,
        patch: &Map<String, Value>,
    ) -> Result<(), String>;
    /// Restarts the PostgreSQL of the member that answers at `api`, provided that Patroni still holds a restart for pending
    /// and the member still has this role, so that a late call restarts nothing that does not need it.
    async fn restart(&self, api: &str, passwords: &Passwords, role: &str) -> Result<(), String>;
    /// Hands the leadership from one member to another; both are named, so that a late call cannot demote a third.
    async fn switchover(
        &self,
        api: &str,
        passwords: &Passwords,
        leader: &str,
        candidate: &str,
    ) -> Result<(), String>;
}

/// Patroni over HTTP.
#[derive(Debug, Clone)]
pub struct HttpPatroni {
    client: Client,
}

impl HttpPatroni {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: cells::http_client()?,
        })
    }
}

/// Sends a request, again with the former password to a member that does not have the present one yet.
async fn send(
    request: impl Fn() -> RequestBuilder,
    passwords: &Passwords,
) -> Result<reqwest::Response, reqwest::Error> {
    let with = |password: &secrecy::SecretString| {
        request()
            .basic_auth(REST_USER, Some(password.expose_secret()))
            .send()
    };
    let response = with(&passwords.current).await?;
    match &passwords.former {
        Some(former) if response.status() == StatusCode::UNAUTHORIZED => with(former).await,
        _ => Ok(response),
    }
}

async fn checked(
    sent: Result<reqwest::Response, reqwest::Error>,
    what: &str,
) -> Result<reqwest::Response, String> {
    let response =
        sent.map_err(|error| format!("{what}: Patroni did not answer: {}", cells::cause(&error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let short: String = text.chars().take(200).collect();
    Err(format!(
        "{what}: Patroni answered {}: {}",
        status.as_u16(),
        short.trim()
    ))
}

#[async_trait]
impl PatroniClient for HttpPatroni {
    async fn replication(&self, leader_api: &str) -> Result<BTreeMap<String, String>, String> {
        #[derive(Deserialize)]
        struct Status {
            #[serde(default)]
            replication: Vec<Standby>,
        }
        #[derive(Deserialize)]
        struct Standby {
            application_name: String,
            state: String,
        }
        let what = "asking who streams";
        let sent = self
            .client
            .get(format!("{leader_api}/patroni"))
            .timeout(READ_LIMIT)
            .send()
            .await;
        let status: Status = checked(sent, what)
            .await?
            .json()
            .await
            .map_err(|error| format!("{what}: {}", cells::cause(&error)))?;
        Ok(status
            .replication
            .into_iter()
            .map(|standby| (standby.application_name, standby.state))
            .collect())
    }

    async fn configure(
        &self,
        api: &str,
        passwords: &Passwords,
        patch: &Map<String, Value>,
    ) -> Result<(), String> {
        let request = || {
            let request = self.client.patch(format!("{api}/config"));
            request.timeout(READ_LIMIT).json(patch)
        };
        checked(send(request, passwords).await, "changing Patroni's configuration")
            .await
            .map(drop)
    }

    async fn restart(&self, api: &str, passwords: &Passwords, role: &str) -> Result<(), String> {
        let request = || {
            let request = self.client.post(format!("{api}/restart"));
            let conditions = json!({ "restart_pending": true, "role": role });
            request.timeout(RESTART_LIMIT).json(&conditions)
        };
        checked(send(request, passwords).await, "restart").await.map(drop)
    }

    async fn switchover(
        &self,
        api: &str,
        passwords: &Passwords,
        leader: &str,
        candidate: &str,
    ) -> Result<(), String> {
        let request = || {
            let request = self.client.post(format!("{api}/switchover"));
            let both = json!({ "leader": leader, "candidate": candidate });
            request.timeout(SWITCHOVER_LIMIT).json(&both)
        };
        checked(send(request, passwords).await, "switchover")
            .await
            .map(drop)
    }
}
