//! An operator's command: gives the nodes of an instance, and the broker itself, other passwords, of the master key that is
//! the first one.

use super::{begin, mark, mark_if_late};
use crate::{
    advance::{Current, advance_from, read_cluster, read_record},
    binding::Binding,
    broker::Broker,
    decide::{credentials, describe, recreation},
    error::Error,
    ids::{BindingId, InstanceId},
    keyspace,
    record::{Operation, OperationKind, OperationState, Record, State},
    store::{Child, Read, StoreError},
    transition,
};

/// How often a lost compare-and-swap is tried again.
const TRIES: usize = 5;

/// Whether an instance's own passwords are all of the first master key.
#[must_use]
pub fn is_current(broker: &Broker, record: &Record) -> bool {
    record.master_key == broker.settings.master_keys.active() && record.former_credentials.is_none()
}

/// Begins to change the passwords of an instance, or joins whoever does; answers the operation, which anybody carries on as
/// any other. A change that was given up is gone on with; no other one begins before it is complete.
///
/// # Errors
/// `NotFound`, `Concurrency`, `Unprocessable`, and 500 and 503 of [`Error`]; then nothing was changed.
pub async fn rotate(broker: &Broker, id: &InstanceId) -> Result<Operation, Error> {
    let mut meant = None;
    for _ in 0..TRIES {
        let Some(Current { record, index }) = read_record(broker, id).await? else {
            return Err(Error::NotFound("there is no such instance".to_owned()));
        };
        if *meant.get_or_insert(record.incarnation) != record.incarnation {
            return Err(Error::Concurrency(
                "the instance was taken away and made again meanwhile".to_owned(),
            ));
        }
        if let Some(operation) = under_way(&record)? {
            // As any request does: were nobody else there, it would still end.
            advance_from(broker, Current { record, index }).await?;
            return Ok(operation);
        }
        let (next, operation) = next(broker, record.clone()).await?;
        mark(broker, id, next.incarnation, &operation).await?;
        let written = broker
            .store
            .compare_and_swap(&keyspace::record(id), &next.to_json(), index, None)
            .await;
        match written {
            Ok(index) => {
                transition::log(Some(&record), &next, broker.clock.now());
                mark_if_late(broker, id, next.incarnation, &operation).await?;
                // It is accepted now; the first steps are taken by the next pass if they cannot be taken by this one.
                if let Err(error) = advance_from(broker, Current { record: next, index }).await {
                    tracing::warn!(instance = %id, %error, "the first steps of changing passwords were not taken");
                }
                return Ok(operation);
            }
            // It moved; or our write came through, and is found as under way.
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Concurrency(
        "other requests about this instance are under way; try again".to_owned(),
    ))
}

/// The operation to join.
fn under_way(record: &Record) -> Result<Option<Operation>, Error> {
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    match &record.operation {
        Some(operation) if operation.kind == OperationKind::Rotate => Ok(Some(operation.clone())),
        Some(operation) => Err(Error::Concurrency(format!(
            "the instance is busy with its {}: {}",
            operation.kind.as_str(),
            operation.description
        ))),
        None => Ok(None),
    }
}

/// The record that begins it, and the operation in it.
async fn next(broker: &Broker, record: Record) -> Result<(Record, Operation), Error> {
    if recreation::was_given_up(&record) {
        return Err(Error::Unprocessable(recreation::GIVEN_UP.to_owned()));
    }
    let never_made = record
        .last_operation
        .as_ref()
        .is_some_and(|last| last.kind == OperationKind::Provision && last.state == OperationState::Failed);
    if never_made || !record.bootstrapped {
        return Err(Error::Unprocessable(
            "the instance was never made completely; delete it".to_owned(),
        ));
    }
    // Whoever cannot log in now could not change anything.
    if broker.public_door(&record)?.is_none() {
        return Err(Error::Unprocessable("the instance has no public port".to_owned()));
    }
    let cluster = read_cluster(broker, &record.instance_id).await?;
    let operation = begin(
        broker,
        OperationKind::Rotate,
        &record.request,
        describe::cluster(&record, &cluster),
        None,
    );
    let mut next = match record.former_credentials {
        Some(_) => record,
        None => credentials::rotated(record, broker.settings.master_keys.active()),
    };
    next.operation = Some(operation.clone());
    Ok((next, operation))
}

/// The bindings of an instance whose passwords depend on another master key than the first, each with that key's id. They do so
/// until they are unbound, for only their users can take other passwords over.
///
/// # Errors
/// When etcd cannot be read.
pub async fn bindings_of_other_keys(
    broker: &Broker,
    id: &InstanceId,
) -> Result<Vec<(BindingId, String)>, Error> {
    let listed = broker.store.list(&keyspace::bindings(id), Read::Quorum).await?;
    let bindings = listed.unwrap_or_default().into_iter();
    let bindings = bindings.filter_map(|(name, child)| match child {
        Child::Leaf(entry) => Some((name.parse().ok()?, Binding::parse(&entry.value).ok()?.master_key)),
        Child::Directory => None,
    });
    let active = broker.settings.master_keys.active();
    Ok(bindings.filter(|(_, key)| key != active).collect())
}
