//! What speaks of instances beside their records: lists, and none of the records themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::try_join;

use crate::{
    broker::Broker,
    cell_api::NodeStatus,
    cells::Cell,
    ids::{CellGuid, Incarnation, InstanceId, NodeId, PlanId, Port},
    keyspace,
    ports::Owner,
    quota::Reservation,
    store::{Child, Entry, Index, Read, Store, StoreError},
};

/// What was there when a run began. Whatever is read afterwards is newer.
pub(super) struct Survey {
    /// Before anything of it was read.
    pub(super) taken: Timestamp,
    /// All cells that are alive or configured.
    pub(super) cells: BTreeMap<CellGuid, Cell>,
    /// Which nodes each cell holds that could be asked.
    pub(super) held: BTreeMap<CellGuid, BTreeSet<NodeId>>,
    /// Instances that are marked as having an operation under way.
    pub(super) marked: BTreeSet<InstanceId>,
    instances: BTreeMap<InstanceId, Traces>,
}

/// What speaks of one instance.
#[derive(Default)]
pub(super) struct Traces {
    /// Its allocation.
    pub(super) allocation: Option<Entry>,
    /// The owner keys that name it.
    pub(super) owners: Vec<OwnerKey>,
    /// The reservations that name it.
    pub(super) reservations: Vec<ReservationKey>,
    /// The nodes that cells hold of it.
    pub(super) nodes: Vec<(CellGuid, NodeStatus)>,
}

/// An owner key as it was seen.
pub(super) struct OwnerKey {
    pub(super) port: Port,
    pub(super) owner: Owner,
    pub(super) entry: Entry,
}

/// A reservation as it was seen.
pub(super) struct ReservationKey {
    pub(super) plan: PlanId,
    pub(super) life: Incarnation,
    pub(super) reservation: Reservation,
    pub(super) index: Index,
}

impl Survey {
    /// Five lists from etcd, one more where there are quotas, and one question to each cell, however many instances there are.
    /// The reservations come first: whatever a request announces after it was made is seen then.
    ///
    /// # Errors
    /// When etcd cannot be read. A cell that does not answer is only left out of what is held.
    pub(super) async fn take(broker: &Broker) -> Result<Self, StoreError> {
        let store = &*broker.store;
        let taken = broker.clock.now();
        let reservations = reservations(broker).await?;
        let (marked, instances, allocations, owners, cells) = try_join!(
            list(store, keyspace::OPERATIONS),
            list(store, keyspace::INSTANCES),
            list(store, keyspace::ALLOCATIONS),
            list(store, keyspace::PORTS),
            broker.settings.known_cells.list(store),
        )?;
        let answers = join_all(cells.iter().map(|cell| broker.cells.status(cell))).await;
        let mut survey = Self {
            taken,
            cells: BTreeMap::new(),
            held: BTreeMap::new(),
            marked: marked.keys().filter_map(|name| name.parse().ok()).collect(),
            instances: BTreeMap::new(),
        };
        for name in instances.keys() {
            if let Ok(id) = name.parse() {
                survey.instances.entry(id).or_default();
            }
        }
        for (id, entry) in leaves(allocations) {
            survey.instances.entry(id).or_default().allocation = Some(entry);
        }
        for (port, entry) in leaves(owners) {
            if let Some(owner) = Owner::parse(&entry.value)
                && let Some(id) = owner.instance()
            {
                let traces = survey.instances.entry(id.clone()).or_default();
                traces.owners.push(OwnerKey { port, owner, entry });
            }
        }
        for key in reservations {
            let id = key.reservation.instance_id.clone();
            survey.instances.entry(id).or_default().reservations.push(key);
        }
        for (cell, answer) in cells.into_iter().zip(answers) {
            let guid = &cell.view.guid;
            match answer {
                Ok(status) => survey.hold(guid, status.nodes),
                Err(reason) => tracing::debug!(reason, "a cell does not say what it holds"),
            }
            survey.cells.insert(guid.clone(), cell);
        }
        Ok(survey)
    }

    fn hold(&mut self, cell: &CellGuid, nodes: Vec<NodeStatus>) {
        let ids = nodes.iter().map(|status| status.node_id).collect();
        self.held.insert(cell.clone(), ids);
        for status in nodes {
            let traces = self.instances.entry(status.instance_id.clone()).or_default();
            traces.nodes.push((cell.clone(), status));
        }
    }

    /// Every id that anything speaks of, but for the operations under way, which are listed anyway.
    pub(super) fn ids(&self) -> BTreeSet<&InstanceId> {
        self.instances.keys().collect()
    }

    /// What speaks of one instance.
    pub(super) fn traces(&self, id: &InstanceId) -> Option<&Traces> {
        self.instances.get(id)
    }
}

async fn list(store: &dyn Store, directory: &str) -> Result<BTreeMap<String, Child>, StoreError> {
    Ok(store.list(directory, Read::Quorum).await?.unwrap_or_default())
}

/// All reservations, also those of plans that have no quota any more: nothing, where no plan has one.
async fn reservations(broker: &Broker) -> Result<Vec<ReservationKey>, StoreError> {
    if !broker.settings.catalog.has_quotas() {
        return Ok(Vec::new());
    }
    let tree = broker.store.tree(keyspace::QUOTAS, Read::Quorum).await?;
    let leaves = tree.unwrap_or_default().leaves.into_iter();
    let parsed = leaves.filter_map(|(key, entry)| {
        let (plan, life) = key
            .strip_prefix(keyspace::QUOTAS)?
            .strip_prefix('/')?
            .split_once('/')?;
        Some(ReservationKey {
            plan: plan.parse().ok()?,
            life: life.parse().ok()?,
            reservation: Reservation::parse(&entry.value)?,
            index: entry.index,
        })
    });
    Ok(parsed.collect())
}

/// The leaves whose names are what they should be. What else is there is somebody else's.
fn leaves<K: FromStr>(children: BTreeMap<String, Child>) -> impl Iterator<Item = (K, Entry)> {
    children.into_iter().filter_map(|(name, child)| match child {
        Child::Leaf(entry) => Some((name.parse().ok()?, entry)),
        Child::Directory => None,
    })
}
