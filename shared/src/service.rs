//! What the endpoints do, one file each, without a word about HTTP.

pub mod bind;
mod command;
pub mod deprovision;
pub mod fetch_binding;
pub mod fetch_instance;
pub mod last_binding_operation;
pub mod last_operation;
pub mod provision;
pub mod recreate;
pub mod rotate;
pub mod unbind;
pub mod update;
mod wait;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    advance::advance,
    broker::Broker,
    error::Error,
    ids::{Incarnation, InstanceId, OperationId},
    keyspace,
    marker::Marker,
    record::{Operation, OperationKind, OperationState, Request, State},
    store::{Index, Read, StoreError},
};

/// Half the time for which a marker without a record is left alone: whoever takes longer between the two writes its marker
/// again, for it may have been swept.
const LATE: SignedDuration = SignedDuration::from_secs(30);

/// How old a request may be when it claims its instance, or ends one that was not there when it came. Whoever sent an older
/// one has given up, as gateways do after half a minute, and may have been told already that there is no such instance.
const TOO_OLD: SignedDuration = SignedDuration::from_secs(30);

/// How often a write that somebody else was faster with is tried again.
const TRIES: usize = 20;

/// How a client takes the end of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It polls.
    Polls,
    /// It waits for the answer (lenient posture only).
    Waits,
    /// It does not poll, and may not wait.
    Neither,
}

impl Patience {
    /// Refuses a client that cannot take the end of an operation at all.
    fn check(self) -> Result<(), Error> {
        if self == Self::Neither {
            Err(Error::AsyncRequired)
        } else {
            Ok(())
        }
    }
}

/// An operation that begins now.
fn begin(
    broker: &Broker,
    kind: OperationKind,
    request: &Request,
    description: String,
    originating_identity: Option<String>,
) -> Operation {
    let now: Timestamp = broker.clock.now();
    let limit = limit(broker, kind, request);
    Operation {
        id: OperationId::from(broker.clock.random()),
        kind,
        state: OperationState::InProgress,
        description,
        started: now,
        deadline: now + limit,
        ended: None,
        originating_identity,
    }
}

/// How long an operation may take: as configured, and not longer than the platform polls for it.
fn limit(broker: &Broker, kind: OperationKind, request: &Request) -> Duration {
    let configured = match kind {
        OperationKind::Provision | OperationKind::Recreate => broker.settings.provision_deadline,
        OperationKind::Update | OperationKind::Rotate => broker.settings.update_deadline,
        OperationKind::Deprovision => broker.settings.deprovision_deadline,
    };
    let catalog = &broker.settings.catalog;
    let plan = catalog.plan(&request.service_id, &request.plan_id);
    let polled = plan.ok().and_then(|(_, plan)| plan.maximum_polling_duration);
    polled.map_or(configured, |polled| {
        configured.min(Duration::from_secs(polled.into()))
    })
}

/// Announces an operation, before the record says so: were it the other way round, an operation whose handler dies
/// between the two writes could go unnoticed.
async fn mark(
    broker: &Broker,
    id: &InstanceId,
    incarnation: Incarnation,
    operation: &Operation,
) -> Result<(), Error> {
    let marker = Marker::of(incarnation, operation);
    broker
        .store
        .set(&keyspace::operation(id), &marker.to_json(), None)
        .await?;
    Ok(())
}

/// Announces a provision whose record is still to be written; answers the index of the marker, by which
/// [`deprovision`](deprovision::deprovision) may take it back. Requests that come at once share one marker.
///
/// # Errors
/// `Concurrency` when a deprovision has been asked for since the request `began`; when etcd cannot be read or written.
async fn announce(
    broker: &Broker,
    id: &InstanceId,
    marker: &Marker,
    began: Timestamp,
) -> Result<Index, Error> {
    let (store, key) = (&*broker.store, keyspace::operation(id));
    for _ in 0..TRIES {
        match store.create(&key, &marker.to_json(), None).await {
            Ok(index) => return Ok(index),
            Err(StoreError::Conflict { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(there) = store.get(&key, Read::Quorum).await? else {
            continue;
        };
        let is_alike = |other: Marker| {
            other.kind == OperationKind::Provision && marker.since.duration_since(other.since) < LATE
        };
        let other = Marker::parse(&there.value);
        let now = broker.clock.now();
        if other.is_some_and(|other| other.ends_what_began(began) && !other.is_stale(now)) {
            return Err(stood_still());
        }
        if other.is_some_and(is_alike) {
            return Ok(there.index);
        }
        // One that an earlier life has left behind: it may be swept at any moment.
        match store
            .compare_and_swap(&key, &marker.to_json(), there.index, None)
            .await
        {
            Ok(index) => return Ok(index),
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Concurrency(
        "other requests about this instance are under way; try again".to_owned(),
    ))
}

/// The answer to a request that nobody waits for any more. To a client that does, it says what helps.
fn stood_still() -> Error {
    Error::Concurrency(
        "the request stood still, and the instance may have been deprovisioned meanwhile; send it again"
            .to_owned(),
    )
}

/// Announces an operation again whose handler stood still between its marker and its record: meanwhile the marker may have
/// been swept, for nobody knew what it announced.
async fn mark_if_late(
    broker: &Broker,
    id: &InstanceId,
    incarnation: Incarnation,
    operation: &Operation,
) -> Result<(), Error> {
    if broker.clock.now().duration_since(operation.started) > LATE {
        mark(broker, id, incarnation, operation).await?;
    }
    Ok(())
}

/// Moves an operation on that an earlier request has begun: were that request's handler dead, and nobody polled, it would
/// still end. Answers whether it has ended as asked for.
async fn push(broker: &Broker, id: &InstanceId, operation: &Operation) -> Result<bool, Error> {
    let Some(pass) = advance(broker, id).await?.filter(|pass| !pass.is_gone()) else {
        return Ok(operation.kind == OperationKind::Deprovision);
    };
    let last = pass.record.last_operation.as_ref();
    let ended = pass.record.operation.is_none() && pass.record.state == State::Active;
    Ok(ended && last.is_some_and(|last| last.id == operation.id && last.state == OperationState::Succeeded))
}

/// `<kind>-<id>`: the `operation` of answers (osb-reference.md, 2).
fn operation_name(operation: &Operation) -> String {
    format!("{}-{}", operation.kind.as_str(), operation.id)
}
