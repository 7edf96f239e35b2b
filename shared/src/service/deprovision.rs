//! `DELETE /v2/service_instances/:id`: takes an instance away (osb-reference.md, 7). It may come at any time.

use jiff::Timestamp;

use super::{Patience, TOO_OLD, TRIES, begin, mark, mark_if_late, operation_name, push, wait};
use crate::{
    act,
    advance::{Current, advance_from, read_record},
    broker::Broker,
    error::Error,
    ids::{Incarnation, InstanceId},
    keyspace,
    marker::{FENCE_TTL, Marker},
    record::{Operation, OperationKind, OperationState, Phase, Record, State},
    store::{Read, StoreError},
    transition,
};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Deprovision {
    /// The instance to take away.
    pub instance: InstanceId,
    /// How the client takes the end.
    pub patience: Patience,
    /// Who asks.
    pub originating_identity: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deprovisioned {
    /// It is gone.
    Done,
    /// It is being taken away.
    Accepted {
        /// The operation to poll for.
        operation: String,
    },
}

/// Takes an instance away, or joins whoever does.
///
/// # Errors
/// `Gone` when there is no such instance, `Concurrency` when one came to be while the request was under way, and what [`Error`] says of the store and of waiting.
pub async fn deprovision(broker: &Broker, command: &Deprovision) -> Result<Deprovisioned, Error> {
    command.patience.check()?;
    let began = broker.clock.now();
    let mut meant = None;
    // The instance may be moving while it is being deprovisioned.
    for _ in 0..TRIES {
        let Some(current) = read_record(broker, &command.instance).await? else {
            // Whoever shared the marker that is gone takes back what it writes from now on.
            let found = match meant {
                Some(Meant::Coming(Some(_))) => Found::Nothing,
                None | Some(Meant::Seen(_) | Meant::Coming(None)) => {
                    withdraw(broker, &command.instance, began).await?
                }
            };
            match found {
                Found::Nothing => return Err(Error::Gone("there is no such instance".to_owned())),
                Found::Announced(life) => meant = meant.or(Some(Meant::Coming(Some(life)))),
                Found::Moving => meant = meant.or(Some(Meant::Coming(None))),
            }
            continue;
        };
        match *meant.get_or_insert(Meant::Seen(current.record.incarnation)) {
            // A handler that stood still for long may find another life of the instance: that one nobody asked to end.
            Meant::Seen(seen) if seen != current.record.incarnation => return Ok(Deprovisioned::Done),
            Meant::Coming(announced) => {
                let age = broker.clock.now().duration_since(began);
                if age > TOO_OLD || !is_being_made(&current.record, announced) {
                    return Err(another());
                }
            }
            Meant::Seen(_) => {}
        }
        if let Some(operation) = under_way(&current.record) {
            if command.patience == Patience::Polls && push(broker, &command.instance, &operation).await? {
                return Ok(Deprovisioned::Done);
            }
            return finish(broker, command, &operation).await;
        }
        let identity = command.originating_identity.clone();
        let description = format!("removing nodes: 0 of {} gone", current.record.nodes.len());
        let operation = begin(
            broker,
            OperationKind::Deprovision,
            &current.record.request,
            description,
            identity,
        );
        let next = deleting(current.record.clone(), operation.clone());
        mark(broker, &command.instance, next.incarnation, &operation).await?;
        let key = keyspace::record(&command.instance);
        match broker
            .store
            .compare_and_swap(&key, &next.to_json(), current.index, None)
            .await
        {
            Ok(index) => {
                transition::log(Some(&current.record), &next, broker.clock.now());
                mark_if_late(broker, &command.instance, next.incarnation, &operation).await?;
                let pass = advance_from(broker, Current { record: next, index }).await?;
                if pass.is_gone() {
                    return Ok(Deprovisioned::Done);
                }
                return finish(broker, command, &operation).await;
            }
            // It moved; or our write came through, and is found as under way.
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Concurrency(
        "the instance changes faster than it can be deprovisioned; try again".to_owned(),
    ))
}

/// Which life of the instance is to end.
#[derive(Debug, Clone, Copy)]
enum Meant {
    /// The one whose record this request has read first.
    Seen(Incarnation),
    /// There was no record. The one that the marker announced which this request has taken away, or that came while it
    /// looked: it may go no further than being made, for whoever was told that it is there has not asked for its end.
    Coming(Option<Incarnation>),
}

/// What there is of an instance that has no record.
enum Found {
    /// Nothing, and whoever asked for one before stands back from now on.
    Nothing,
    /// This life was announced, and is not any more.
    Announced(Incarnation),
    /// Somebody else has just written there.
    Moving,
}

/// Takes back what announces a provision whose record is not written yet: its handler may stand still, and when it goes on
/// nobody would ask for the instance any more. The record has to be looked for again then, since it may have been written
/// before the marker went.
///
/// Others may stand still before they announce themselves. So a fence takes the place of what was there, and says until its
/// time is over when this deprovision `began`: provisions that began before it make nothing, later ones write over it. Should
/// one of those come to nothing within that minute, an earlier one is not kept back any more.
async fn withdraw(broker: &Broker, id: &InstanceId, began: Timestamp) -> Result<Found, Error> {
    let (store, key) = (&*broker.store, keyspace::operation(id));
    let entry = store.get(&key, Read::Quorum).await?;
    let marker = entry.as_ref().and_then(|entry| Marker::parse(&entry.value));
    let now = broker.clock.now();
    let is_later_fence = |marker: &Marker| {
        marker.kind == OperationKind::Deprovision && marker.since >= began && !marker.is_stale(now)
    };
    if marker.as_ref().is_some_and(is_later_fence) {
        return Ok(Found::Nothing);
    }
    let fence = act::fence(broker, began);
    let (value, ttl) = (fence.to_json(), Some(FENCE_TTL));
    if entry.is_some() {
        // It may be of a deprovision that died at its very end, and lead reconcile to what that has left. A fence does not:
        // it goes by itself.
        act::remove_directories(store, id).await?;
    }
    let written = match &entry {
        Some(entry) => store.compare_and_swap(&key, &value, entry.index, ttl).await,
        None => store.create(&key, &value, ttl).await,
    };
    match written {
        Ok(_) => Ok(marker
            .filter(|marker| marker.kind == OperationKind::Provision)
            .map_or(Found::Nothing, |marker| Found::Announced(marker.incarnation))),
        Err(StoreError::Missing { .. } | StoreError::Conflict { .. }) => Ok(Found::Moving),
        Err(error) => Err(error.into()),
    }
}

/// Whether this is that life, and no client has been told that it is there. Simultaneous provisions share a marker: then
/// the life may be another than it announced.
fn is_being_made(record: &Record, announced: Option<Incarnation>) -> bool {
    let is_provision = |operation: &Operation| operation.kind == OperationKind::Provision;
    let goes_on = record.state == State::Deleting || record.operation.as_ref().is_some_and(is_provision);
    announced.is_none_or(|announced| record.incarnation == announced) && goes_on
}

fn another() -> Error {
    Error::Concurrency("another request about this instance is under way; send it again".to_owned())
}

fn under_way(record: &Record) -> Option<Operation> {
    record
        .operation
        .clone()
        .filter(|_| record.state == State::Deleting)
}

/// The record from which there is no way back. An operation that was under way has failed.
fn deleting(record: Record, operation: Operation) -> Record {
    let mut next = Record {
        state: State::Deleting,
        retired_earlier: record.retired.len(),
        ..record
    };
    if let Some(halted) = next.operation.take() {
        let description = "halted by a deprovision".to_owned();
        let ended = Some(operation.started);
        next.last_operation = Some(Operation {
            state: OperationState::Failed,
            description,
            ended,
            ..halted
        });
    }
    for node in next.nodes.values_mut() {
        node.phase = Phase::Leaving;
    }
    next.operation = Some(operation);
    next
}

async fn finish(
    broker: &Broker,
    command: &Deprovision,
    operation: &Operation,
) -> Result<Deprovisioned, Error> {
    if command.patience == Patience::Polls {
        return Ok(Deprovisioned::Accepted {
            operation: operation_name(operation),
        });
    }
    match wait::until_ended(broker, &command.instance, operation).await? {
        wait::Ended::Well => Ok(Deprovisioned::Done),
        wait::Ended::Badly(operation) => Err(operation.into()),
    }
}
