//! The marker of an operation under way, at `/operations/<id>`: how reconcile finds instances that nobody polls.
//!
//! **Guarantees.** It is written before the record that it announces, so that no operation is ever without one for longer
//! than it takes to notice a marker that says nothing true. A deprovision leaves one behind, a fence, for [`FENCE_TTL`], also
//! one that finds no instance: a provision that stood still before it announced itself sees that its time is over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    ids::{Incarnation, OperationId},
    record::{Operation, OperationKind},
};

/// How long a marker may announce an operation that no record knows: its handler may be between the two writes.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How long a fence stands: twice as long as it is of use, for requests that began before it are too old by then. Reconcile takes
/// it away between, and looks once more for what has come late; without reconcile it goes by itself.
pub const FENCE_TTL: Duration = Duration::from_secs(120);

/// How long an operation is left to the handler that accepted it. That one alone knows whether anything came of its first
/// steps, and may take the operation back and say so. A cell whose machine is gone costs it two seconds.
const HEAD_START: SignedDuration = SignedDuration::from_secs(4);

/// Two requests that come within so long may be taken in any order.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(1);

/// The value of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which life of the instance id.
    pub incarnation: Incarnation,
    /// The operation that it announces.
    pub operation: OperationId,
    /// What that operation does.
    pub kind: OperationKind,
    /// When it was written.
    pub since: Timestamp,
}

impl Marker {
    /// The marker of an operation in this life of its instance.
    #[must_use]
    pub fn of(incarnation: Incarnation, operation: &Operation) -> Self {
        Self {
            incarnation,
            operation: operation.id,
            kind: operation.kind,
            since: operation.started,
        }
    }

    /// The fence of a deprovision that was asked for `since` then: of no life, so that nobody takes it for their own.
    #[must_use]
    pub fn fence(life: Uuid, operation: Uuid, since: Timestamp) -> Self {
        Self {
            incarnation: Incarnation::from(life),
            operation: OperationId::from(operation),
            kind: OperationKind::Deprovision,
            since,
        }
    }

    /// Reads a marker as it stands in etcd; `None` for anything else.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }

    /// The marker as it is written to etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts only: serde_json cannot fail on them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether its handler is likely to be at its first steps still. With a clock that is behind it is not waited for.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        (SignedDuration::ZERO..HEAD_START).contains(&now.duration_since(self.since))
    }

    /// Whether it is that of a deprovision that came after a request which began then: nobody asks for what that one makes.
    /// Requests that come within the same second are simultaneous, and clocks may differ by as much.
    #[must_use]
    pub fn ends_what_began(&self, began: Timestamp) -> bool {
        self.kind == OperationKind::Deprovision && self.since.duration_since(began) > AT_ONCE
    }

    /// Whether its handler has had time enough to write the record. One from far ahead was written by a clock that is
    /// wrong: it is not waited for until the others are there.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        now.duration_since(self.since).abs() > GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_stale_a_minute_from_now_in_both_directions() {
        let now = Timestamp::UNIX_EPOCH;
        let written = |seconds| Marker {
            incarnation: Uuid::from_u128(1).into(),
            operation: Uuid::from_u128(2).into(),
            kind: OperationKind::Deprovision,
            since: now + SignedDuration::from_secs(seconds),
        };
        for seconds in [-60, -1, 0, 1, 60] {
            assert!(!written(seconds).is_stale(now), "{seconds}");
        }
        for seconds in [-61, 61, 3 * 60 * 60] {
            assert!(written(seconds).is_stale(now), "{seconds}");
        }
    }
}
