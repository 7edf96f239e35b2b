//! `PUT /v2/service_instances/:id/service_bindings/:id`: a login of its own for each binding (osb-reference.md, 9).

mod successor;

use secrecy::SecretString;
use tokio::try_join;

use super::TRIES;
use crate::{
    act,
    advance::{Current, read_record},
    binding::{Binding, BindingState, Wanted},
    broker::Broker,
    database::{DATABASE, Login},
    decide::recreation,
    error::Error,
    ids::{BindingId, Incarnation, InstanceId, Port},
    keyspace, parameters,
    ports::gone_or_other,
    record::{Record, State},
    store::{Index, Read, StoreError},
};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Whose login.
    pub instance: InstanceId,
    /// The binding to make.
    pub binding: BindingId,
    /// What it shall be.
    pub wanted: Wanted,
    /// Who asks.
    pub originating_identity: Option<String>,
}

/// A binding that can be used.
#[derive(Debug)]
pub struct Bound {
    /// Whether it was there before this request.
    pub existed: bool,
    /// How to log in.
    pub credentials: Credentials,
}

/// How to log in.
#[derive(Debug)]
pub struct Credentials {
    /// Host of the public port.
    pub host: String,
    /// The instance's public port.
    pub port: Port,
    /// The database.
    pub name: &'static str,
    /// The binding's role.
    pub username: String,
    /// The role's password.
    pub password: SecretString,
}

/// Makes a binding, or answers the one that is there.
///
/// # Errors
/// 400, 404, 409, 422 and 503 of [`Error`]. After a 503 the same request goes on with it.
pub async fn bind(broker: &Broker, command: &Bind) -> Result<Bound, Error> {
    let catalog = &broker.settings.catalog;
    match &command.wanted {
        Wanted::New(request) => {
            catalog.plan(&request.service_id, &request.plan_id)?;
            parameters::access(&request.parameters)?;
        }
        Wanted::Successor(successor) => successor::check(broker, successor)?,
    }
    for _ in 0..TRIES {
        if let Some(bound) = attempt(broker, command).await? {
            return Ok(bound);
        }
    }
    Err(Error::Concurrency(
        "other requests about this binding are under way; try again".to_owned(),
    ))
}

/// `None`: somebody else was quicker, and what is there now decides.
async fn attempt(broker: &Broker, command: &Bind) -> Result<Option<Bound>, Error> {
    let key = keyspace::binding(&command.instance, &command.binding);
    let catalog = &broker.settings.catalog;
    let (current, entry) = read_both(broker, &command.instance, &command.binding).await?;
    let Some(Current { record, .. }) = current else {
        return Err(Error::NotFound("there is no such instance".to_owned()));
    };
    // One of an earlier life of the instance, left by a handler that stood still, is in nobody's way.
    let (there, stale) = match entry {
        Some((binding, index)) if binding.instance_incarnation != record.incarnation => (None, Some(index)),
        entry => (entry, None),
    };
    if let Some((binding, index)) = there {
        let differences = binding
            .request
            .differences(&command.wanted.like(&binding.request));
        if !differences.is_empty() {
            return Err(Error::Conflict(format!(
                "a binding with this id exists, and differs in {}",
                differences.join(", ")
            )));
        }
        // What is answered must be usable.
        check_not_deleting(&record)?;
        return match binding.state {
            BindingState::Ready => again(broker, command, &record, &binding).await.map(Some),
            BindingState::Creating => complete(broker, command, &record, binding, index).await.map(Some),
            BindingState::Deleting => Err(Error::Concurrency("the binding is being removed".to_owned())),
        };
    }
    let request = match &command.wanted {
        Wanted::New(request) => request.clone(),
        Wanted::Successor(successor) => successor::request(broker, command, &record, successor).await?,
    };
    let (service, plan) = catalog.plan(&request.service_id, &request.plan_id)?;
    if !service.binds(plan) {
        return Err(Error::BadRequest(
            "instances of this plan cannot be bound".to_owned(),
        ));
    }
    if request.plan_id != record.known_plan() {
        return Err(Error::BadRequest(
            "the instance has another plan than this request names".to_owned(),
        ));
    }
    check_ready(&record)?;
    let binding = Binding {
        incarnation: Incarnation::from(broker.clock.random()),
        instance_incarnation: record.incarnation,
        request,
        state: BindingState::Creating,
        master_key: broker.settings.master_keys.active().to_owned(),
        created: broker.clock.now(),
        deleting_since: None,
        originating_identity: command.originating_identity.clone(),
    };
    let value = binding.to_json();
    let written = match stale {
        Some(index) => broker.store.compare_and_swap(&key, &value, index, None).await,
        None => broker.store.create(&key, &value, None).await,
    };
    let index = match written {
        Ok(index) => index,
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => return Ok(None),
        // The same request goes on with it if it was written.
        Err(error) => return Err(error.into()),
    };
    complete(broker, command, &record, binding, index).await.map(Some)
}

/// The instance, and the binding with the index it stands at.
pub(super) async fn read_both(
    broker: &Broker,
    instance: &InstanceId,
    binding: &BindingId,
) -> Result<(Option<Current>, Option<(Binding, Index)>), Error> {
    try_join!(
        read_record(broker, instance),
        read_binding(broker, instance, binding)
    )
}

/// A binding with the index it stands at.
async fn read_binding(
    broker: &Broker,
    instance: &InstanceId,
    binding: &BindingId,
) -> Result<Option<(Binding, Index)>, Error> {
    let key = keyspace::binding(instance, binding);
    let entry = broker.store.get(&key, Read::Quorum).await?;
    let entry = entry.map(|entry| parse(&entry.value).map(|binding| (binding, entry.index)));
    entry.transpose()
}

/// Only an instance that was made and is not on its way out can be bound.
fn check_ready(record: &Record) -> Result<(), Error> {
    check_not_deleting(record)?;
    if let Some(operation) = &record.operation {
        let kind = operation.kind.as_str();
        return Err(Error::Concurrency(format!(
            "the instance is busy with its {kind}: {}",
            operation.description
        )));
    }
    if recreation::was_given_up(record) {
        return Err(Error::Unprocessable(recreation::GIVEN_UP.to_owned()));
    }
    if !record.bootstrapped {
        return Err(Error::Unprocessable(
            "the instance was never made completely; delete it".to_owned(),
        ));
    }
    Ok(())
}

fn check_not_deleting(record: &Record) -> Result<(), Error> {
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    Ok(())
}

/// Answers a binding that is there. Its role is made again if an asynchronous failover has lost it: credentials that are
/// answered must work.
async fn again(broker: &Broker, command: &Bind, record: &Record, binding: &Binding) -> Result<Bound, Error> {
    let credentials = credentials(broker, (&command.instance, &command.binding), record, binding)?;
    let door = broker.public_door(record)?.ok_or_else(no_port)?;
    let Credentials {
        username, password, ..
    } = &credentials;
    let access = parameters::access(&binding.request.parameters)?;
    let databases = &broker.databases;
    if databases.create_login(&door, username, password, access).await? == Login::Withdrawn {
        return Err(Error::Concurrency("the binding is being removed".to_owned()));
    }
    Ok(Bound {
        existed: true,
        credentials,
    })
}

async fn complete(
    broker: &Broker,
    command: &Bind,
    record: &Record,
    binding: Binding,
    index: Index,
) -> Result<Bound, Error> {
    let credentials = credentials(broker, (&command.instance, &command.binding), record, &binding)?;
    let door = broker.public_door(record)?.ok_or_else(no_port)?;
    let Credentials {
        username, password, ..
    } = &credentials;
    let withdrawn = || Error::Concurrency("the binding was removed while it was being made".to_owned());
    let access = parameters::access(&binding.request.parameters)?;
    let databases = &broker.databases;
    match databases.create_login(&door, username, password, access).await {
        Ok(Login::Ready) => {}
        Ok(Login::Withdrawn) => return Err(withdrawn()),
        Err(error) => {
            take_back_without_instance(broker, command, record, index).await?;
            return Err(error.into());
        }
    }
    let ready = Binding {
        state: BindingState::Ready,
        ..binding
    };
    let key = keyspace::binding(&command.instance, &command.binding);
    match broker
        .store
        .compare_and_swap(&key, &ready.to_json(), index, None)
        .await
    {
        Ok(_) => {}
        Err(StoreError::Missing { .. }) => return Err(withdrawn()),
        // Another request like this one got there first, or an unbind did; or it is not known.
        Err(failed @ (StoreError::Conflict { .. } | StoreError::Ambiguous { .. })) => {
            let entry = broker
                .store
                .get(&key, Read::Quorum)
                .await?
                .ok_or_else(withdrawn)?;
            if entry.index == index {
                return Err(failed.into());
            }
            if parse(&entry.value)? != ready {
                return Err(withdrawn());
            }
        }
        Err(error) => return Err(error.into()),
    }
    tracing::info!(instance = %command.instance, binding = %command.binding, role = username, "bound");
    Ok(Bound {
        existed: false,
        credentials,
    })
}

/// A handler that stood still may have written a binding of an instance that is gone, or is going: nobody would delete it.
async fn take_back_without_instance(
    broker: &Broker,
    command: &Bind,
    record: &Record,
    index: Index,
) -> Result<(), Error> {
    let lives = read_record(broker, &command.instance)
        .await?
        .is_some_and(|current| {
            current.record.incarnation == record.incarnation && current.record.state == State::Active
        });
    if !lives {
        let key = keyspace::binding(&command.instance, &command.binding);
        gone_or_other(broker.store.compare_and_delete(&key, index).await)?;
        act::remove_directories(&*broker.store, &command.instance).await?;
    }
    Ok(())
}

/// The credentials of the binding with these ids.
pub(super) fn credentials(
    broker: &Broker,
    (instance, id): (&InstanceId, &BindingId),
    record: &Record,
    binding: &Binding,
) -> Result<Credentials, Error> {
    let port = record.port.owned().ok_or_else(no_port)?;
    Ok(Credentials {
        host: broker.settings.router_hostname.clone(),
        port,
        name: DATABASE,
        username: binding.role(instance, id),
        password: broker.binding_password(record, id, binding)?,
    })
}

fn no_port() -> Error {
    Error::Unprocessable("the instance has no public port".to_owned())
}

fn parse(value: &str) -> Result<Binding, Error> {
    Binding::parse(value).map_err(|source| Error::Corrupt {
        what: "binding",
        source,
    })
}
