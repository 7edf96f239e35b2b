//! What must hold in a world: at every moment, and when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    ids::{CellGuid, Incarnation, InstanceId},
    keyspace,
    ports::owner_value,
    record::{OperationState, Phase, PortClaim, Record, State},
};

use super::{QUOTA, World};

/// The plan that has a quota.
const FEW: &str = "few";

/// What is wrong at this moment, whatever is under way. Empty: nothing.
#[must_use]
pub fn violations(world: &World) -> Vec<String> {
    let mut wrong = world.wrong();
    let mut places: BTreeMap<(InstanceId, CellGuid), usize> = BTreeMap::new();
    let mut databases: BTreeMap<InstanceId, BTreeSet<String>> = BTreeMap::new();
    let held = world.held();
    for (id, runs, data) in &held {
        if *runs {
            *places.entry((id.instance.clone(), id.cell.clone())).or_default() += 1;
            databases
                .entry(id.instance.clone())
                .or_default()
                .extend(data.clone());
        }
    }
    let mut lives: BTreeMap<&String, BTreeSet<Incarnation>> = BTreeMap::new();
    for (id, _, data) in &held {
        if let Some(system) = data {
            lives.entry(system).or_default().insert(id.incarnation);
        }
    }
    for (system, lives) in lives {
        if lives.len() > 1 {
            wrong.push(format!(
                "database {system} is served in {} lives of its instance",
                lives.len()
            ));
        }
    }
    for ((instance, cell), count) in places {
        if count > 1 {
            wrong.push(format!("{count} nodes of {instance} run on {cell}"));
        }
    }
    for (instance, systems) in databases {
        if systems.len() > 1 {
            wrong.push(format!("{instance} has {} databases", systems.len()));
        }
    }
    let records = records(world);
    // One that has no port yet may still be taken back.
    let is_one_of_few = |record: &&Record| {
        record.state == State::Active && record.has_plan(FEW) && record.port.owned().is_some()
    };
    let few = records.iter().filter(is_one_of_few).count();
    if few > QUOTA {
        wrong.push(format!("{few} instances have a plan that allows {QUOTA}"));
    }
    let mut owners: BTreeMap<u16, &InstanceId> = BTreeMap::new();
    for record in &records {
        let cells: BTreeSet<_> = record.nodes.values().map(|node| &node.cell).collect();
        if cells.len() < record.nodes.len() {
            wrong.push(format!("the record of {} names a cell twice", record.instance_id));
        }
        if let Some(port) = record.port.owned()
            && let Some(other) = owners.insert(port.number(), &record.instance_id)
        {
            wrong.push(format!("{other} and {} own port {port}", record.instance_id));
        }
        for (id, runs, _) in &held {
            let place = record.nodes.get(&id.node).map(|node| &node.cell);
            if !runs && place == Some(&id.cell) && id.incarnation == record.incarnation {
                wrong.push(format!(
                    "{} has set {} aside, which its record names",
                    id.cell, id.node
                ));
            }
        }
        let has_data = held
            .iter()
            .any(|(id, _, data)| id.incarnation == record.incarnation && data.is_some());
        if record.state == State::Active && record.bootstrapped && !has_data {
            wrong.push(format!("the data of {} is gone", record.instance_id));
        }
    }
    wrong
}

fn records(world: &World) -> Vec<Record> {
    let content = world.store.content();
    let is_record = |key: &str| key.starts_with("/serviceinstances/") && key.ends_with("/record");
    content
        .into_iter()
        .filter(|(key, _)| is_record(key))
        .filter_map(|(_, value)| Record::parse(&value?).ok())
        .collect()
}

/// Whether any operation, or removal of a node, is under way.
#[must_use]
pub fn is_at_rest(world: &World) -> bool {
    records(world).iter().all(Record::is_at_rest)
}

/// What is not as it should be when all operations have ended and time enough has passed. Empty: everything is there that
/// should be, and nothing else.
#[must_use]
pub fn leavings(world: &World) -> Vec<String> {
    let mut wrong = violations(world);
    let mut expected: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut nodes = BTreeSet::new();
    for record in records(world) {
        let generations = world.generations(&record.instance_id);
        if generations
            .iter()
            .any(|other| *other != record.credential_generation)
        {
            wrong.push(format!(
                "passwords of {} are of generations {generations:?} instead of {}",
                record.instance_id, record.credential_generation
            ));
        }
        expect(&record, &mut expected, &mut wrong);
        let places = record.nodes.iter();
        nodes.extend(places.map(|(id, node)| (node.cell.clone(), *id, record.incarnation)));
    }
    for (id, runs, _) in world.held() {
        if !nodes.remove(&(id.cell.clone(), id.node, id.incarnation)) {
            let how = if runs { "runs" } else { "keeps the data of" };
            wrong.push(format!(
                "cell {} {how} node {} of {}, which no record names there",
                id.cell, id.node, id.instance
            ));
        } else if !runs {
            wrong.push(format!("cell {} has set node {} aside", id.cell, id.node));
        }
    }
    for (cell, node, _) in nodes {
        wrong.push(format!("cell {cell} does not run node {node}"));
    }
    compare(world, &expected, &mut wrong);
    wrong
}

/// What an instance at rest looks like in etcd. `None`: any value.
fn expect(record: &Record, expected: &mut BTreeMap<String, Option<String>>, wrong: &mut Vec<String>) {
    let id = &record.instance_id;
    if record.operation.is_some() || record.state != State::Active {
        wrong.push(format!("{id} is not at rest: {record:?}"));
    }
    expected.insert(keyspace::record(id), None);
    if record.has_plan(FEW) {
        let plan = FEW.parse().unwrap();
        expected.insert(keyspace::reservation(&plan, record.incarnation), None);
    }
    if let Some(port) = record.port.owned() {
        expected.insert(keyspace::allocation(id), Some(port.to_string()));
        let owner = owner_value(id, record.incarnation);
        expected.insert(keyspace::port(port), Some(owner));
    }
    let succeeded = record
        .last_operation
        .as_ref()
        .is_some_and(|last| last.state == OperationState::Succeeded);
    if !succeeded || record.port == PortClaim::Released {
        wrong.push(format!("{id} did not succeed: {:?}", record.last_operation));
    }
    for name in ["initialize", "config", "leader"] {
        expected.insert(format!("{}/{name}", keyspace::scope(id)), None);
    }
    for (node, placed) in &record.nodes {
        if placed.phase != Phase::Running {
            wrong.push(format!("node {node} of {id} is {:?}", placed.phase));
        }
        let cell = placed.cell.to_string();
        expected.insert(keyspace::registration(&placed.cell, *node), None);
        expected.insert(keyspace::member(id, *node), None);
        expected.insert(keyspace::backend(id, *node), Some(cell));
    }
}

/// Keys that are there in any case: of cells, of ports that were handed back, of the dead, and hints.
fn is_background(key: &str, value: &str) -> bool {
    key.starts_with("/cells/")
        || key.starts_with("/tombstones/")
        || key == keyspace::PORTS_ADOPTED
        || key == keyspace::NEXT_PORT
        || key == keyspace::RECONCILE_CURSOR
        || key == keyspace::CELL_ROLL
        || (key.starts_with("/routing/ports/") && value == "quarantine")
}

fn compare(world: &World, expected: &BTreeMap<String, Option<String>>, wrong: &mut Vec<String>) {
    let content = world.store.content();
    for (key, value) in &content {
        match value {
            None => {
                let below = format!("{key}/");
                let is_empty = !content.keys().any(|other| other.starts_with(&below));
                // An instance may have had bindings.
                let once_used = key
                    .strip_suffix("/bindings")
                    .is_some_and(|instance| expected.contains_key(&format!("{instance}/record")));
                if is_empty && !once_used && key.matches('/').count() > 2 {
                    wrong.push(format!("{key} is left empty"));
                }
            }
            Some(value) if is_background(key, value) => {}
            Some(_) if is_binding_of_an_instance(key, expected) => {}
            Some(value) => match expected.get(key) {
                None => wrong.push(format!("{key} is left: {value}")),
                Some(Some(other)) if other != value => {
                    wrong.push(format!("{key} is {value} and should be {other}"));
                }
                Some(_) => {}
            },
        }
    }
    for key in expected.keys() {
        if !content.contains_key(key) {
            wrong.push(format!("{key} is missing"));
        }
    }
}

/// Bindings are compared by whoever made them.
fn is_binding_of_an_instance(key: &str, expected: &BTreeMap<String, Option<String>>) -> bool {
    key.split_once("/bindings/")
        .is_some_and(|(instance, _)| expected.contains_key(&format!("{instance}/record")))
}

/// Whether every instance was made, or changed, as asked.
#[must_use]
pub fn all_succeeded(world: &World) -> bool {
    let succeeded = |record: &Record| {
        let last = record.last_operation.as_ref();
        last.is_some_and(|last| last.state == OperationState::Succeeded)
    };
    records(world).iter().all(succeeded)
}

/// Asserts that a world is in order, now that all operations have ended.
///
/// # Panics
/// When it is not.
pub fn assert_in_order(world: &World) {
    let wrong = leavings(world);
    assert!(wrong.is_empty(), "{}\n{world:#?}", wrong.join("\n"));
}

/// Asserts what must hold at every moment.
///
/// # Panics
/// When it does not.
pub fn assert_safe(world: &World) {
    let wrong = violations(world);
    assert!(wrong.is_empty(), "{}\n{world:#?}", wrong.join("\n"));
}
