//! Whether etcd was away a short while ago.
//!
//! While etcd is away, leaders cannot renew their keys, and etcd counts on: the first thing that it does when it is back may
//! be to let them expire, although the leaders run (Patroni's failsafe mode is made for that) and will take the key
//! again within a loop. So the absence of a leader key soon after an outage does not mean that the leader is gone.

use std::time::{Duration, Instant};

/// How long leaders are given to show up after an outage: Patroni's default ttl.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Patroni writes something for each member once per loop, which takes 10 s by default. When none of them has written
/// for longer, none of them could. (An etcd process that was frozen looks like this: the connection stays.)
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// What the watch on Patroni's keys tells about etcd itself.
#[derive(Debug, Default)]
pub(super) struct Outage {
    lost: bool,
    heard: Option<Instant>,
    /// Until when an absent leader key does not count.
    grace: Option<Instant>,
}

impl Outage {
    /// etcd cannot be reached.
    pub(super) fn lost(&mut self) {
        self.lost = true;
    }

    /// etcd has reported something.
    pub(super) fn heard(&mut self, now: Instant) {
        let silent = self
            .heard
            .is_some_and(|heard| now.saturating_duration_since(heard) > SILENCE);
        if silent || std::mem::take(&mut self.lost) {
            self.grace = Some(now + GRACE);
        }
        self.lost = false;
        self.heard = Some(now);
    }

    /// Until when the absence of a leader key does not count; `None`: it counts.
    pub(super) fn grace(&self, now: Instant) -> Option<Instant> {
        self.grace.filter(|until| *until > now)
    }
}
