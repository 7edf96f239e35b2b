//! `GET /v2/service_instances/:id/last_operation`: how far it is (osb-reference.md, 8). Asking moves it on.

use super::operation_name;
use crate::{
    advance::advance,
    broker::Broker,
    error::Error,
    ids::InstanceId,
    keyspace,
    record::{AfterFailure, Operation, OperationKind, OperationState, Record, State, Tombstone},
    store::Read,
};

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOperation {
    /// How far it is.
    pub state: OperationState,
    /// In words.
    pub description: String,
    /// After a failure of anything but a provision: whether the instance can still be used, and whether the same update
    /// may be asked for again (osb-reference.md, 1).
    pub after_failure: Option<AfterFailure>,
}

impl From<Operation> for LastOperation {
    fn from(operation: Operation) -> Self {
        Self {
            state: operation.state,
            after_failure: operation.after_failure(),
            description: operation.description,
        }
    }
}

/// Moves an instance on and says how far its latest operation is. `asked_for` is what the client sent as `operation`.
///
/// # Errors
/// `NotFound` when there is no such instance and nothing is remembered of one; `Gone` instead if the client asks for a
/// deprovision. A client that asks for another operation of an instance that was taken away meanwhile is told that it failed.
pub async fn last_operation(
    broker: &Broker,
    id: &InstanceId,
    asked_for: Option<&str>,
) -> Result<LastOperation, Error> {
    let pass = advance(broker, id).await?;
    if let Some(pass) = pass.filter(|pass| !pass.is_gone()) {
        let operation = asked_about(&pass.record, asked_for).cloned();
        return operation
            .map(LastOperation::from)
            .ok_or_else(|| Error::NotFound("nothing was ever done to it".to_owned()));
    }
    if let Some(entry) = broker.store.get(&keyspace::tombstone(id), Read::Quorum).await?
        && let Ok(tombstone) = serde_json::from_str::<Tombstone>(&entry.value)
    {
        let is_deprovision = tombstone.operation.kind == OperationKind::Deprovision;
        return Ok(match asked_for {
            // The end of a deprovision must not look like that of the operation which it halted.
            Some(other) if is_deprovision && names_another(other) => halted(other),
            _ => tombstone.operation.into(),
        });
    }
    let text = "there is no such instance".to_owned();
    match asked_for {
        Some(operation) if operation.starts_with("deprovision") => Err(Error::Gone(text)),
        _ => Err(Error::NotFound(text)),
    }
}

/// The operation that the client means: the one that it names. Who names none is told of the latest, and so is who asks while
/// the instance is removed (osb-reference.md, 7: polls show the delete); who names one that is not
/// known any more, of the latest that platforms have asked for. What became of an operator's command is not the end of it.
fn asked_about<'r>(record: &'r Record, asked_for: Option<&str>) -> Option<&'r Operation> {
    let Some(name) = asked_for.filter(|_| record.state == State::Active) else {
        return record.latest_operation();
    };
    let named = record.operations().find(|known| operation_name(known) == name);
    let requested = || record.operations().find(|known| known.kind.is_requested());
    named.or_else(requested).or_else(|| record.latest_operation())
}

fn names_another(operation: &str) -> bool {
    [OperationKind::Provision, OperationKind::Update]
        .iter()
        .any(|kind| operation.starts_with(kind.as_str()))
}

/// What became of a provision or an update whose instance is gone.
fn halted(operation: &str) -> LastOperation {
    let is_update = operation.starts_with(OperationKind::Update.as_str());
    LastOperation {
        state: OperationState::Failed,
        description: "the instance was deprovisioned".to_owned(),
        after_failure: is_update.then_some(AfterFailure {
            instance_usable: false,
            update_repeatable: Some(false),
        }),
    }
}
