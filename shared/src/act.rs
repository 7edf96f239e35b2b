//! Carrying out effects.
//!
//! **Guarantees.** Effects run in parallel where they are independent; each has a time limit (that of the client it goes
//! through). [`Effect::Unmark`] and [`Effect::Bury`] run last, and only when nothing before them failed. Nothing is deleted
//! but on the index at which it was seen.

mod credentials;
mod logins;
mod patroni;
mod removal;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use crate::{
    broker::Broker,
    cells::{Cell, RemoveAnswer},
    cluster::Cluster,
    database::{NodePasswords, NodeSettings, Reach},
    decide::dynamic_configuration,
    effect::{Effect, Facts, PortFact, StartAnswer},
    error::Error,
    ids::{CellGuid, NodeId},
    keyspace,
    master_keys::{DeriveError, Kind},
    ports, quota,
    record::{PortClaim, Record},
    roll::{self, Roll},
    store::{Index, StoreError},
};

pub use self::removal::{fence, remove_directories, remove_scope_directories, take_back};

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
    Cells(Vec<Cell>, Option<Roll>),
    Port(PortFact),
    Started(NodeId, StartAnswer),
    Removed(NodeId, RemoveAnswer),
    Prepared(Result<(), String>),
    Logins(Result<(), String>),
    Passwords(Result<Reach, String>),
    Replication(BTreeMap<String, String>),
    Settings(BTreeMap<NodeId, NodeSettings>),
    PortReleased,
    BindingsDropped,
    Marked,
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
        // Who has to be removed may be on a cell that is missing.
        let removes = effects.iter().any(|effect| matches!(effect, Effect::Remove(_)));
        let listed = if removes {
            list_cells(broker, scene.record).await?
        } else {
            Finding::Cells(broker.settings.known_cells.list(&*broker.store).await?, None)
        };
        take_in(vec![Ok(listed)], directory, facts);
    }
    let is_last = |effect: &&Effect| matches!(effect, Effect::Unmark | Effect::Bury);
    let (last, first): (Vec<&Effect>, Vec<&Effect>) = effects.iter().partition(is_last);
    let done = join_all(
        first
            .into_iter()
            .map(|effect| carry_out(broker, scene, effect, directory, facts)),
    )
    .await;
    let failed = take_in(done, directory, facts);
    if effects.iter().any(Effect::touches_settings) {
        facts.settings = None;
    }
    match failed {
        Some(error) => Err(error),
        None => {
            let done = join_all(
                last.into_iter()
                    .map(|effect| carry_out(broker, scene, effect, directory, facts)),
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
            Ok(Finding::Cells(cells, roll)) => {
                facts.cells = Some(cells.iter().map(|cell| cell.view.clone()).collect());
                facts.roll = roll.or(facts.roll.take());
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
            Ok(Finding::Logins(result)) => facts.logins = Some(result),
            Ok(Finding::Passwords(result)) => facts.passwords = Some(result),
            Ok(Finding::Replication(states)) => facts.replication = Some(states),
            Ok(Finding::Settings(settings)) => facts.settings = Some(settings),
            Ok(Finding::PortReleased) => facts.port_released = true,
            Ok(Finding::BindingsDropped) => facts.bindings_dropped = true,
            Ok(Finding::Marked) => facts.marked = true,
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
    facts: &Facts,
) -> Result<Finding, Error> {
    let (store, settings, record) = (&*broker.store, &broker.settings, scene.record);
    let id = &record.instance_id;
    Ok(match effect {
        Effect::ListCells => list_cells(broker, record).await?,
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
            removal::sweep_projections(broker, record).await?;
            Finding::Nothing
        }
        Effect::Start(node) => start(broker, record, *node, directory).await?,
        Effect::Remove(node) => remove(broker, record, *node, directory, facts).await?,
        Effect::Forget(nodes) => {
            for node in nodes {
                removal::forget(store, id, *node, scene.cluster).await?;
            }
            Finding::Nothing
        }
        Effect::Prepare => prepare(broker, scene).await?,
        Effect::RestoreLogins => Finding::Logins(logins::restore(broker, record).await?),
        Effect::ChangePasswords => credentials::change(broker, scene).await,
        Effect::AskReplication => Finding::Replication(patroni::replication(broker, scene).await),
        Effect::AskSettings => Finding::Settings(patroni::settings(broker, scene).await),
        Effect::Configure(patch) => patroni::configure(broker, scene, patch).await?,
        Effect::Restart { node, role } => patroni::restart(broker, scene, *node, role).await?,
        Effect::Switchover { leader, candidate } => {
            patroni::switchover(broker, scene, leader, candidate).await?
        }
        Effect::LeavePlan(plan) => {
            quota::release(broker, record, plan, Some(scene.index)).await?;
            Finding::Nothing
        }
        Effect::ReleasePort(port) => {
            if let Some(port) = port {
                ports::release(store, id, record.incarnation, *port, settings.quarantine).await?;
            }
            for plan in record.plans() {
                quota::release(broker, record, plan, None).await?;
            }
            removal::sweep_projections(broker, record).await?;
            Finding::PortReleased
        }
        Effect::DropBindings => {
            removal::drop_bindings(broker, record).await?;
            Finding::BindingsDropped
        }
        Effect::ClearScope { leaves, directories } => {
            removal::clear_scope(store, id, leaves, directories).await?;
            Finding::Nothing
        }
        Effect::Bury => removal::bury(broker, scene).await?,
        Effect::Mark => {
            removal::mark(broker, record).await?;
            Finding::Marked
        }
        Effect::Unmark => {
            removal::unmark(broker, record).await?;
            Finding::Nothing
        }
    })
}

/// The cells that are there, and the roll.
async fn list_cells(broker: &Broker, record: &Record) -> Result<Finding, Error> {
    let named = record.nodes.values().map(|node| node.cell.clone()).collect();
    let (cells, roll) = call_roll(broker, &named).await?;
    Ok(Finding::Cells(cells, Some(roll)))
}

/// Lists the cells, and writes down since when others are missing. To be called now and then, also while no instance needs
/// it: the roll must know a cell before it is missing. `named` are the cells of the record that this is for.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn call_roll(broker: &Broker, named: &BTreeSet<CellGuid>) -> Result<(Vec<Cell>, Roll), StoreError> {
    let (store, settings) = (&*broker.store, &broker.settings);
    let entry = roll::open(store).await?;
    let cells = settings.known_cells.list(store).await?;
    let alive = cells.iter().filter(|cell| cell.view.is_alive());
    let alive = alive.map(|cell| cell.view.guid.clone()).collect();
    let roll = roll::call(
        store,
        entry,
        &alive,
        named,
        broker.clock.now(),
        settings.replace_after,
    )
    .await?;
    Ok((cells, roll))
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
    let plan = match broker.plan_configuration(record) {
        Ok(plan) => plan,
        Err(error) => return Ok(Finding::Started(node, StartAnswer::Unclear(error.to_string()))),
    };
    let configuration = dynamic_configuration::while_growing(&plan);
    let request = broker.start_request(record, node, configuration)?;
    let answer = broker.cells.start(cell, node, &request).await;
    if let StartAnswer::Refused(reason) | StartAnswer::Unclear(reason) = &answer {
        tracing::warn!(instance = %record.instance_id, %node, reason, "a cell did not take a node");
    }
    Ok(Finding::Started(node, answer))
}

async fn remove(
    broker: &Broker,
    record: &Record,
    node: NodeId,
    directory: &Directory,
    facts: &Facts,
) -> Result<Finding, StoreError> {
    let Some(placed) = record.nodes.get(&node) else {
        return Ok(Finding::Nothing);
    };
    let roll = facts.roll.as_ref();
    let answer = if roll.is_some_and(|roll| roll.is_destroyed(&placed.cell)) {
        tracing::info!(instance = %record.instance_id, %node, cell = %placed.cell, "the cell is destroyed; its node counts as gone");
        RemoveAnswer::Gone
    } else if let Some(cell) = directory.0.get(&placed.cell) {
        broker.cells.remove(cell, node).await
    } else {
        RemoveAnswer::NotYet(format!("cell {} is not alive", placed.cell))
    };
    if answer == RemoveAnswer::Gone {
        // While the record still says where it was: a cell that is lost does not come to that any more.
        removal::deregister(&*broker.store, &placed.cell, node).await?;
    }
    Ok(Finding::Removed(node, answer))
}

async fn prepare(broker: &Broker, scene: Scene<'_>) -> Result<Finding, DeriveError> {
    let identifier = scene.cluster.system_identifier();
    let keys = || {
        let nodes = NodePasswords {
            replication: broker.password(scene.record, Kind::Replication)?,
            rewind: broker.password(scene.record, Kind::Rewind)?,
        };
        broker.public_door(scene.record).map(|door| (door, nodes))
    };
    let (door, nodes) = match keys() {
        Ok((Some(door), nodes)) => (door, nodes),
        Ok((None, _)) => return Ok(Finding::Nothing),
        // A fact like any other, so that the operation ends.
        Err(error) => {
            tracing::error!(instance = %scene.record.instance_id, %error, "the leader cannot be asked");
            let reason = "the broker does not have the instance's master key".to_owned();
            return Ok(Finding::Prepared(Err(reason)));
        }
    };
    let Some(identifier) = identifier else {
        return Ok(Finding::Nothing);
    };
    let prepared = broker.databases.prepare(&door, identifier, &nodes).await;
    Ok(Finding::Prepared(prepared.map_err(|error| error.outside())))
}
