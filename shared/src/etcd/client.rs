//! The client.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::{JoinError, spawn_blocking},
};
use ureq::http::Method;

use super::{
    answer::{Event, Found, Refusal},
    exchange::{Cause, Exchange, Failure, Reply},
    meter::Traffic,
    path::{fields, path},
    settings::{InvalidSettings, Settings},
    watch::EtcdWatch,
};
use crate::store::{Child, Entry, Index, NO_CONDITION, Read, Store, StoreError, Tree, Watch};

/// A client of an etcd cluster's v2 API. Clones share connections.
#[derive(Debug, Clone)]
pub struct Etcd {
    exchange: Exchange,
    /// Held by the one request that is under way, also when nobody waits for its answer any more; `None`: any number may be.
    turn: Option<Arc<Mutex<()>>>,
}

impl Etcd {
    /// A client with these settings. Nothing is connected yet.
    ///
    /// # Errors
    /// When the settings contradict themselves, or name files that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let exchange = Exchange::new(settings)?;
        let turn = settings.one_connection.then(Arc::default);
        Ok(Self { exchange, turn })
    }

    /// What this client and its clones and watches have exchanged with etcd so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.exchange.counters().traffic()
    }

    /// Writes a new key below a directory, which is made if need be; answers the key. Its last segment is the index
    /// of the write, padded with zeros, so that keys sort in the order of the writes.
    ///
    /// # Errors
    /// `Unavailable`; `Ambiguous`: a key may have been made, or may be made later; `Unexpected` when the directory is
    /// a leaf.
    pub async fn append(
        &self,
        directory: &str,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<String, StoreError> {
        let form = form(value, ttl, None);
        let event = self
            .write(Method::POST, directory, String::new(), Some(form))
            .await?;
        Ok(event.node.into_key())
    }

    async fn read(&self, key: &str, query: &[(&str, &str)], freshness: Read) -> Result<Reply, StoreError> {
        let mut query = query.to_vec();
        if freshness == Read::Quorum {
            query.push(("quorum", "true"));
        }
        let target = format!("{}?{}", checked(key)?, fields(&query));
        let reply = self.call(Method::GET, target, None).await;
        reply.map_err(|failure| match failure.cause {
            Cause::Nonsense => unexpected(key, failure.text),
            Cause::Machine | Cause::Connection => StoreError::Unavailable { reason: failure.text },
        })
    }

    async fn write(
        &self,
        method: Method,
        key: &str,
        query: String,
        form: Option<String>,
    ) -> Result<Event, StoreError> {
        let target = checked(key)? + &query;
        let ambiguous = |reason| StoreError::Ambiguous {
            key: key.to_owned(),
            reason,
        };
        let reply = self.call(method, target, form).await;
        let reply = reply.map_err(|failure| match failure.sent {
            true => ambiguous(failure.text),
            false => StoreError::Unavailable { reason: failure.text },
        })?;
        if (200..300).contains(&reply.status) {
            return Event::parse(&reply.body).map_err(ambiguous);
        }
        let refusal = Refusal::parse(&reply.machine, reply.status, &reply.body)
            .map_err(|reason| unexpected(key, reason))?;
        Err(refusal.into_error(key))
    }

    /// Exchanges one request, once it may be sent. A caller that goes away leaves it under way, with its turn.
    async fn call(&self, method: Method, target: String, form: Option<String>) -> Result<Reply, Failure> {
        let exchange = self.exchange.clone();
        let turn = self.turn().await;
        let exchanged = spawn_blocking(move || {
            let reply = exchange.call(&method, &target, form.as_deref());
            drop(turn);
            reply
        });
        exchanged.await.unwrap_or_else(|lost| Err(never_answered(&lost)))
    }

    /// Waits until a request may be sent.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.turn {
            Some(turn) => Some(Arc::clone(turn).lock_owned().await),
            None => None,
        }
    }

    async fn put(&self, key: &str, form: String) -> Result<Index, StoreError> {
        let event = self.write(Method::PUT, key, String::new(), Some(form)).await?;
        event.node.index().map_err(|reason| StoreError::Ambiguous {
            key: key.to_owned(),
            reason,
        })
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str, read: Read) -> Result<Option<Entry>, StoreError> {
        let reply = self.read(key, &[], read).await?;
        Found::parse(key, &reply)?
            .into_entry()
            .map_err(|reason| unexpected(key, reason))
    }

    async fn list(&self, directory: &str, read: Read) -> Result<Option<BTreeMap<String, Child>>, StoreError> {
        let reply = self.read(directory, &[], read).await?;
        Found::parse(directory, &reply)?
            .into_children()
            .map_err(|reason| unexpected(directory, reason))
    }

    async fn tree(&self, directory: &str, read: Read) -> Result<Option<Tree>, StoreError> {
        let reply = self.read(directory, &[("recursive", "true")], read).await?;
        Found::parse(directory, &reply)?
            .into_tree()
            .map_err(|reason| unexpected(directory, reason))
    }

    async fn create(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.put(key, form(value, ttl, Some(("prevExist", "false"))))
            .await
    }

    async fn set(&self, key: &str, value: &str, ttl: Option<Duration>) -> Result<Index, StoreError> {
        self.put(key, form(value, ttl, None)).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        value: &str,
        index: Index,
        ttl: Option<Duration>,
    ) -> Result<Index, StoreError> {
        self.put(key, form(value, ttl, Some(("prevIndex", &index.to_string()))))
            .await
    }

    async fn compare_and_delete(&self, key: &str, index: Index) -> Result<(), StoreError> {
        // In the query: etcd ignores the body of a DELETE, and would delete without any condition.
        let query = format!("?prevIndex={index}");
        self.write(Method::DELETE, key, query, None).await.map(|_| ())
    }

    async fn compare_value_and_delete(&self, key: &str, value: &str, index: Index) -> Result<(), StoreError> {
        if value.is_empty() {
            return Err(unexpected(key, NO_CONDITION.to_owned()));
        }
        let index = index.to_string();
        let query = format!("?{}", fields(&[("prevValue", value), ("prevIndex", &index)]));
        self.write(Method::DELETE, key, query, None).await.map(|_| ())
    }

    async fn remove_empty_directory(&self, directory: &str) -> Result<(), StoreError> {
        // `dir=true` deletes a leaf as well, and etcd knows no condition that a directory fulfils and a leaf does not.
        // A leaf that takes a directory's place between these two requests is deleted; no key of ours changes its kind.
        let reply = self.read(directory, &[], Read::Quorum).await?;
        match Found::parse(directory, &reply)? {
            Found::Node(node, _) if !node.is_directory() => {
                return Err(unexpected(directory, "it is not a directory".to_owned()));
            }
            Found::Node(..) => {}
            Found::Nothing(_) => {
                return Err(StoreError::Missing {
                    key: directory.to_owned(),
                });
            }
        }
        let query = "?dir=true".to_owned();
        self.write(Method::DELETE, directory, query, None)
            .await
            .map(|_| ())
    }

    fn watch(&self, key: &str) -> Box<dyn Watch> {
        Box::new(EtcdWatch::new(self.exchange.fork(), key))
    }
}

/// The form of a write. Without a `ttl` etcd takes an existing one away, which is what the callers want.
fn form(value: &str, ttl: Option<Duration>, condition: Option<(&str, &str)>) -> String {
    let ttl = ttl.map(|ttl| seconds(ttl).to_string());
    let mut form = vec![("value", value)];
    form.extend(ttl.as_deref().map(|ttl| ("ttl", ttl)));
    form.extend(condition);
    fields(&form)
}

/// etcd counts in whole seconds: rounded up, so that nothing ends too early, and never 0, which would end it at once.
/// Its nanoseconds overflow after 292 years, which would end it at once as well.
fn seconds(ttl: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 3600;
    ttl.as_secs()
        .saturating_add(u64::from(ttl.subsec_nanos() > 0))
        .clamp(1, CENTURY)
}

fn checked(key: &str) -> Result<String, StoreError> {
    path(key).ok_or_else(|| unexpected(key, "this is not a key".to_owned()))
}

fn unexpected(key: &str, reason: String) -> StoreError {
    StoreError::Unexpected {
        key: key.to_owned(),
        reason,
    }
}

/// A task that was cancelled (the runtime is shutting down) never began; one that panicked may have sent its request.
fn never_answered(lost: &JoinError) -> Failure {
    Failure {
        text: lost.to_string(),
        sent: !lost.is_cancelled(),
        cause: Cause::Machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_rounded_up_and_never_zero() {
        let of = |millis| seconds(Duration::from_millis(millis));
        assert_eq!([of(0), of(1), of(1000), of(1001)], [1, 1, 1, 2]);
        assert_eq!(seconds(Duration::MAX), 3_153_600_000);
    }

    /// A server that never answers: what is asked first is under way for as long as it lets the connection be.
    #[tokio::test]
    async fn a_request_that_nobody_waits_for_keeps_its_turn() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut settings = Settings::new(vec![format!("http://{}", server.local_addr().unwrap())]);
        settings.one_connection = true;
        let etcd = Etcd::new(&settings).unwrap();
        let first = etcd.clone();
        let first = tokio::spawn(async move { first.get("/a", Read::Local).await });
        let (connection, _) = spawn_blocking(move || server.accept().unwrap()).await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let turn = Arc::clone(etcd.turn.as_ref().unwrap());
        assert!(
            turn.try_lock().is_err(),
            "the next one would open a second connection"
        );
        drop(connection);
        drop(turn.lock().await);
    }

    #[test]
    fn a_form_holds_what_is_asked_for_only() {
        assert_eq!(form("a b", None, None), "value=a%20b");
        let ttl = Some(Duration::from_secs(3));
        assert_eq!(
            form("", ttl, Some(("prevIndex", "7"))),
            "value=&ttl=3&prevIndex=7"
        );
    }
}
