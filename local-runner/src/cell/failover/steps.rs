//! The steps of a failover, in their order, and what each of them leads to.
//!
//! **Guarantees.** The leader key is deleted only on the index at which it was read after every process of the node had been
//! ended, and when none was there after it was read either. Whatever fails or is not certain ends the failover, and the node is only started again.
//! **Caveats.** May be dropped, and may stand still for any time, between any two steps and within each of them.

use std::{
    fmt, io,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use shared::store::{Index, StoreError};
use tokio::time::timeout;

use super::verdict::{Reason, Verdict};
use crate::cell::evidence::Unreadable;

/// How often the keys may change between looking and deleting.
const ROUNDS: usize = 5;
/// How long it may take altogether: longer, and starting the node again is as good.
const BOUND: Duration = Duration::from_secs(6);

/// What a failover does to the world.
pub(super) trait Hands: Sync {
    /// Ends every process that works for the node (step 3); answers whether certainly none is left.
    fn end_processes(&self) -> impl Future<Output = io::Result<bool>> + Send;
    /// Whether certainly none works for it.
    fn nothing_works(&self) -> impl Future<Output = io::Result<bool>> + Send;
    /// Reads what a verdict depends on, and judges (step 4).
    fn judge(&self) -> impl Future<Output = Result<Verdict, Unreadable>> + Send;
    /// Remembers that the node's place is given up now.
    fn remember(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// Deletes the leader key, which names the node, if it is at this index still (step 5).
    fn give_up(&self, index: Index) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// How a failover ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The leader key is gone: replicas take over.
    GivenUp,
    /// etcd was told to delete the key, and whether it has done so, or will, is not known. It does so only while the key is
    /// at the index that was read.
    Unclear(Cause),
    /// The node is only started again.
    Left(Cause),
}

/// Why the node is only started again.
#[derive(Debug)]
pub(super) enum Cause {
    /// The verdict says so.
    Verdict(Reason),
    /// Its processes have not certainly ended.
    Uncertain,
    /// The process table or the disk does not do what it should.
    System(io::Error),
    /// etcd cannot be read.
    Unreadable(Unreadable),
    /// etcd does not delete the key, or it is gone.
    Store(StoreError),
    /// The key changes all the time.
    Restless,
    /// It takes too long.
    Slow,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(reason) => reason.fmt(f),
            Self::Uncertain => f.write_str("it is not certain that all its processes have ended"),
            Self::System(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Restless => f.write_str("the leader key changes all the time"),
            Self::Slow => f.write_str("giving its place up takes too long"),
        }
    }
}

impl Outcome {
    /// Whether another try may come to another end: nothing was judged, since something was out of reach.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unclear(_)
                | Self::Left(
                    Cause::Unreadable(_) | Cause::Slow | Cause::Store(StoreError::Unavailable { .. })
                )
        )
    }
}

/// Carries a failover out, from step 3 on.
pub(super) async fn carry_out(hands: &impl Hands) -> Outcome {
    let unclear = AtomicBool::new(false);
    match timeout(BOUND, take(hands, &unclear))
        .await
        .unwrap_or(Err(Cause::Slow))
    {
        Ok(()) => Outcome::GivenUp,
        Err(cause) if unclear.into_inner() => Outcome::Unclear(cause),
        Err(cause) => Outcome::Left(cause),
    }
}

/// `unclear`: whether a delete was asked for of which the end is not known.
async fn take(hands: &impl Hands, unclear: &AtomicBool) -> Result<(), Cause> {
    certain(hands.end_processes().await)?;
    for _ in 0..ROUNDS {
        let index = match hands.judge().await.map_err(Cause::Unreadable)? {
            Verdict::Promote(index) => index,
            Verdict::Restart(reason) => return Err(Cause::Verdict(reason)),
        };
        // After the key was read: whoever has started the node again since step 3, and renewed the key, is seen here; who
        // starts it from now on renews the key, which is not at this index then.
        certain(hands.nothing_works().await)?;
        hands.remember().await.map_err(Cause::System)?;
        let before = unclear.swap(true, SeqCst);
        let answer = hands.give_up(index).await;
        if !matches!(answer, Err(StoreError::Ambiguous { .. })) {
            unclear.store(before, SeqCst);
        }
        match answer {
            Ok(()) => return Ok(()),
            // The key was written meanwhile, perhaps by a last word of the dead Patroni that was still under way; or nobody
            // knows, and the next look tells whether it is there still.
            Err(StoreError::Conflict { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(Cause::Store(error)),
        }
    }
    Err(Cause::Restless)
}

fn certain(ended: io::Result<bool>) -> Result<(), Cause> {
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => Err(Cause::Uncertain),
        Err(error) => Err(Cause::System(error)),
    }
}
