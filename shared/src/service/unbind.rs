//! `DELETE /v2/service_instances/:id/service_bindings/:id`: takes the login away (osb-reference.md, 11).
//!
//! **Caveats.** With asynchronous replication, a replica that is cut off meanwhile and takes over later does not know that the
//! login was taken away. PostgreSQL logs in whom it knows: the role is back then, for who has its password.

use tokio::try_join;

use super::TRIES;
use crate::{
    advance::{Current, read_record},
    binding::{Binding, BindingState},
    broker::Broker,
    error::Error,
    ids::{BindingId, InstanceId},
    keyspace,
    ports::gone_or_other,
    record::{Record, State},
    store::{Read, StoreError},
};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Unbind {
    /// Whose binding.
    pub instance: InstanceId,
    /// The binding to take away.
    pub binding: BindingId,
    /// What the request lacks. To a client whose binding is gone it does not matter (osb-reference.md, 1, Check order).
    pub lacks: Option<String>,
    /// Who asks.
    pub originating_identity: Option<String>,
}

/// Takes a binding's login away, ends its sessions and forgets it. Its objects stay.
///
/// # Errors
/// `Gone` when there is no such binding, `BadRequest` when the request lacks something, 503 while PostgreSQL cannot be
/// reached; then the login may still work, and the same request goes on with it.
pub async fn unbind(broker: &Broker, command: &Unbind) -> Result<(), Error> {
    let (instance, binding_id) = (&command.instance, &command.binding);
    let key = keyspace::binding(instance, binding_id);
    let mut meant = None;
    for _ in 0..TRIES {
        let (current, entry) = try_join!(read_record(broker, instance), async {
            Ok(broker.store.get(&key, Read::Quorum).await?)
        })?;
        let (Some(Current { record, .. }), Some(entry)) = (current, entry) else {
            return Err(Error::Gone("there is no such binding".to_owned()));
        };
        if let Some(lacks) = &command.lacks {
            return Err(Error::BadRequest(lacks.clone()));
        }
        let binding = Binding::parse(&entry.value).map_err(|source| Error::Corrupt {
            what: "binding",
            source,
        })?;
        // A handler that stood still for long may find another binding under this id: that one nobody asked to end.
        if *meant.get_or_insert(binding.incarnation) != binding.incarnation {
            return Err(Error::Gone("there is no such binding any more".to_owned()));
        }
        // Written before the role is touched: a bind that is under way sees it and does not answer as if it were usable.
        let mut index = entry.index;
        if binding.state != BindingState::Deleting {
            let deleting = Binding {
                state: BindingState::Deleting,
                deleting_since: Some(broker.clock.now()),
                ..binding.clone()
            };
            match broker
                .store
                .compare_and_swap(&key, &deleting.to_json(), index, None)
                .await
            {
                Ok(written) => index = written,
                Err(
                    StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. },
                ) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        withdraw(broker, &record, &binding, instance, binding_id).await?;
        gone_or_other(broker.store.compare_and_delete(&key, index).await)?;
        tracing::info!(
            %instance, binding = %binding_id, identity = command.originating_identity, "unbound"
        );
        return Ok(());
    }
    Err(Error::Concurrency(
        "another request about this binding is under way".to_owned(),
    ))
}

async fn withdraw(
    broker: &Broker,
    record: &Record,
    binding: &Binding,
    instance: &InstanceId,
    binding_id: &BindingId,
) -> Result<(), Error> {
    // A cluster that is being removed, or an earlier life's, takes its roles with it.
    let lives = record.state == State::Active && binding.instance_incarnation == record.incarnation;
    if lives && let Some(door) = broker.public_door(record)? {
        broker
            .databases
            .withdraw_login(&door, &binding.role(instance, binding_id))
            .await?;
    }
    Ok(())
}
