//! `GET /v2/service_instances/:id/service_bindings/:id/last_operation` (osb-reference.md, 12).
//!
//! Binds and unbinds end before they are answered, so that no platform needs to ask. Whoever does is told what is there. What
//! was left half done has failed once the request that began it must be over: nobody goes on with it but the same request.

use super::bind::read_both;
use crate::{
    binding::BindingState,
    broker::Broker,
    error::Error,
    ids::{BindingId, InstanceId},
    record::OperationState,
};

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBindingOperation {
    /// How far it is.
    pub state: OperationState,
    /// In words.
    pub description: &'static str,
}

/// Says how far a binding is. `asked_for` is what the client sent as `operation`.
///
/// # Errors
/// `NotFound` when there is no such binding; `Gone` instead if the client asks for an unbind.
pub async fn last_binding_operation(
    broker: &Broker,
    instance: &InstanceId,
    id: &BindingId,
    asked_for: Option<&str>,
) -> Result<LastBindingOperation, Error> {
    let (current, entry) = read_both(broker, instance, id).await?;
    let binding = entry.map(|(binding, _)| binding).filter(|binding| {
        current.is_some_and(|current| current.record.incarnation == binding.instance_incarnation)
    });
    let Some(binding) = binding else {
        let text = "there is no such binding".to_owned();
        return Err(match asked_for {
            Some(operation) if operation.starts_with("unbind") => Error::Gone(text),
            _ => Error::NotFound(text),
        });
    };
    let is_abandoned = binding.is_abandoned(broker.clock.now());
    let (state, description) = match binding.state {
        BindingState::Ready => (OperationState::Succeeded, "the binding can be used"),
        BindingState::Creating if is_abandoned => (
            OperationState::Failed,
            "the binding was not made; send the same request again, or unbind",
        ),
        BindingState::Deleting if is_abandoned => (
            OperationState::Failed,
            "the binding was not removed, and its login may still work; unbind again",
        ),
        BindingState::Creating => (
            OperationState::InProgress,
            "the binding is being made; the same request again goes on with it",
        ),
        BindingState::Deleting => (
            OperationState::InProgress,
            "the binding is being removed; the same request again goes on with it",
        ),
    };
    Ok(LastBindingOperation { state, description })
}
