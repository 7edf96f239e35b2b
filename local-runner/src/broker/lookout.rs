//! A look at what etcd holds of cells and operations, for probes and metrics.
//!
//! **Guarantees.** Two requests to etcd for a look, at most one look at a time, and at most one in a second, however many ask
//! and whether or not they wait for the answer. Whoever asks is answered within [`LIMIT`]. It goes over connections of its
//! own and gives up soon, so that it holds nothing that requests of users need.

use std::{sync::Arc, time::Duration};

use shared::{
    broker::Settings,
    config::KvStore,
    decide::placement::CellView,
    etcd::Etcd,
    keyspace,
    marker::Marker,
    record::OperationKind,
    setup::{self, SetupError},
    store::{Child, Read, Store, StoreError},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
    try_join,
};

/// How long a look counts as now.
const FRESH: Duration = Duration::from_secs(1);
/// How long one machine of etcd may take. A look that has to try several ends after twice this time.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long whoever asks waits at most: for one look, and a little for a busy machine.
pub(super) const LIMIT: Duration = Duration::from_millis(1900);

/// What was seen.
#[derive(Debug)]
pub(super) struct Sight {
    /// The cells that are known; those that are alive have said how much room they have.
    pub(super) cells: Vec<CellView>,
    /// What kind each operation under way is of.
    pub(super) under_way: Vec<OperationKind>,
}

impl Sight {
    /// Whether a node could be placed anywhere at all.
    pub(super) fn has_live_cell(&self) -> bool {
        self.cells.iter().any(|cell| cell.room.is_some())
    }
}

/// A look, or nothing when etcd could not be seen.
type Seen = Option<Arc<Sight>>;

/// Whoever looks.
pub(super) struct Lookout {
    store: Etcd,
    settings: Arc<Settings>,
    latest: Mutex<Option<(Instant, Seen)>>,
}

/// A client of etcd that gives up soon.
///
/// # Errors
/// As [`setup::store`].
pub(super) fn client(kvstore: &KvStore) -> Result<Etcd, SetupError> {
    let mut settings = setup::etcd_settings(kvstore);
    settings.connect_timeout = PATIENCE;
    settings.request_timeout = PATIENCE;
    Ok(Etcd::new(&settings)?)
}

impl Lookout {
    pub(super) fn new(store: Etcd, settings: Arc<Settings>) -> Self {
        Self {
            store,
            settings,
            latest: Mutex::default(),
        }
    }

    /// What there is now, as of a second ago at most; `None` when etcd cannot be seen, or not in time.
    pub(super) async fn look(self: &Arc<Self>) -> Seen {
        let lookout = Arc::clone(self);
        // A task of its own: should whoever asks go away, the next does not begin anew.
        let look = tokio::spawn(async move { lookout.latest().await });
        timeout(LIMIT, look).await.ok()?.ok()?
    }

    async fn latest(&self) -> Seen {
        let mut latest = self.latest.lock().await;
        if let Some((at, seen)) = &*latest
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        let looked = self.observe().await;
        let was_seen = latest.as_ref().is_none_or(|(_, seen)| seen.is_some());
        if let Err(error) = &looked
            && was_seen
        {
            // Said once, until it has been seen again.
            tracing::warn!(%error, "etcd cannot be seen");
        }
        let seen = looked.ok().map(Arc::new);
        *latest = Some((Instant::now(), seen.clone()));
        seen
    }

    async fn observe(&self) -> Result<Sight, StoreError> {
        let (cells, marked) = try_join!(
            self.settings.known_cells.list(&self.store),
            self.store.list(keyspace::OPERATIONS, Read::Quorum),
        )?;
        let markers = marked
            .unwrap_or_default()
            .into_values()
            .filter_map(|child| match child {
                // One that runs out is a fence, of a deprovision that is over.
                Child::Leaf(entry) if entry.ttl.is_none() => Marker::parse(&entry.value),
                Child::Leaf(_) | Child::Directory => None,
            });
        Ok(Sight {
            cells: cells.into_iter().map(|cell| cell.view).collect(),
            under_way: markers.map(|marker| marker.kind).collect(),
        })
    }
}
