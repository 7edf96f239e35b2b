//! What operators' commands about one instance share: how their operation begins. From then on it is carried on as any other.

use super::{TRIES, mark, mark_if_late};
use crate::{
    advance::{Current, advance_from, read_record},
    broker::Broker,
    error::Error,
    ids::InstanceId,
    keyspace,
    record::{Operation, OperationKind, OperationState, Record, State},
    store::StoreError,
    transition,
};

/// Begins an operation, or joins one of the same kind; answers it. `next` makes the record in which it has begun.
///
/// # Errors
/// `NotFound`, `Concurrency` and those of `next`; then nothing was changed. 503 of [`Error`]: it may have begun, and the same
/// command joins it then.
pub(super) async fn begin_or_join(
    broker: &Broker,
    id: &InstanceId,
    kind: OperationKind,
    next: impl AsyncFn(Record) -> Result<(Record, Operation), Error>,
) -> Result<Operation, Error> {
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
        if let Some(operation) = under_way(&record, kind)? {
            // As any request does: were nobody else there, it would still end.
            move_on(broker, Current { record, index }, kind).await;
            return Ok(operation);
        }
        let (next, operation) = next(record.clone()).await?;
        let next = Record {
            last_requested: record.last_requested().cloned(),
            ..next
        };
        mark(broker, id, next.incarnation, &operation).await?;
        let written = broker
            .store
            .compare_and_swap(&keyspace::record(id), &next.to_json(), index, None)
            .await;
        match written {
            Ok(index) => {
                transition::log(Some(&record), &next, broker.clock.now());
                mark_if_late(broker, id, next.incarnation, &operation).await?;
                move_on(broker, Current { record: next, index }, kind).await;
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

/// What was accepted goes on by the next pass if it cannot by this one.
async fn move_on(broker: &Broker, current: Current, kind: OperationKind) {
    let id = current.record.instance_id.clone();
    if let Err(error) = advance_from(broker, current).await {
        tracing::warn!(instance = %id, %error, "the {} could not be moved on", kind.as_str());
    }
}

/// The operation to join.
fn under_way(record: &Record, kind: OperationKind) -> Result<Option<Operation>, Error> {
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    match &record.operation {
        Some(operation) if operation.kind == kind => Ok(Some(operation.clone())),
        Some(operation) => Err(Error::Concurrency(format!(
            "the instance is busy with its {}: {}",
            operation.kind.as_str(),
            operation.description
        ))),
        None => Ok(None),
    }
}

/// Only what was made once can be changed.
pub(super) fn check_made(record: &Record) -> Result<(), Error> {
    let never_made = record
        .last_operation
        .as_ref()
        .is_some_and(|last| last.kind == OperationKind::Provision && last.state == OperationState::Failed);
    if never_made {
        return Err(Error::Unprocessable(
            "the instance was never made completely; delete it".to_owned(),
        ));
    }
    Ok(())
}
