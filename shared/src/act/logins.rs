//! The logins of an instance's bindings, in a cluster that was made anew.
//!
//! **Guarantees.** A login is only ever created: one that was withdrawn in this cluster stays withdrawn. One that was
//! withdrawn in an earlier cluster is not in the list, or is marked as going. A handler that stood still since then does not
//! get in: the superuser's password is another generation's ([`crate::decide::recreation::anew`]).

use futures_util::future::join_all;

use crate::{
    binding::{Binding, BindingState},
    broker::Broker,
    error::Error,
    ids::BindingId,
    keyspace, parameters,
    record::Record,
    store::{Child, Read},
};

/// How many logins are made at once: PostgreSQL allows a hundred sessions unless a plan says otherwise.
const AT_ONCE: usize = 8;

/// Makes the logins of all bindings that are not going. `Err` inside: why one could not be made, as a sentence.
pub(super) async fn restore(broker: &Broker, record: &Record) -> Result<Result<(), String>, Error> {
    let Some(door) = broker.public_door(record)? else {
        return Ok(Err("the instance has no public port".to_owned()));
    };
    let listed = broker
        .store
        .list(&keyspace::bindings(&record.instance_id), Read::Quorum)
        .await?;
    let mut logins = Vec::new();
    for (name, child) in listed.unwrap_or_default() {
        let (Child::Leaf(entry), Ok(id)) = (child, name.parse::<BindingId>()) else {
            continue;
        };
        let binding = match Binding::parse(&entry.value) {
            Ok(binding) => binding,
            Err(error) => {
                tracing::error!(instance = %record.instance_id, binding = %id, %error, "a binding cannot be understood; it is left without a login");
                continue;
            }
        };
        let is_going = binding.state == BindingState::Deleting;
        if is_going || binding.instance_incarnation != record.incarnation {
            continue;
        }
        let login = parameters::access(&binding.request.parameters).and_then(|access| {
            let password = broker.binding_password(record, &id, &binding)?;
            Ok((
                id.clone(),
                binding.role(&record.instance_id, &id),
                password,
                access,
            ))
        });
        match login {
            Ok(login) => logins.push(login),
            Err(error) => return Ok(Err(format!("binding {id}: {error}"))),
        }
    }
    for some in logins.chunks(AT_ONCE) {
        let made = join_all(some.iter().map(async |(id, role, password, access)| {
            let made = broker
                .databases
                .create_login(&door, role, password, *access)
                .await;
            // A login that an unbind has just withdrawn is nobody's business any more.
            made.map(drop)
                .map_err(|error| format!("binding {id}: {}", error.outside()))
        }))
        .await;
        if let Some(reason) = made.into_iter().find_map(Result::err) {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}
