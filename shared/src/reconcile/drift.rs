//! Drift: what differs from the records though no operation is under way, found and mended slice by slice.
//!
//! **Guarantees.** Nothing is read as a whole but lists: a run costs a number of requests that depends on [`SLICE`] and on the
//! number of cells alone. Every mend is conditional on what was seen, or the record is read again after it and the mend
//! taken back if it has moved; so overlapping runs, and runs that stood still, do no harm. Data is never deleted unless a
//! retired list or a tombstone names its node.
//! **Assumes.** What can be seen of a life of an instance was written after its first record.
//! **Caveats.** An instance with an operation under way is left to that operation.

use std::{error, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use futures_util::{StreamExt, stream};

pub use super::cursor::SLICE;
use super::{
    AT_ONCE, cursor,
    mend::{self, Mend},
    remains, settled,
    survey::Survey,
};
use crate::{
    broker::Broker,
    error::Error,
    ids::InstanceId,
    keyspace,
    record::Record,
    store::{Entry, Read, StoreError, Tree},
};

/// What a run found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slice {
    /// How many instances it looked at.
    pub checked: usize,
    /// How many things it mended.
    pub mended: usize,
}

/// What a run works with, and what it has done so far.
pub(super) struct Run<'r> {
    pub(super) broker: &'r Broker,
    pub(super) survey: &'r Survey,
    mended: &'r AtomicUsize,
}

impl Run<'_> {
    /// The marker of an instance, as it is now.
    pub(super) async fn marker(&self, id: &InstanceId) -> Result<Option<Entry>, StoreError> {
        let key = keyspace::operation(id);
        self.broker.store.get(&key, Read::Quorum).await
    }

    /// Counts a mend, and says what it was and why it was needed.
    pub(super) fn mended(&self, id: &InstanceId, kind: Mend, what: &str, why: &str) {
        self.mended.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: mend::TARGET, instance = %id, kind = kind.as_str(), why, "mended: {what}");
    }
}

/// Looks at the next instances, and mends what differs from their records.
///
/// # Errors
/// When etcd cannot be read. What is wrong with a single instance is logged, and does not keep the others.
pub async fn slice(broker: &Broker) -> Result<Slice, Error> {
    let survey = Survey::take(broker).await?;
    let slice = cursor::take_slice(&*broker.store, &survey.ids()).await?;
    let checked = slice.len();
    let mended = AtomicUsize::new(0);
    let run = Run {
        broker,
        survey: &survey,
        mended: &mended,
    };
    let run = &run;
    let checks = slice.into_iter().map(|id| async move { check(run, &id).await });
    let mut checks = stream::iter(checks).buffer_unordered(AT_ONCE);
    while checks.next().await.is_some() {}
    Ok(Slice {
        checked,
        mended: mended.load(Ordering::Relaxed),
    })
}

async fn check(run: &Run<'_>, id: &InstanceId) {
    let checked = match run.broker.store.tree(&keyspace::instance(id), Read::Quorum).await {
        Ok(tree) => compare(run, id, tree.unwrap_or_default()).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = checked {
        let reason = error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(instance = %id, %error, reason, "the instance could not be compared with its record");
    }
}

/// Record, bindings and projections in `tree` are of the same moment, and newer than the survey.
async fn compare(run: &Run<'_>, id: &InstanceId, tree: Tree) -> Result<(), Error> {
    let Some(traces) = run.survey.traces(id) else {
        return Ok(());
    };
    let Some(entry) = tree.leaves.get(&keyspace::record(id)) else {
        return remains::check(run, id, traces, &tree).await;
    };
    let record = Record::parse(&entry.value).map_err(|source| Error::Corrupt {
        what: "instance",
        source,
    })?;
    // What is marked is still somebody's, who has just ended an operation.
    if run.survey.marked.contains(id) {
        Ok(())
    } else if record.is_at_rest() {
        settled::check(
            run,
            settled::Seen {
                record: &record,
                index: entry.index,
                tree: &tree,
            },
            traces,
        )
        .await
    } else {
        settled::mark_again(run, record, entry.index).await
    }
}
