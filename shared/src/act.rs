//! Carrying out effects.
//!
//! **Guarantees.** Effects run in parallel where they are independent; each has a time limit (that of the client it goes
//! through). [`Effect::Unmark`] and [`Effect::Bury`] run last, and only when nothing before them failed. Nothing is deleted
//! but on the index at which it was seen.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::{
    advance::{Current, read_record},
    broker::Broker,
    cells::{Cell, RemoveAnswer},
    cluster::Cluster,
    database::NodePasswords,
    decide::dynamic_configuration,
    effect::{Effect, Facts, PortFact, StartAnswer},
    error::Error,
    ids::{CellGuid, InstanceId, NodeId},
    keyspace,
    marker::Marker,
    master_keys::Kind,
    ports::{self, gone_or_other},
    record::{PortClaim, Record, Tombstone},
    store::{Child, Index, Read, Store, StoreError},
};

/// What effects work on: an instance as it was decided on.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The record as it stands in etcd now.
    pub record: &'a Record,
    /// The index of that record.
    pub index: Index,
    /// The cluster as observed.
    pub cluster: &'a Cluster,
}

/// What one effect found out.
enum Finding {
    Nothing,
    Cells(Vec<Cell>),
    Port(PortFact),
    Started(NodeId, StartAnswer),
    Removed(NodeId, RemoveAnswer),
    Prepared(Result<(), String>),
    Replication(BTreeMap<String, String>),
    PortReleased,
    BindingsDropped,
    Buried,
    Trouble(String),
}

/// Cells as they were last listed in this pass: who to call, and where.
#[derive(Debug, Default)]
pub struct Directory(BTreeMap<CellGuid, Cell>);

impl Directory {
    /// A directory of these cells.
    #[must_use]
    pub fn of(cells: Vec<Cell>) -> Self {
        Self(
            cells
                .into_iter()
                .map(|cell| (cell.view.guid.clone(), cell))
                .collect(),
        )
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Carries out the effects of one decision, and adds what they found out to the facts of the pass.
///
/// # Errors
/// When etcd could not be read or written: everything else becomes a fact. Effects that could be done are done.
pub async fn act(
    broker: &Broker,
    scene: Scene<'_>,
    effects: &[Effect],
    directory: &mut Directory,
    facts: &mut Facts,
) -> Result<(), Error> {
    let calls_cells = |effect: &Effect| matches!(effect, Effect::Start(_) | Effect::Remove(_));
    if directory.is_empty() && effects.iter().any(calls_cells) {
        *directory = Directory::of(broker.settings.known_cells.list(&*broker.store).await?);
    }
    let is_last = |effect: &&Effect| matches!(effect, Effect::Unmark | Effect::Bury);
    let (last, first): (Vec<&Effect>, Vec<&Effect>) = effects.iter().partition(is_last);
    let done = join_all(
        first
            .into_iter()
            .map(|effect| carry_out(broker, scene, effect, directory)),
    )
    .await;
    let failed = take_in(done, directory, facts);
    match failed {
        Some(error) => Err(error),
        None => {
            let done = join_all(
                last.into_iter()
                    .map(|effect| carry_out(broker, scene, effect, directory)),
            )
            .await;
            take_in(done, directory, facts).map_or(Ok(()), Err)
        }
    }
}

/// Turns findings into facts; answers the first error.
fn take_in(done: Vec<Result<Finding, Error>>, directory: &mut Directory, facts: &mut Facts) -> Option<Error> {
    let mut failed = None;
    for finding in done {
        match finding {
            Err(error) => failed = failed.or(Some(error)),
            Ok(Finding::Nothing) => {}
            Ok(Finding::Cells(cells)) => {
                facts.cells = Some(cells.iter().map(|cell| cell.view.clone()).collect());
                *directory = Directory::of(cells);
            }
            Ok(Finding::Port(fact)) => facts.port = fact,
            Ok(Finding::Started(node, answer)) => {
                facts.started.insert(node, answer);
            }
            Ok(Finding::Removed(node, RemoveAnswer::Gone)) => {
                facts.removed.insert(node);
            }
            Ok(Finding::Removed(node, RemoveAnswer::NotYet(reason))) => {
                facts.not_removed.insert(node, reason);
            }
            Ok(Finding::Prepared(result)) => facts.prepared = Some(result),
            Ok(Finding::Replication(states)) => facts.replication = Some(states),
            Ok(Finding::PortReleased) => facts.port_released = true,
            Ok(Finding::BindingsDropped) => facts.bindings_dropped = true,
            Ok(Finding::Buried) => facts.gone = true,
            Ok(Finding::Trouble(text)) => facts.troubles.push(text),
        }
    }
    failed
}

async fn carry_out(
    broker: &Broker,
    scene: Scene<'_>,
    effect: &Effect,
    directory: &Directory,
) -> Result<Finding, Error> {
    let (store, settings, record) = (&*broker.store, &broker.settings, scene.record);
    let id = &record.instance_id;
    Ok(match effect {
        Effect::ListCells => Finding::Cells(settings.known_cells.list(store).await?),
        Effect::ClaimPort(port) => {
            let misses = match record.port {
                PortClaim::Candidate { misses, .. } => misses,
                PortClaim::Owned { .. } | PortClaim::Released => 0,
            };
            Finding::Port(ports::claim(store, record, *port, misses, settings.ports).await?)
        }
        Effect::Allocate(port) => {
            ports::allocate(store, record, *port, settings.ports).await?;
            Finding::Nothing
        }
        Effect::Project(node) => {
            if let Some(placed) = record.nodes.get(node) {
                store
                    .set(&keyspace::backend(id, *node), placed.cell.as_str(), None)
                    .await?;
            }
            Finding::Nothing
        }
        Effect::SweepProjections => {
            sweep_projections(broker, record).await?;
            Finding::Nothing
        }
        Effect::Start(node) => start(broker, record, *node, directory).await?,
        Effect::Remove(node) => remove(broker, record, *node, directory).await,
        Effect::Forget(nodes) => {
            for node in nodes {
                forget(store, id, *node, scene.cluster).await?;
            }
            Finding::Nothing
        }
        Effect::Prepare => prepare(broker, scene).await?,
        Effect::AskReplication => {
            let api = scene
                .cluster
                .running_leader()
                .and_then(|(_, leader)| leader.api.clone());
            // Nothing is known then, but it was asked.
            let Some(api) = api else {
                return Ok(Finding::Replication(BTreeMap::new()));
            };
            let states = broker.patroni.replication(&api).await;
            Finding::Replication(states.unwrap_or_else(|reason| {
                tracing::warn!(instance = %id, reason, "the leader does not say who streams");
                BTreeMap::new()
            }))
        }
        Effect::Configure(patch) => {
            let password = broker.password(record, Kind::Rest)?;
            let api = scene
                .cluster
                .running_leader()
                .and_then(|(_, leader)| leader.api.clone());
            let Some(api) = api else {
                return Ok(Finding::Nothing);
            };
            tracing::info!(instance = %id, patch = ?patch, "changing Patroni's configuration");
            broker
                .patroni
                .configure(&api, &password, patch)
                .await
                .map_or_else(Finding::Trouble, |()| Finding::Nothing)
        }
        Effect::Switchover { leader, candidate } => {
            let password = broker.password(record, Kind::Rest)?;
            let api = scene
                .cluster
                .running_leader()
                .and_then(|(_, leader)| leader.api.clone());
            let Some(api) = api else {
                return Ok(Finding::Nothing);
            };
            tracing::info!(instance = %id, %leader, %candidate, "handing the leadership over");
            let done = broker
                .patroni
                .switchover(&api, &password, leader, candidate)
                .await;
            done.map_or_else(Finding::Trouble, |()| Finding::Nothing)
        }
        Effect::ReleasePort(port) => {
            if let Some(port) = port {
                ports::release(store, record, *port, settings.quarantine).await?;
            }
            sweep_projections(broker, record).await?;
            Finding::PortReleased
        }
        Effect::DropBindings => {
            drop_bindings(broker, record).await?;
            Finding::BindingsDropped
        }
        Effect::ClearScope { leaves, directories } => {
            clear_scope(store, id, leaves, directories).await?;
            Finding::Nothing
        }
        Effect::Bury => bury(broker, scene).await?,
        Effect::Unmark => {
            unmark(broker, record).await?;
            Finding::Nothing
        }
    })
}

async fn start(
    broker: &Broker,
    record: &Record,
    node: NodeId,
    directory: &Directory,
) -> Result<Finding, Error> {
    let Some(placed) = record.nodes.get(&node) else {
        return Ok(Finding::Nothing);
    };
    let Some(cell) = directory.0.get(&placed.cell) else {
        let answer = StartAnswer::Refused(format!("cell {} is not alive", placed.cell));
        return Ok(Finding::Started(node, answer));
    };
    let configuration = dynamic_configuration::while_growing(&broker.plan_configuration(record)?);
    let request = broker.start_request(record, node, configuration)?;
    let answer = broker.cells.start(cell, node, &request).await;
    if let StartAnswer::Refused(reason) | StartAnswer::Unclear(reason) = &answer {
        tracing::warn!(instance = %record.instance_id, %node, reason, "a cell did not take a node");
    }
    Ok(Finding::Started(node, answer))
}

async fn remove(broker: &Broker, record: &Record, node: NodeId, directory: &Directory) -> Finding {
    let Some(placed) = record.nodes.get(&node) else {
        return Finding::Nothing;
    };
    let Some(cell) = directory.0.get(&placed.cell) else {
        return Finding::Removed(
            node,
            RemoveAnswer::NotYet(format!("cell {} is not alive", placed.cell)),
        );
    };
    Finding::Removed(node, broker.cells.remove(cell, node).await)
}

async fn prepare(broker: &Broker, scene: Scene<'_>) -> Result<Finding, Error> {
    let identifier = scene.cluster.system_identifier();
    let (Some(door), Some(identifier)) = (broker.public_door(scene.record)?, identifier) else {
        return Ok(Finding::Nothing);
    };
    let nodes = NodePasswords {
        replication: broker.password(scene.record, Kind::Replication)?,
        rewind: broker.password(scene.record, Kind::Rewind)?,
    };
    let prepared = broker.databases.prepare(&door, identifier, &nodes).await;
    Ok(Finding::Prepared(prepared.map_err(|error| error.to_string())))
}

/// Removes what is left of a node that its cell has confirmed to be gone.
async fn forget(
    store: &dyn Store,
    id: &InstanceId,
    node: NodeId,
    cluster: &Cluster,
) -> Result<(), StoreError> {
    if let Some(index) = cluster.member(node).and_then(|member| member.index) {
        gone_or_other(store.compare_and_delete(&keyspace::member(id, node), index).await)?;
    }
    delete_projection(store, id, node).await
}

async fn delete_projection(store: &dyn Store, id: &InstanceId, node: NodeId) -> Result<(), StoreError> {
    let key = keyspace::backend(id, node);
    if let Some(entry) = store.get(&key, Read::Quorum).await? {
        gone_or_other(store.compare_and_delete(&key, entry.index).await)?;
    }
    gone_or_other(store.remove_empty_directory(&keyspace::node(id, node)).await)
}

/// The record as it is now, unless it is another life's. What was listed before that cannot be a later life's.
async fn still_lives(broker: &Broker, record: &Record) -> Result<Option<Record>, Error> {
    let current = read_record(broker, &record.instance_id).await?;
    Ok(current
        .map(|current| current.record)
        .filter(|current| current.incarnation == record.incarnation))
}

/// Deletes the projections of nodes that the instance does not have (any more).
async fn sweep_projections(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let listed = store.list(&keyspace::nodes(id), Read::Quorum).await?;
    let Some(listed) = listed.filter(|nodes| !nodes.is_empty()) else {
        return Ok(());
    };
    let Some(current) = still_lives(broker, record).await? else {
        return Ok(());
    };
    let gone = |node: &NodeId| !current.nodes.contains_key(node);
    for node in listed.keys().filter_map(|name| name.parse().ok()).filter(gone) {
        delete_projection(store, id, node).await?;
    }
    Ok(())
}

/// Takes back what a handler has written that stood still meanwhile, and whose instance is gone, or lives another life, or
/// has let nodes go. Works on what carries this incarnation, or a node's id, only.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn take_back(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    if still_lives(broker, record).await?.is_some() {
        return sweep_projections(broker, record).await;
    }
    for node in record.nodes.keys().chain(&record.retired) {
        delete_projection(store, id, *node).await?;
    }
    if let PortClaim::Candidate { port, .. } | PortClaim::Owned { port } = record.port {
        ports::release(store, record, port, broker.settings.quarantine).await?;
    }
    remove_directories(store, id).await?;
    Ok(())
}

/// Deletes the bindings that were there before the record is read again, and found to be of the same incarnation.
async fn drop_bindings(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let directory = keyspace::bindings(id);
    let listed = store.list(&directory, Read::Quorum).await?.unwrap_or_default();
    if listed.is_empty() || still_lives(broker, record).await?.is_none() {
        return Ok(());
    }
    for (name, child) in listed {
        if let Child::Leaf(entry) = child {
            let key = format!("{directory}/{name}");
            gone_or_other(store.compare_and_delete(&key, entry.index).await)?;
        }
    }
    Ok(())
}

async fn clear_scope(
    store: &dyn Store,
    id: &InstanceId,
    leaves: &[(String, Index)],
    directories: &[String],
) -> Result<(), StoreError> {
    for (key, index) in leaves {
        gone_or_other(store.compare_and_delete(key, *index).await)?;
    }
    let mut inner_first: Vec<&String> = directories.iter().collect();
    inner_first.sort_by_key(|directory| std::cmp::Reverse(directory.len()));
    for directory in inner_first {
        gone_or_other(store.remove_empty_directory(directory).await)?;
    }
    gone_or_other(store.remove_empty_directory(&keyspace::scope(id)).await)
}

/// The last steps of a deprovision. The record goes after the tombstone, so that there is no moment in which nobody
/// knows what became of the instance; what may be left after it (marker, empty directories) is swept by reconcile.
async fn bury(broker: &Broker, scene: Scene<'_>) -> Result<Finding, Error> {
    let (store, record) = (&*broker.store, scene.record);
    let id = &record.instance_id;
    write_tombstone(broker, record).await?;
    match store.compare_and_delete(&keyspace::record(id), scene.index).await {
        Ok(()) | Err(StoreError::Missing { .. }) => {}
        // Somebody else moved it on: they finish it.
        Err(StoreError::Conflict { .. }) => return Ok(Finding::Nothing),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(instance = %id, incarnation = %record.incarnation, "the instance is gone");
    // The marker last: it leads reconcile to what a crash leaves here.
    remove_directories(store, id).await?;
    // Whatever was about this life is over. Another life's is of a provision that has seen the record gone.
    let key = keyspace::operation(id);
    if let Some(entry) = store.get(&key, Read::Quorum).await?
        && Marker::parse(&entry.value).is_none_or(|marker| marker.incarnation == record.incarnation)
    {
        gone_or_other(store.compare_and_delete(&key, entry.index).await)?;
    }
    Ok(Finding::Buried)
}

/// Removes an instance's directories as far as they are empty.
///
/// # Errors
/// When etcd cannot be written.
pub async fn remove_directories(store: &dyn Store, id: &InstanceId) -> Result<(), StoreError> {
    for directory in [
        keyspace::nodes(id),
        keyspace::bindings(id),
        keyspace::instance(id),
    ] {
        gone_or_other(store.remove_empty_directory(&directory).await)?;
    }
    Ok(())
}

/// A handler that was frozen here may find the tombstone of a later life: the later one stays.
async fn write_tombstone(broker: &Broker, record: &Record) -> Result<(), StoreError> {
    let Some(operation) = record.latest_operation().cloned() else {
        return Ok(());
    };
    let tombstone = Tombstone {
        incarnation: record.incarnation,
        operation,
        retired: record.retired.clone(),
    };
    let value = serde_json::to_string(&tombstone).unwrap_or_default();
    let (store, ttl) = (&*broker.store, Some(broker.settings.tombstone_ttl));
    let key = keyspace::tombstone(&record.instance_id);
    match store.create(&key, &value, ttl).await {
        Err(StoreError::Conflict { .. }) => {}
        other => return other.map(drop),
    }
    let Some(there) = store.get(&key, Read::Quorum).await? else {
        return Ok(());
    };
    let later = serde_json::from_str::<Tombstone>(&there.value)
        .is_ok_and(|other| other.operation.started > tombstone.operation.started);
    if later || there.value == value {
        return Ok(());
    }
    store
        .compare_and_swap(&key, &value, there.index, ttl)
        .await
        .map(drop)
}

/// Deletes the marker of the operation that has ended. Any other one announces something that this handler may know
/// nothing of, for it may have stood still: it goes only if the record, read after it, has nothing under way.
async fn unmark(broker: &Broker, record: &Record) -> Result<(), Error> {
    let (store, id) = (&*broker.store, &record.instance_id);
    let key = keyspace::operation(id);
    let Some(entry) = store.get(&key, Read::Quorum).await? else {
        return Ok(());
    };
    let marker = Marker::parse(&entry.value);
    let latest = record.latest_operation().map(|operation| operation.id);
    if marker.is_none_or(|marker| Some(marker.operation) != latest) {
        let Some(Current { record: current, .. }) = read_record(broker, id).await? else {
            return Ok(());
        };
        // Another life's is of a provision that came too late: this one has the record.
        let says_nothing = marker.is_none_or(|marker| {
            marker.incarnation != current.incarnation || marker.is_stale(broker.clock.now())
        });
        if !current.is_at_rest() || !says_nothing {
            return Ok(());
        }
    }
    Ok(gone_or_other(store.compare_and_delete(&key, entry.index).await)?)
}
