//! A cell's sign of life: `/cells/<guid>`, gone by itself soon after the cell.
//!
//! **Guarantees.** A cell never overwrites the heartbeat of another live one with its guid: it finds its own by the
//! address in it, and writes by compare-and-swap.

use std::{sync::Arc, time::Duration};

use shared::{
    cell_api::Heartbeat,
    keyspace,
    store::{Entry, Index, Read, Store, StoreError},
};
use tokio::time::{Instant, sleep};

use super::error::CellError;

/// How often a key is looked at while somebody else's heartbeat may run out.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps the key alive.
pub(super) struct Heart {
    store: Arc<dyn Store>,
    ttl: Duration,
    written: Option<Index>,
}

/// Why a beat did not reach etcd.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missed {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another cell's heartbeat stands there.
    #[error("another live cell uses the same guid, at {uri}: stop one of them and give it a guid of its own")]
    Taken {
        /// Where the other one answers.
        uri: String,
    },
}

impl Heart {
    /// A heart that has not beaten yet.
    pub(super) fn new(store: Arc<dyn Store>, ttl: Duration) -> Self {
        Self {
            store,
            ttl,
            written: None,
        }
    }

    /// How long a beat counts.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Beats for the first time. Waits for etcd as long as it takes, and for the heartbeat of an earlier cell with this
    /// guid at another address until it has run out.
    ///
    /// # Errors
    /// [`CellError::GuidTaken`] when that one is alive.
    pub(super) async fn start(&mut self, beat: &Heartbeat) -> Result<(), CellError> {
        let key = keyspace::cell(&beat.guid);
        let mut unreachable = false;
        let mut other: Option<(Entry, Instant)> = None;
        loop {
            match self.beat(beat).await {
                Ok(()) => return Ok(()),
                Err(Missed::Store(error)) => {
                    if !unreachable {
                        tracing::warn!(%error, "the cell waits for etcd before it announces itself");
                    }
                    unreachable = true;
                }
                Err(Missed::Taken { uri }) => {
                    let now = self.store.get(&key, Read::Quorum).await.ok().flatten();
                    let renewed =
                        matches!((&now, &other), (Some(now), Some((seen, _))) if now.index != seen.index);
                    let overdue = other
                        .as_ref()
                        .is_some_and(|(_, since)| since.elapsed() > self.patience());
                    if renewed || overdue {
                        let guid = beat.guid.clone();
                        return Err(CellError::GuidTaken { guid, uri });
                    }
                    if let (Some(entry), None) = (now, &other) {
                        tracing::warn!(guid = %beat.guid, uri, "a heartbeat of another cell with this guid is there; waiting whether it runs out");
                        other = Some((entry, Instant::now()));
                    }
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Longer than any heartbeat of a cell with these settings lasts.
    fn patience(&self) -> Duration {
        self.ttl + Duration::from_secs(5)
    }

    /// Beats once.
    pub(super) async fn beat(&mut self, beat: &Heartbeat) -> Result<(), Missed> {
        let key = keyspace::cell(&beat.guid);
        // Numbers and texts only: this cannot fail.
        let value = serde_json::to_string(beat).unwrap_or_default();
        let ttl = Some(self.ttl);
        let written = match self.written.take() {
            Some(index) => self.store.compare_and_swap(&key, &value, index, ttl).await,
            None => match self.store.get(&key, Read::Quorum).await? {
                None => self.store.create(&key, &value, ttl).await,
                Some(entry) => {
                    let uri = uri_of(&entry.value);
                    if uri != beat.uri {
                        return Err(Missed::Taken { uri });
                    }
                    self.store.compare_and_swap(&key, &value, entry.index, ttl).await
                }
            },
        };
        // Whatever went wrong, the next beat looks first.
        self.written = Some(written?);
        Ok(())
    }

    /// Takes the key away, if it is still this cell's.
    pub(super) async fn stop(&mut self, beat: &Heartbeat) -> Result<(), StoreError> {
        let key = keyspace::cell(&beat.guid);
        // A beat that was cut short may still arrive between reading and deleting.
        for _ in 0..3 {
            match self.store.get(&key, Read::Quorum).await? {
                Some(entry) if uri_of(&entry.value) == beat.uri => {
                    match self.store.compare_and_delete(&key, entry.index).await {
                        Ok(()) | Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => (),
                        Err(error) => return Err(error),
                    }
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Where the cell of a heartbeat answers; for something else that stands there, the text itself.
fn uri_of(value: &str) -> String {
    match serde_json::from_str::<Heartbeat>(value) {
        Ok(heartbeat) => heartbeat.uri,
        Err(_) => value.chars().take(100).collect(),
    }
}
