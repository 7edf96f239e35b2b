//! Public ports: who owns which (design.md, 5, Ports).
//!
//! **Guarantees.** A port has one owner, because its owner key is only ever created, never overwritten while owned. A port
//! that was handed back stays in quarantine for a while, so that a client of the old instance does not meet a new one.
//! **Caveats.** `/routing/nextport` is a hint. When it is wrong, ports are tried one by one, and after
//! [`MISSES`] one listing of all owners decides.

mod legacy;

use std::{collections::BTreeSet, time::Duration};

pub use self::legacy::adopt;
use self::legacy::{adopt_allocations, is_legacy};

use crate::{
    effect::PortFact,
    ids::{Incarnation, InstanceId, Port},
    keyspace,
    record::Record,
    store::{Child, Index, Read, Store, StoreError},
};

/// How many owned ports are tried one by one before all owners are listed.
pub const MISSES: u32 = 8;

/// The value of a port that was handed back.
const QUARANTINE: &str = "quarantine";

/// The ports that instances may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first one.
    pub first: Port,
    /// The last one; not below the first.
    pub last: Port,
}

impl PortRange {
    /// The port after this one, starting over at the end; a port outside the range is followed by the first one.
    #[must_use]
    pub fn after(self, port: Port) -> Port {
        let next = port.number().checked_add(1).and_then(Port::new);
        next.filter(|next| (self.first..=self.last).contains(next))
            .unwrap_or(self.first)
    }

    /// How many owned ports are tried one by one: in a small range no port is tried twice.
    fn single_tries(self) -> u32 {
        MISSES.min(self.last.number().saturating_sub(self.first.number()).into())
    }

    /// The first port from `start` on, starting over at the end, that is not taken.
    #[must_use]
    pub fn free_from(self, start: Port, taken: &BTreeSet<Port>) -> Option<Port> {
        let numbers = self.first.number()..=self.last.number();
        let (before, from): (Vec<Port>, Vec<Port>) =
            numbers.filter_map(Port::new).partition(|port| *port < start);
        from.into_iter().chain(before).find(|port| !taken.contains(port))
    }
}

/// The value of an owner key: `<id> <incarnation>`.
#[must_use]
pub fn owner_value(instance: &InstanceId, incarnation: Incarnation) -> String {
    format!("{instance} {incarnation}")
}

/// What an owner key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// One life of an instance.
    Life(InstanceId, Incarnation),
    /// An instance of an older router, which has no record: its allocation was adopted.
    Legacy(InstanceId),
    /// Nobody: the port was handed back a short while ago.
    Quarantine,
}

impl Owner {
    /// Reads the value of an owner key; `None` for anything else.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        if value == QUARANTINE {
            return Some(Self::Quarantine);
        }
        match value.split_once(' ') {
            None => Some(Self::Legacy(value.parse().ok()?)),
            Some((id, incarnation)) => Some(Self::Life(id.parse().ok()?, incarnation.parse().ok()?)),
        }
    }

    /// The instance that owns the port.
    #[must_use]
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Life(id, _) | Self::Legacy(id) => Some(id),
            Self::Quarantine => None,
        }
    }
}

/// Reads where the search for a port starts. The first broker that meets ports of an older router adopts all of them
/// before any port is handed out.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn first_candidate(store: &dyn Store, range: PortRange) -> Result<Port, StoreError> {
    let routing = store
        .list(keyspace::ROUTING, Read::Quorum)
        .await?
        .unwrap_or_default();
    if !routing.contains_key(keyspace::last_segment(keyspace::PORTS_ADOPTED)) {
        adopt_allocations(store).await?;
    }
    let hint = match routing.get("nextport") {
        Some(Child::Leaf(entry)) => entry.value.trim().parse().ok(),
        _ => None,
    };
    Ok(hint
        .filter(|port| (range.first..=range.last).contains(port))
        .unwrap_or(range.first))
}

/// Tries to become the owner of a candidate port.
///
/// # Errors
/// When etcd cannot be read or written; then the port may be owned already, which a repetition finds out.
pub async fn claim(
    store: &dyn Store,
    record: &Record,
    port: Port,
    misses: u32,
    range: PortRange,
) -> Result<PortFact, StoreError> {
    let key = keyspace::port(port);
    let value = owner_value(&record.instance_id, record.incarnation);
    match store.create(&key, &value, None).await {
        Ok(_) => return Ok(PortFact::Ours(port)),
        Err(StoreError::Conflict { .. } | StoreError::Ambiguous { .. }) => {}
        Err(error) => return Err(error),
    }
    match store.get(&key, Read::Quorum).await? {
        Some(entry) if entry.value == value => Ok(PortFact::Ours(port)),
        // It went, or the lost write has not come yet: this or the next pass tries again.
        None => Ok(PortFact::Unknown),
        Some(_) if misses < range.single_tries() => Ok(PortFact::Taken {
            port,
            next: range.after(port),
        }),
        Some(_) => {
            let owned = store
                .list(keyspace::PORTS, Read::Quorum)
                .await?
                .unwrap_or_default();
            let taken = owned.keys().filter_map(|name| name.parse().ok()).collect();
            let free = range.free_from(port, &taken);
            Ok(free.map_or(PortFact::Exhausted, |next| PortFact::Taken { port, next }))
        }
    }
}

/// Writes the allocation, which is the contract with the user, and moves the hint on.
///
/// A late call cannot do harm: an allocation that is there is replaced only while this incarnation owns the port, and one
/// that was written after the port was handed back is not served, because its owner does not agree. An older router's
/// allocation is never replaced: it is a contract that this broker knows nothing of. Answers whether anything was written.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn allocate(
    store: &dyn Store,
    record: &Record,
    port: Port,
    range: PortRange,
) -> Result<bool, StoreError> {
    let id = &record.instance_id;
    let key = keyspace::allocation(id);
    let value = port.to_string();
    match store.create(&key, &value, None).await {
        Ok(_) => {
            let next = range.after(port).to_string();
            store.set(keyspace::NEXT_PORT, &next, None).await?;
            return Ok(true);
        }
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error),
    }
    let Some(there) = store.get(&key, Read::Quorum).await? else {
        return Ok(false);
    };
    if there.value == value {
        return Ok(false);
    }
    if let Ok(other) = there.value.trim().parse()
        && is_legacy(store, record, other).await?
    {
        tracing::error!(
            instance = %id, port = port.number(), legacy = other.number(),
            "the instance has a port of an older router: its allocation is left alone"
        );
        return Ok(false);
    }
    let ours = Owner::Life(id.clone(), record.incarnation);
    if owner(store, port).await?.is_some_and(|(owner, _)| owner == ours) {
        store.compare_and_swap(&key, &value, there.index, None).await?;
        return Ok(true);
    }
    Ok(false)
}

/// The owner of a port, and the index of its key.
async fn owner(store: &dyn Store, port: Port) -> Result<Option<(Owner, Index)>, StoreError> {
    let entry = store.get(&keyspace::port(port), Read::Quorum).await?;
    Ok(entry.and_then(|entry| Some((Owner::parse(&entry.value)?, entry.index))))
}

/// Makes a port its record's again whose owner key was lost, and says so in the log. Answers whether it was.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn restore(store: &dyn Store, record: &Record, port: Port) -> Result<bool, StoreError> {
    let (id, incarnation) = (&record.instance_id, record.incarnation);
    let (key, value) = (keyspace::port(port), owner_value(id, incarnation));
    let there = store.get(&key, Read::Quorum).await?;
    let owner = there.as_ref().and_then(|entry| Owner::parse(&entry.value));
    let restored = match (&there, owner) {
        (None, _) => store.create(&key, &value, None).await,
        (_, Some(Owner::Life(owner, life))) if owner == *id && life == incarnation => return Ok(false),
        // Nobody else can have got it: the record says that this life did.
        (Some(entry), Some(Owner::Quarantine)) => {
            store.compare_and_swap(&key, &value, entry.index, None).await
        }
        (Some(entry), Some(Owner::Legacy(owner))) if owner == *id => {
            store.compare_and_swap(&key, &value, entry.index, None).await
        }
        (Some(entry), _) => {
            tracing::error!(
                instance = %id, port = port.number(), owner = entry.value,
                "the port of this instance has another owner: nothing is done"
            );
            return Ok(false);
        }
    };
    match restored {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a port into quarantine that is still as it was seen. Answers whether it was.
///
/// # Errors
/// When etcd cannot be written.
pub async fn quarantine(
    store: &dyn Store,
    port: Port,
    seen: Index,
    how_long: Duration,
) -> Result<bool, StoreError> {
    let key = keyspace::port(port);
    match store
        .compare_and_swap(&key, QUARANTINE, seen, Some(how_long))
        .await
    {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the allocation away and puts the port into quarantine, both only if they are this incarnation's. Answers whether
/// the port was.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn release(
    store: &dyn Store,
    id: &InstanceId,
    incarnation: Incarnation,
    port: Port,
    how_long: Duration,
) -> Result<bool, StoreError> {
    let allocation_key = keyspace::allocation(id);
    // In this order: a later incarnation owns the port before it writes its allocation.
    let allocation = store.get(&allocation_key, Read::Quorum).await?;
    let owner = owner(store, port).await?;
    let is_another_life = match &owner {
        Some((Owner::Life(owner, life), _)) => owner == id && *life != incarnation,
        Some((Owner::Legacy(owner), _)) => owner == id,
        Some((Owner::Quarantine, _)) | None => false,
    };
    if let Some(allocation) = allocation
        && allocation.value == port.to_string()
        && !is_another_life
    {
        gone_or_other(store.compare_and_delete(&allocation_key, allocation.index).await)?;
    }
    match owner {
        Some((owner, index)) if owner == Owner::Life(id.clone(), incarnation) => {
            quarantine(store, port, index, how_long).await
        }
        _ => Ok(false),
    }
}

/// Somebody else was faster: what was to be removed is gone, or is not what was seen.
pub(crate) fn gone_or_other(result: Result<(), StoreError>) -> Result<(), StoreError> {
    match result {
        Err(StoreError::Missing { .. } | StoreError::Conflict { .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    #[test]
    fn the_range_starts_over_at_its_end() {
        let range = PortRange {
            first: port(30000),
            last: port(30002),
        };
        assert_eq!(range.after(port(30000)), port(30001));
        assert_eq!(range.after(port(30002)), port(30000));
        assert_eq!(range.after(port(65535)), port(30000));
        assert_eq!(range.after(port(1)), port(30000));
    }

    #[test]
    fn in_a_small_range_no_port_is_tried_twice() {
        for (last, tries) in [(30000, 0), (30001, 1), (30008, 8), (32767, 8)] {
            let range = PortRange {
                first: port(30000),
                last: port(last),
            };
            assert_eq!(range.single_tries(), tries);
        }
    }

    #[test]
    fn a_free_port_is_found_wherever_it_is() {
        let range = PortRange {
            first: port(30000),
            last: port(30002),
        };
        let taken = |numbers: &[u16]| numbers.iter().map(|number| port(*number)).collect();
        assert_eq!(range.free_from(port(30001), &taken(&[30001])), Some(port(30002)));
        assert_eq!(
            range.free_from(port(30001), &taken(&[30001, 30002])),
            Some(port(30000))
        );
        assert_eq!(range.free_from(port(30001), &taken(&[30000, 30001, 30002])), None);
    }
}
