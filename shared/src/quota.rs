//! Quotas: how many instances may have a plan at once.
//!
//! **Guarantees.** Every instance of a plan with a quota has a reservation, written before the record says that it has the
//! plan. A reservation is written once, so the order of their indexes is that of their arrival; one that as many others
//! have come before as the plan allows is taken back. So of many requests at once exactly as many are let in as there is
//! room for, and never more. The key names a life of the instance: no life uses the reservation of another, or removes it.
//! **Assumes.** Whoever removes a reservation knows that nobody can rely on it any more: that the record of this life does
//! not have the plan, was written later than the reservation, or cannot come ([`crate::reconcile`]).
//! **Caveats.** When a plan gets its quota after its first instances, reconcile writes their reservations, however many they
//! are; until it has come round, fewer are counted than there are. A request for a plan with a quota costs two requests to etcd,
//! and reads as many reservations as there are instances of the plan.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    broker::Broker,
    catalog::{Plan, Quota},
    error::Error,
    ids::{Incarnation, InstanceId, OperationId, PlanId},
    keyspace,
    ports::gone_or_other,
    record::Record,
    store::{Child, Index, Read, StoreError},
};

/// How long a reservation may be there before the request announces itself that it was made for. Requests that are as old
/// as half of it are refused.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// The value of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Whose it is.
    pub instance_id: InstanceId,
    /// Random, or the operation that it was made for: tells the reservations of several requests apart.
    pub operation: OperationId,
    /// When it was made.
    pub since: Timestamp,
}

impl Reservation {
    /// Reads a reservation as it stands in etcd; `None` for anything else.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }

    /// The reservation as it is written to etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts only: serde_json cannot fail on them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the request that made it has had time enough to announce itself. One from far ahead was written by a clock
    /// that is wrong.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        now.duration_since(self.since).abs() > GRACE
    }
}

/// A reservation that was just made, for a record that is still to be written.
#[derive(Debug)]
#[must_use = "it is to be kept, or given back"]
pub struct Reserved {
    key: String,
    index: Index,
}

/// Makes a reservation for a life of an instance that is to get a plan. `None`: the plan has no quota.
///
/// # Errors
/// `Unprocessable` when the plan has as many instances as it may have, `Concurrency` when another request makes one for the
/// same life; when etcd cannot be read or written. Then there is none, unless an answer of etcd was lost.
pub async fn reserve(
    broker: &Broker,
    plan: &Plan,
    instance: &InstanceId,
    life: Incarnation,
    operation: OperationId,
) -> Result<Option<Reserved>, Error> {
    let Some(quota) = &plan.quota else { return Ok(None) };
    let store = &*broker.store;
    let key = keyspace::reservation(&quota.plan, life);
    let reservation = Reservation {
        instance_id: instance.clone(),
        operation,
        since: broker.clock.now(),
    };
    let value = reservation.to_json();
    let (written, lost) = match store.create(&key, &value, None).await {
        Ok(index) => (Some(index), None),
        Err(StoreError::Conflict { .. }) => (None, None),
        Err(lost @ StoreError::Ambiguous { .. }) => (None, Some(lost)),
        Err(error) => return Err(error.into()),
    };
    let all = match store.list(&keyspace::quota(&quota.plan), Read::Quorum).await {
        Ok(all) => all.unwrap_or_default(),
        Err(error) => {
            give_back(broker, written.map(|index| Reserved { key, index })).await;
            return Err(error.into());
        }
    };
    let index = match all.get(keyspace::last_segment(&key)) {
        Some(Child::Leaf(entry)) if entry.value == value => entry.index,
        // The lost write may still come: reconcile finds it then.
        _ => {
            return Err(lost.map_or_else(
                || {
                    Error::Concurrency(
                        "another request about this instance is under way; send it again".to_owned(),
                    )
                },
                Error::from,
            ));
        }
    };
    let reserved = Reserved { key, index };
    let earlier = all.iter().filter_map(|(name, child)| match child {
        Child::Leaf(entry) if entry.index < index => Some((name.as_str(), entry.value.as_str())),
        Child::Leaf(_) | Child::Directory => None,
    });
    if is_full(quota, instance, earlier) {
        give_back(broker, Some(reserved)).await;
        return Err(Error::Unprocessable(format!(
            "the plan '{}' has as many instances as it may have (quota: {}): delete one, or choose another plan",
            plan.name, quota.max
        )));
    }
    Ok(Some(reserved))
}

/// Whether as many others have reservations, by key and value, as the plan allows. An instance may have several for a moment,
/// of two lives or of requests that race; it counts once, and never against itself. What cannot be read is somebody's.
fn is_full<'e>(
    quota: &Quota,
    instance: &InstanceId,
    earlier: impl Iterator<Item = (&'e str, &'e str)>,
) -> bool {
    let others: BTreeSet<String> = earlier
        .map(|(name, value)| {
            Reservation::parse(value).map_or_else(|| format!("/{name}"), |it| it.instance_id.into())
        })
        .filter(|other| other != instance.as_str())
        .collect();
    u32::try_from(others.len()).unwrap_or(u32::MAX) >= quota.max
}

/// Takes a reservation back, if there was one to make, whose record was certainly not written.
pub async fn give_back(broker: &Broker, reserved: Option<Reserved>) {
    let Some(Reserved { key, index }) = reserved else {
        return;
    };
    let given_back = gone_or_other(broker.store.compare_and_delete(&key, index).await);
    if let Err(error) = given_back {
        tracing::warn!(key, %error, "a reservation was not given back; reconcile does it");
    }
}

/// Takes away what a life of an instance has of a plan that it does not have any more, if it is older than the record that
/// says so: a later one is of a request for that plan which has seen that record. `None`: whatever there is, for the life
/// is over.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn release(
    broker: &Broker,
    record: &Record,
    plan: &str,
    older_than: Option<Index>,
) -> Result<(), StoreError> {
    let Some(quota) = broker.settings.catalog.quota(&record.request.service_id, plan) else {
        return Ok(());
    };
    let store = &*broker.store;
    let key = keyspace::reservation(&quota.plan, record.incarnation);
    match store.get(&key, Read::Quorum).await? {
        Some(entry) if older_than.is_none_or(|than| entry.index < than) => {
            gone_or_other(store.compare_and_delete(&key, entry.index).await)
        }
        Some(_) | None => Ok(()),
    }
}

/// Writes a reservation that an instance lacks, however many there are: it has the plan. Answers its index; `None`: there is
/// one.
///
/// # Errors
/// When etcd cannot be written.
pub async fn restore(broker: &Broker, record: &Record, plan: &PlanId) -> Result<Option<Index>, StoreError> {
    let reservation = Reservation {
        instance_id: record.instance_id.clone(),
        operation: OperationId::from(broker.clock.random()),
        since: broker.clock.now(),
    };
    let key = keyspace::reservation(plan, record.incarnation);
    match broker.store.create(&key, &reservation.to_json(), None).await {
        Ok(index) => Ok(Some(index)),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_instance_counts_once() {
        let quota = |max| Quota {
            plan: "p".parse().unwrap(),
            max,
        };
        let of = |instance: &str| Reservation {
            instance_id: instance.parse().unwrap(),
            operation: OperationId::from(uuid::Uuid::from_u128(1)),
            since: Timestamp::UNIX_EPOCH,
        };
        let [own, one, two] = ["own", "one", "two"].map(|instance| of(instance).to_json());
        let full = |max, earlier: &[(&str, &String)]| {
            let earlier = earlier.iter().map(|(name, value)| (*name, value.as_str()));
            is_full(&quota(max), &"own".parse().unwrap(), earlier)
        };
        assert!(!full(1, &[]));
        assert!(full(1, &[("a", &one)]));
        assert!(!full(1, &[("a", &own), ("b", &own)]));
        assert!(!full(2, &[("a", &one), ("b", &one), ("c", &own)]));
        assert!(full(2, &[("a", &one), ("b", &two)]));
        // Whose it is cannot be read: it may be anybody's.
        let strange = "?".to_owned();
        assert!(full(2, &[("a", &strange), ("b", &strange)]));
    }

    #[test]
    fn a_reservation_is_stale_a_minute_from_now_in_both_directions() {
        let now = Timestamp::UNIX_EPOCH;
        let made = |seconds| Reservation {
            instance_id: "i".parse().unwrap(),
            operation: OperationId::from(uuid::Uuid::from_u128(1)),
            since: now + SignedDuration::from_secs(seconds),
        };
        for (seconds, is_stale) in [(-61, true), (-60, false), (0, false), (60, false), (61, true)] {
            assert_eq!(made(seconds).is_stale(now), is_stale, "{seconds}");
        }
    }
}
