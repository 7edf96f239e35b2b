//! The cells as the broker sees them: which there are, and what they are asked.
//!
//! **Guarantees.** What a cell answers is told apart from what it certainly did not hear ([`StartAnswer`]); every call has
//! a time limit.
//! **Caveats.** A heartbeat says where a cell is, never how to log in: the credentials come from the configuration.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    cell_api::{CellStatus, Heartbeat, NodeStatus, Refusal, StartNode, refusal},
    config::Credentials,
    decide::placement::{CellView, Room},
    effect::StartAnswer,
    ids::{CellGuid, NodeId},
    keyspace,
    store::{Child, Read, Store, StoreError},
};

/// Long enough for a cell that reads the record from a slow etcd.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Most nodes stop within two seconds. For the others the same request is sent again by the next pass: gateways wait for
/// half a minute at most.
const REMOVE_LIMIT: Duration = Duration::from_secs(12);
/// A cell answers this from memory.
const LIST_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a connection is kept for the next request: not as long as cells keep it (10 s).
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// A cell that can be asked.
#[derive(Debug, Clone)]
pub struct Cell {
    /// What placement looks at.
    pub view: CellView,
    /// Where its API answers: `http://host:port`.
    pub uri: String,
    /// Who the broker is to this cell.
    pub username: String,
    /// The password that goes with it.
    pub password: SecretString,
}

/// The cells of the configuration, and how to log in to those that are known by heartbeat only.
#[derive(Debug, Clone)]
pub struct KnownCells {
    /// Cells listed in `backends:`; their `view.room` is empty.
    pub configured: Vec<Cell>,
    /// How to log in to all other cells; `None`: others are left alone.
    pub others: Option<Credentials>,
}

impl KnownCells {
    /// All cells: those that send heartbeats and those that are configured, merged by guid. What the heartbeat says of
    /// room and address is newer; zone and credentials are the configuration's.
    ///
    /// # Errors
    /// When etcd cannot be read. A heartbeat that cannot be understood is left out.
    pub async fn list(&self, store: &dyn Store) -> Result<Vec<Cell>, StoreError> {
        let mut cells: BTreeMap<CellGuid, Cell> = self
            .configured
            .iter()
            .map(|cell| (cell.view.guid.clone(), cell.clone()))
            .collect();
        for (name, child) in store
            .list(keyspace::CELLS, Read::Quorum)
            .await?
            .unwrap_or_default()
        {
            let Child::Leaf(entry) = child else { continue };
            let heartbeat: Heartbeat = match serde_json::from_str(&entry.value) {
                Ok(heartbeat) => heartbeat,
                Err(error) => {
                    tracing::warn!(cell = name, %error, "the heartbeat of a cell cannot be understood; the cell is left out");
                    continue;
                }
            };
            let guid = heartbeat.guid;
            let view = CellView {
                guid: guid.clone(),
                availability_zone: heartbeat.availability_zone,
                room: None,
            };
            let heard = self.others.as_ref().map(|credentials| Cell {
                view,
                uri: String::new(),
                username: credentials.username.clone(),
                password: credentials.password.clone(),
            });
            let Some(mut cell) = cells.remove(&guid).or(heard) else {
                continue;
            };
            cell.view.room = Some(Room {
                capacity: heartbeat.capacity,
                load: heartbeat.load,
            });
            cell.uri = heartbeat.uri;
            cells.insert(guid, cell);
        }
        Ok(cells.into_values().collect())
    }
}

/// What came of asking a cell to remove a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveAnswer {
    /// The node and its data are gone from the cell, and the cell will refuse it from now on.
    Gone,
    /// Not yet, or nobody knows; why.
    NotYet(String),
}

/// Asking cells: over HTTP in service, simulated cells in simulations.
#[async_trait]
pub trait CellClient: Send + Sync {
    /// Asks a cell to run a node. Idempotent.
    async fn start(&self, cell: &Cell, node: NodeId, request: &StartNode) -> StartAnswer;
    /// Asks a cell to remove a node for good. Idempotent.
    async fn remove(&self, cell: &Cell, node: NodeId) -> RemoveAnswer;
    /// Asks a cell which nodes it holds. The answer is certainly that cell's.
    ///
    /// # Errors
    /// When it does not say so, as a sentence. The original's cells cannot.
    async fn status(&self, cell: &Cell) -> Result<CellStatus, String>;
}

/// Cells over HTTP.
#[derive(Debug, Clone)]
pub struct HttpCells {
    client: Client,
}

impl HttpCells {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = http_client()?;
        Ok(Self { client })
    }

    fn url(cell: &Cell, node: NodeId) -> String {
        format!("{}/v2/service_instances/{node}", cell.uri.trim_end_matches('/'))
    }
}

/// A client for calls inside the deployment: no proxy, no redirects, nothing waits for ever.
///
/// # Errors
/// When the TLS library cannot be set up.
pub fn http_client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .timeout(REMOVE_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .build()
}

#[async_trait]
impl CellClient for HttpCells {
    async fn start(&self, cell: &Cell, node: NodeId, request: &StartNode) -> StartAnswer {
        let guid = &cell.view.guid;
        let sent = self
            .client
            .put(Self::url(cell, node))
            .basic_auth(&cell.username, Some(cell.password.expose_secret()))
            .timeout(START_LIMIT)
            .json(request)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                return StartAnswer::Refused(format!("cell {guid} cannot be reached"));
            }
            Err(error) => {
                return StartAnswer::Unclear(format!("cell {guid} did not answer: {}", cause(&error)));
            }
        };
        let status = response.status();
        if status.is_success() {
            let status = response.json::<NodeStatus>().await.ok();
            return StartAnswer::Accepted(status.and_then(|status| status.credential_generation));
        }
        let refused = refusal_of(guid, response).await;
        let said = format!("cell {guid} answered {}: {}", status.as_u16(), outside(&refused));
        match refused.error.as_str() {
            // The cell looked at the record, or at its own list, and will not run this node.
            refusal::FULL | refusal::RETIRED | refusal::STOPPING => StartAnswer::Refused(said),
            _ if status == StatusCode::UNAUTHORIZED => StartAnswer::Refused(said),
            _ => StartAnswer::Unclear(said),
        }
    }

    async fn remove(&self, cell: &Cell, node: NodeId) -> RemoveAnswer {
        let guid = &cell.view.guid;
        let sent = self
            .client
            .delete(Self::url(cell, node))
            .basic_auth(&cell.username, Some(cell.password.expose_secret()))
            .send()
            .await;
        match sent {
            Ok(response) if matches!(response.status(), StatusCode::OK | StatusCode::GONE) => {
                RemoveAnswer::Gone
            }
            Ok(response) if response.status() == StatusCode::ACCEPTED => {
                RemoveAnswer::NotYet(format!("cell {guid} is still stopping it"))
            }
            Ok(response) => {
                let status = response.status().as_u16();
                let refused = refusal_of(guid, response).await;
                RemoveAnswer::NotYet(format!("cell {guid} answered {status}: {}", outside(&refused)))
            }
            Err(error) if error.is_connect() => {
                RemoveAnswer::NotYet(format!("cell {guid} cannot be reached"))
            }
            Err(error) => RemoveAnswer::NotYet(format!("cell {guid} did not answer: {}", cause(&error))),
        }
    }

    async fn status(&self, cell: &Cell) -> Result<CellStatus, String> {
        let guid = &cell.view.guid;
        let asked = self
            .client
            .get(format!("{}/v2/service_instances", cell.uri.trim_end_matches('/')))
            .basic_auth(&cell.username, Some(cell.password.expose_secret()))
            .timeout(LIST_LIMIT)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        let status = match asked {
            Ok(response) => response.json::<CellStatus>().await,
            Err(error) => Err(error),
        };
        let status =
            status.map_err(|error| format!("cell {guid} does not say what it holds: {}", cause(&error)))?;
        if status.guid != *guid {
            return Err(format!(
                "cell {} answers in the place of cell {guid}",
                status.guid
            ));
        }
        Ok(status)
    }
}

/// What a cell says of what it does not do. All of it is for the log only ([`outside`]).
async fn refusal_of(cell: &CellGuid, response: reqwest::Response) -> Refusal {
    let status = response.status().as_u16();
    let refused = response.json().await.unwrap_or_else(|_| Refusal {
        error: String::new(),
        description: "no reason given".to_owned(),
    });
    tracing::info!(%cell, status, word = refused.error, reason = refused.description, "a cell refuses");
    refused
}

/// What clients may read of a refusal, in the description of their operation. A cell's own words may name what is inside:
/// addresses of etcd, paths.
fn outside(refused: &Refusal) -> &'static str {
    match refused.error.as_str() {
        refusal::RETIRED => "the node is retired",
        refusal::NOT_ASSIGNED => "the node is not to run there",
        refusal::LEADER => "the node leads its cluster",
        refusal::NO_LEADER => "no node that stays leads the cluster",
        refusal::UNNAMED => "nothing says that the node is gone for good",
        refusal::ASSIGNED => "the node is to run there",
        refusal::FULL => "it holds as many nodes as it may",
        refusal::STORE_UNAVAILABLE => "it cannot read the instance's record now",
        refusal::STOPPING => "it is shutting down",
        refusal::FAILED => "it could not do it, as its log says",
        refusal::UNAUTHORIZED => "wrong user name or password",
        _ => "no reason that the broker knows",
    }
}

/// The innermost reason of a failed call; the outer ones only repeat the URL.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_read_of_a_refusal_names_nothing_of_the_inside() {
        for word in [
            refusal::STORE_UNAVAILABLE,
            refusal::FAILED,
            refusal::NOT_ASSIGNED,
            "another",
            "",
        ] {
            let refused = Refusal {
                error: word.to_owned(),
                description: "http://10.0.0.1:4001: /var/lib".to_owned(),
            };
            let text = outside(&refused);
            assert!(!text.is_empty() && !text.contains('/'), "{text}");
        }
    }
}
