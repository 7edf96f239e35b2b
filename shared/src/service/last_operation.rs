//! `GET /v2/service_instances/:id/last_operation`: how far it is (osb-reference.md, 8). Asking moves it on.

use crate::{
    advance::advance,
    broker::Broker,
    error::Error,
    ids::InstanceId,
    keyspace,
    record::{Operation, OperationKind, OperationState, Tombstone},
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

/// What a failed operation means for the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterFailure {
    /// Whether the instance can still be used.
    pub instance_usable: bool,
    /// Whether the same update may be asked for again; `None` for a deprovision.
    pub update_repeatable: Option<bool>,
}

impl From<Operation> for LastOperation {
    fn from(operation: Operation) -> Self {
        let failed = operation.state == OperationState::Failed;
        let after_failure = match operation.kind {
            // Nodes come and go one by one while the leader goes on, and whatever was reached stays.
            OperationKind::Update => Some(AfterFailure {
                instance_usable: true,
                update_repeatable: Some(true),
            }),
            OperationKind::Deprovision => Some(AfterFailure {
                instance_usable: false,
                update_repeatable: None,
            }),
            OperationKind::Provision => None,
        };
        let (state, description) = (operation.state, operation.description);
        Self {
            state,
            description,
            after_failure: after_failure.filter(|_| failed),
        }
    }
}

/// Moves an instance on and says how far its latest operation is. `asked_for` is what the client sent as `operation`.
///
/// # Errors
/// `NotFound` when there is no such instance and nothing is remembered of one; `Gone` instead if the client asks for a
/// deprovision.
pub async fn last_operation(
    broker: &Broker,
    id: &InstanceId,
    asked_for: Option<&str>,
) -> Result<LastOperation, Error> {
    let pass = advance(broker, id).await?;
    if let Some(pass) = pass.filter(|pass| !pass.is_gone()) {
        let operation = pass.record.latest_operation().cloned();
        return operation
            .map(LastOperation::from)
            .ok_or_else(|| Error::NotFound("nothing was ever done to it".to_owned()));
    }
    if let Some(entry) = broker.store.get(&keyspace::tombstone(id), Read::Quorum).await?
        && let Ok(tombstone) = serde_json::from_str::<Tombstone>(&entry.value)
    {
        return Ok(tombstone.operation.into());
    }
    let text = "there is no such instance".to_owned();
    match asked_for {
        Some(operation) if operation.starts_with("deprovision") => Err(Error::Gone(text)),
        _ => Err(Error::NotFound(text)),
    }
}
