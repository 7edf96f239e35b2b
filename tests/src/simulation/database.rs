//! What PostgreSQL holds, one for each system identifier, and the way to it through the public ports.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use shared::{
    database::{Change, DatabaseError, Login, Reach},
    ids::{InstanceId, Port},
    keyspace,
    store::{Child, Read, Store},
};

use super::{immediate::now, patroni::Patroni};

/// The database of one cluster.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) prepared: bool,
    /// The superuser's password, and which generation it is of.
    pub(super) superuser: String,
    pub(super) generation: u32,
    /// Whether each role can log in.
    pub(super) roles: BTreeMap<String, bool>,
}

impl Database {
    pub(super) fn new(superuser: String, generation: u32) -> Self {
        Self {
            prepared: false,
            superuser,
            generation,
            roles: BTreeMap::new(),
        }
    }

    /// `late`: also to passwords of an earlier generation.
    pub(super) fn change_passwords(&mut self, change: &Change, late: bool) -> Result<Reach, DatabaseError> {
        if change.generation < self.generation && !late {
            return Err(DatabaseError::Unfit("others have changed them since".to_owned()));
        }
        change.superuser.expose_secret().clone_into(&mut self.superuser);
        self.generation = change.generation;
        Ok(Reach::All)
    }

    pub(super) fn create_login(&mut self, role: &str) -> Result<Login, DatabaseError> {
        if !self.prepared {
            return Err(DatabaseError::Refused {
                state: "42704".to_owned(),
                message: "role \"app_owner\" does not exist".to_owned(),
            });
        }
        let can_login = *self.roles.entry(role.to_owned()).or_insert(true);
        Ok(if can_login { Login::Ready } else { Login::Withdrawn })
    }

    pub(super) fn withdraw_login(&mut self, role: &str) {
        self.roles.insert(role.to_owned(), false);
    }
}

/// Where a public port leads: to the instance whose allocation says so, if the owner of the port agrees.
pub(super) fn instance_at(store: &dyn Store, port: u16) -> Option<InstanceId> {
    let port = Port::new(port)?;
    let owner = now(store.get(&keyspace::port(port), Read::Quorum)).unwrap()?;
    let allocations = now(store.list(keyspace::ALLOCATIONS, Read::Quorum)).unwrap()?;
    let leads_here = |child: &Child| matches!(child, Child::Leaf(entry) if entry.value == port.to_string());
    allocations
        .into_iter()
        .filter(|(_, child)| leads_here(child))
        .map(|(id, _)| id)
        .find(|id| owner.value.split(' ').next() == Some(id))?
        .parse()
        .ok()
}

/// Whether a node is the one that the router leads clients of an instance to.
pub(super) fn is_target(store: &dyn Store, instance: &InstanceId, patroni: &Patroni) -> bool {
    let key = format!("{}/leader", keyspace::scope(instance));
    let leader = now(store.get(&key, Read::Quorum)).unwrap();
    patroni.id.instance == *instance
        && patroni.leads()
        && leader.is_some_and(|leader| leader.value == patroni.name())
}
