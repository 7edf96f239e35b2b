//! An operator's command: gives the nodes of an instance, and the broker itself, other passwords, of the master key that is
//! the first one.

use super::{
    begin,
    command::{begin_or_join, check_made},
};
use crate::{
    advance::read_cluster,
    binding::Binding,
    broker::Broker,
    decide::{credentials, describe, recreation},
    error::Error,
    ids::InstanceId,
    keyspace,
    record::{CorruptDocument, Operation, OperationKind, Record},
    store::{Child, Read},
};

/// Whether an instance's own passwords are all of the first master key.
#[must_use]
pub fn is_current(broker: &Broker, record: &Record) -> bool {
    record.master_key == broker.settings.master_keys.active() && record.former_credentials.is_none()
}

/// Begins to change the passwords of an instance, or joins whoever does; answers the operation, which anybody carries on as
/// any other. A change that was given up is gone on with; no other one begins before it is complete.
///
/// # Errors
/// `NotFound`, `Concurrency`, `Unprocessable`, and 500 of [`Error`]; then nothing was changed. 503: it may have begun.
pub async fn rotate(broker: &Broker, id: &InstanceId) -> Result<Operation, Error> {
    begin_or_join(broker, id, OperationKind::Rotate, async |record| {
        next(broker, record).await
    })
    .await
}

/// The record that begins it, and the operation in it.
async fn next(broker: &Broker, record: Record) -> Result<(Record, Operation), Error> {
    if recreation::was_given_up(&record) {
        return Err(Error::Unprocessable(recreation::GIVEN_UP.to_owned()));
    }
    check_made(&record)?;
    if !record.bootstrapped {
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

/// The bindings of an instance whose passwords depend on another master key than the first, by their ids, each with that
/// key's id; or with why it is not known. They do so until they are unbound, for only their users can take other passwords over.
///
/// # Errors
/// When etcd cannot be read.
pub async fn bindings_of_other_keys(
    broker: &Broker,
    id: &InstanceId,
) -> Result<Vec<(String, Result<String, CorruptDocument>)>, Error> {
    let listed = broker.store.list(&keyspace::bindings(id), Read::Quorum).await?;
    let bindings = listed.unwrap_or_default().into_iter();
    let bindings = bindings.filter_map(|(name, child)| match child {
        Child::Leaf(entry) => Some((
            name,
            Binding::parse(&entry.value).map(|binding| binding.master_key),
        )),
        Child::Directory => None,
    });
    let active = broker.settings.master_keys.active();
    let is_active = |key: &Result<String, _>| key.as_ref().is_ok_and(|key| key == active);
    Ok(bindings.filter(|(_, key)| !is_active(key)).collect())
}
