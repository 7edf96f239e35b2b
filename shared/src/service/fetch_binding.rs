//! `GET /v2/service_instances/:id/service_bindings/:id`: a binding with its credentials (osb-reference.md, 10).

use serde_json::{Map, Value};

use super::bind::{Credentials, credentials, read_both};
use crate::{
    binding::BindingState,
    broker::Broker,
    error::Error,
    ids::{BindingId, InstanceId},
    record::State,
};

/// A binding as its platform asked for it.
#[derive(Debug)]
pub struct FetchedBinding {
    /// How to log in.
    pub credentials: Credentials,
    /// Its parameters as they were given.
    pub parameters: Map<String, Value>,
}

/// Reads a binding. PostgreSQL is not asked: what is answered can be used as soon as the cluster can.
///
/// # Errors
/// `NotFound` when there is no such instance or binding, also while the binding is being made or taken away, and while its
/// instance is.
pub async fn fetch_binding(
    broker: &Broker,
    instance: &InstanceId,
    id: &BindingId,
) -> Result<FetchedBinding, Error> {
    let (current, entry) = read_both(broker, instance, id).await?;
    let not_found = |why: &str| Error::NotFound(why.to_owned());
    let (Some(current), Some((binding, _))) = (current, entry) else {
        return Err(not_found("there is no such binding"));
    };
    let record = current.record;
    if binding.instance_incarnation != record.incarnation {
        return Err(not_found("there is no such binding"));
    }
    if record.state == State::Deleting {
        return Err(not_found("the instance is being deprovisioned"));
    }
    match binding.state {
        BindingState::Ready => Ok(FetchedBinding {
            credentials: credentials(broker, (instance, id), &record, &binding)?,
            parameters: binding.request.parameters,
        }),
        BindingState::Creating if binding.is_abandoned(broker.clock.now()) => Err(not_found(
            "the binding was not made; send the same request again, or unbind",
        )),
        BindingState::Creating => Err(not_found("the binding is still being made")),
        BindingState::Deleting => Err(not_found("the binding is being removed")),
    }
}
