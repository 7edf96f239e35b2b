//! What cells, Patroni and PostgreSQL do when a handler calls them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Map, Value};
use shared::{
    cell_api::{CellStatus, NodeParameters, NodeState, NodeStatus, REST_USER, StartNode},
    cells::RemoveAnswer,
    database::{Change, DatabaseError, Door, Login, NodeSettings, Reach},
    effect::StartAnswer,
    ids::{CellGuid, InstanceId, NodeId},
    keyspace,
    master_keys::Passwords,
    record::{Record, State},
    store::Read,
};

use super::{
    Bug, World,
    cell::{Cell, Held, Life},
    database::{Database, instance_at, is_target},
    immediate::now,
    judgement::{Identity, admit, dismiss},
    patroni::Patroni,
    world::State as WorldState,
};

impl World {
    fn at_cell<T>(&self, cell: &CellGuid, change: impl FnOnce(&mut Cell) -> T) -> Option<T> {
        self.with(|state| state.cells.get_mut(cell).filter(|cell| cell.up).map(change))
    }

    /// Whether a cell takes requests and does not answer them.
    pub(super) fn hangs(&self, cell: &CellGuid) -> bool {
        self.at_cell(cell, |cell| cell.hangs).unwrap_or_default()
    }

    /// A cell looks at the record before it takes a node in. `Ok`: it may; `Err`: the answer is settled.
    pub(super) fn examine(
        &self,
        cell: &CellGuid,
        node: NodeId,
        request: &StartNode,
    ) -> Result<(), StartAnswer> {
        let id = identity(cell, node, request);
        self.recognise(&id, &request.parameters)?;
        if self.bug() == Some(Bug::CellTakesWhateverComes) {
            return Ok(());
        }
        admit(self.record(&id.instance).as_ref(), &id)
            .map_err(|reason| StartAnswer::Unclear(format!("cell {cell} answered 409: {reason}")))
    }

    /// The node is here already, or never may be, or the cell does not answer.
    fn recognise(&self, id: &Identity, parameters: &NodeParameters) -> Result<(), StartAnswer> {
        let cell = &id.cell;
        let known = self.at_cell(cell, |cell| {
            if cell.retired.contains(&id.node) && cell.bug != Some(Bug::CellTakesWhateverComes) {
                return Some(StartAnswer::Refused("the node is retired".to_owned()));
            }
            let late = cell.bug == Some(Bug::TakesFormerPasswords);
            let held = cell.nodes.get_mut(&id.node)?;
            held.nudged = true;
            held.patroni.take_over(parameters, late);
            Some(StartAnswer::Accepted(Some(held.patroni.generation)))
        });
        let unreachable = StartAnswer::Refused(format!("cell {cell} cannot be reached"));
        known.unwrap_or(Some(unreachable)).map_or(Ok(()), Err)
    }

    /// The cell takes a node in that it has looked up.
    pub(super) fn admit(&self, cell: &CellGuid, node: NodeId, request: &StartNode) -> StartAnswer {
        let id = identity(cell, node, request);
        if let Err(settled) = self.recognise(&id, &request.parameters) {
            return settled;
        }
        let admitted = self.at_cell(cell, |cell| {
            if cell.load() >= cell.capacity {
                return StartAnswer::Refused(format!("cell {} is full", cell.guid));
            }
            let patroni = Patroni::new(id, &request.parameters, cell.http);
            let generation = patroni.generation;
            cell.hold(&*self.store, patroni);
            StartAnswer::Accepted(Some(generation))
        });
        admitted.unwrap_or_else(|| StartAnswer::Refused(format!("cell {cell} cannot be reached")))
    }

    pub(super) fn remove(&self, cell: &CellGuid, node: NodeId) -> RemoveAnswer {
        let unreachable = || {
            if self.bug() == Some(Bug::SilenceOfACellIsConsent) {
                return RemoveAnswer::Gone;
            }
            RemoveAnswer::NotYet(format!("cell {cell} cannot be reached"))
        };
        let held = self.at_cell(cell, |cell| {
            let held = cell
                .nodes
                .get(&node)
                .map(|held| (held.patroni.id.clone(), held.life));
            if held.is_none() {
                cell.retired.insert(node);
            }
            held
        });
        let Some(held) = held else { return unreachable() };
        let Some((id, life)) = held else {
            return RemoveAnswer::Gone;
        };
        if !matches!(life, Life::Ends { .. }) {
            let key = format!("{}/leader", keyspace::scope(&id.instance));
            let leader = now(self.store.get(&key, Read::Quorum))
                .unwrap()
                .map(|entry| entry.value);
            let record = self.record(&id.instance);
            let lives = |record: &&Record| {
                record.incarnation == id.incarnation && record.state == State::Active && record.bootstrapped
            };
            if leader == Some(node.to_string()) && record.as_ref().is_some_and(|record| lives(&record)) {
                self.blame(format!("{cell} was asked to remove {node}, which leads"));
            }
            let key = keyspace::tombstone(&id.instance);
            let tombstone = now(self.store.get(&key, Read::Quorum)).unwrap();
            let tombstone = tombstone.and_then(|entry| serde_json::from_str(&entry.value).ok());
            if let Err(reason) = dismiss(record.as_ref(), tombstone.as_ref(), leader.as_deref(), &id) {
                return RemoveAnswer::NotYet(format!("cell {cell} answered 409: {reason}"));
            }
        }
        let gone = self.at_cell(cell, |cell| {
            cell.retired.insert(node);
            let left = cell.stopping_takes;
            if left == 0 {
                cell.remove(&*self.store, node);
                return RemoveAnswer::Gone;
            }
            if let Some(held) = cell.nodes.get_mut(&node)
                && !matches!(held.life, Life::Ends { .. })
            {
                held.patroni.stop(&*self.store);
                held.life = Life::Ends { left };
            }
            RemoveAnswer::NotYet(format!("cell {} is still stopping it", cell.guid))
        });
        gone.unwrap_or_else(unreachable)
    }

    /// What a cell says that it holds.
    pub(super) fn status(&self, cell: &CellGuid) -> Result<CellStatus, String> {
        let status = |held: &Held| NodeStatus {
            node_id: held.patroni.id.node,
            instance_id: held.patroni.id.instance.clone(),
            incarnation: held.patroni.id.incarnation,
            state: match held.life {
                Life::Runs | Life::Doubted => NodeState::Running,
                Life::SetAside => NodeState::Quarantined,
                Life::Ends { .. } => NodeState::Stopping,
            },
            address: format!("{}:15000", held.patroni.id.cell),
            rest_address: held.patroni.api(),
            credential_generation: Some(held.patroni.generation),
        };
        let hides = self.bug() == Some(Bug::TakesCellsForEmpty);
        let held = self.at_cell(cell, |cell| CellStatus {
            guid: cell.guid.clone(),
            nodes: cell.nodes.values().filter(|_| !hides).map(status).collect(),
            unkept: Some(BTreeSet::new()),
        });
        held.ok_or_else(|| format!("cell {cell} cannot be reached"))
    }

    /// The Patroni that answers at this URL.
    fn at_api<T>(
        &self,
        api: &str,
        call: impl FnOnce(&WorldState, &Patroni) -> Result<T, String>,
    ) -> Result<T, String> {
        self.with(|state| {
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let patroni = nodes.find(|patroni| patroni.api() == api);
            patroni.map_or_else(
                || Err("Patroni did not answer: connection refused".to_owned()),
                |patroni| call(state, patroni),
            )
        })
    }

    pub(super) fn replication(&self, api: &str) -> Result<BTreeMap<String, String>, String> {
        self.at_api(api, |state, leader| {
            let nodes = state.cells.values().flat_map(Cell::running);
            let standbys = nodes.filter(|patroni| patroni.data == leader.data && patroni.streams());
            Ok(standbys
                .map(|patroni| (patroni.name(), "streaming".to_owned()))
                .collect())
        })
    }

    pub(super) fn configure(
        &self,
        api: &str,
        passwords: &Passwords,
        patch: &Map<String, Value>,
    ) -> Result<(), String> {
        self.at_api(api, |_, patroni| {
            if !opens(passwords, &patroni.restapi_password) {
                return Err(format!("401 for {REST_USER}"));
            }
            let key = format!("{}/config", keyspace::scope(&patroni.id.instance));
            let entry = now(self.store.get(&key, Read::Quorum)).unwrap();
            let entry = entry.ok_or("there is no configuration")?;
            let config = serde_json::from_str(&entry.value);
            let mut config: Map<String, Value> = config.map_err(|_| "500: no configuration to patch")?;
            merge(&mut config, patch);
            let config = Value::Object(config).to_string();
            now(self.store.compare_and_swap(&key, &config, entry.index, None))
                .map_err(|error| error.to_string())?;
            Ok(())
        })
    }

    /// Restarts a node's PostgreSQL, `conditionally` if that is pending, as Patroni does.
    pub(super) fn restart(
        &self,
        api: &str,
        passwords: &Passwords,
        role: &str,
        conditionally: bool,
    ) -> Result<(), String> {
        let (id, leads, wrong) = self.at_api(api, |state, patroni| {
            if !opens(passwords, &patroni.restapi_password) {
                return Err(format!("401 for {REST_USER}"));
            }
            let own = if patroni.is_primary() {
                ["master", "primary"]
            } else {
                ["replica"; 2]
            };
            let pending = patroni.settings.is_pending();
            if !patroni.answers() {
                return Err("503 restart already in progress".to_owned());
            }
            if !own.contains(&role) || (conditionally && !pending) {
                return Err("503 restart conditions are not satisfied".to_owned());
            }
            let nodes = || state.cells.values().flat_map(Cell::running);
            let others = || nodes().filter(|other| other.id != patroni.id && other.data == patroni.data);
            let too_small = |other: &Patroni| !other.settings.bears(&patroni.settings);
            let mut wrong = Vec::new();
            if !pending {
                wrong.push(format!("{} was restarted and did not need it", patroni.id.node));
            }
            if patroni.is_primary() && others().any(too_small) {
                wrong.push(format!(
                    "{} was restarted before replicas that have less",
                    patroni.id.node
                ));
            }
            Ok((patroni.id.clone(), patroni.is_primary(), wrong))
        })?;
        for wrong in wrong {
            self.blame(wrong);
        }
        self.note(if leads {
            "node: leader restarted"
        } else {
            "node: replica restarted"
        });
        self.at_cell(&id.cell, |cell| {
            if let Some(held) = cell.nodes.get_mut(&id.node) {
                held.patroni.restart();
            }
        });
        Ok(())
    }

    /// What the PostgreSQL at an address says that it runs with.
    pub(super) fn settings(&self, door: &Door) -> Result<NodeSettings, DatabaseError> {
        let address = format!("{}:{}", door.host, door.port);
        self.with(|state| {
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let node = nodes.find(|patroni| patroni.address() == address && patroni.answers());
            let node = node.ok_or_else(|| DatabaseError::Unreachable("connection refused".to_owned()))?;
            let system = node.data.as_ref().and_then(|system| state.databases.get(system));
            if !system.is_some_and(|database| opens(&door.passwords, &database.superuser)) {
                return Err(DatabaseError::Refused {
                    state: "28P01".to_owned(),
                    message: "password authentication failed".to_owned(),
                });
            }
            Ok(node.settings.told())
        })
    }

    /// With how many connections each node of an instance runs, and whether it is to be restarted.
    #[must_use]
    pub fn run_with(&self, id: &InstanceId) -> Vec<(i64, bool)> {
        self.with(|state| {
            let nodes = state.cells.values().flat_map(Cell::running);
            let own = nodes.filter(|patroni| patroni.id.instance == *id);
            own.map(|patroni| (patroni.settings.runs, patroni.settings.is_pending()))
                .collect()
        })
    }

    pub(super) fn switchover(
        &self,
        api: &str,
        passwords: &Passwords,
        leader: &str,
        candidate: &str,
    ) -> Result<(), String> {
        self.at_api(api, |state, patroni| {
            if !opens(passwords, &patroni.restapi_password) {
                return Err(format!("401 for {REST_USER}"));
            }
            let key = format!("{}/leader", keyspace::scope(&patroni.id.instance));
            let entry = now(self.store.get(&key, Read::Quorum)).unwrap();
            let entry = entry.filter(|entry| entry.value == leader);
            let entry = entry.ok_or("412 leader name does not match")?;
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let fits = |node: &Patroni| node.name() == candidate && node.streams() && !node.nofailover;
            if !nodes.any(fits) {
                return Err("412 candidate does not exist".to_owned());
            }
            let ttl = Some(Duration::from_secs(30));
            now(self.store.compare_and_swap(&key, candidate, entry.index, ttl))
                .map_err(|error| error.to_string())?;
            Ok(())
        })
    }

    /// The database behind a public port, if it leads anywhere and the password is right.
    fn behind<T>(
        &self,
        door: &Door,
        call: impl FnOnce(&str, &mut Database) -> T,
    ) -> Result<T, DatabaseError> {
        let refused = || DatabaseError::Unreachable("connection refused".to_owned());
        let instance = instance_at(&*self.store, door.port).ok_or_else(refused)?;
        self.with(|state| {
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let leader = nodes
                .find(|patroni| is_target(&*self.store, &instance, patroni))
                .ok_or_else(refused)?;
            let system = leader.data.clone().ok_or_else(refused)?;
            let new = Database::new(leader.superuser_password.clone(), leader.generation);
            let database = state.databases.entry(system.clone()).or_insert(new);
            if !opens(&door.passwords, &database.superuser) {
                return Err(DatabaseError::Refused {
                    state: "28P01".to_owned(),
                    message: "password authentication failed".to_owned(),
                });
            }
            Ok(call(&system, database))
        })
    }

    pub(super) fn prepare(&self, door: &Door, system_identifier: &str) -> Result<(), DatabaseError> {
        self.behind(door, |system, database| {
            if system != system_identifier {
                return Err(DatabaseError::Unfit(format!(
                    "it leads to another cluster ({system})"
                )));
            }
            database.prepared = true;
            Ok(())
        })?
    }

    pub(super) fn change_passwords(
        &self,
        door: &Door,
        system_identifier: &str,
        change: &Change,
    ) -> Result<Reach, DatabaseError> {
        let late = self.bug() == Some(Bug::TakesFormerPasswords);
        self.behind(door, |system, database| {
            if system != system_identifier {
                return Err(DatabaseError::Unfit(format!(
                    "it leads to another cluster ({system})"
                )));
            }
            database.change_passwords(change, late)
        })?
    }

    /// How far passwords of an instance are that were changed: the generations of its database and of its nodes.
    #[must_use]
    pub fn generations(&self, id: &InstanceId) -> Vec<u32> {
        self.with(|state| {
            let nodes = state.cells.values().flat_map(Cell::running);
            let own = nodes.filter(|patroni| patroni.id.instance == *id);
            let both = own.flat_map(|patroni| {
                let system = patroni
                    .data
                    .as_ref()
                    .and_then(|system| state.databases.get(system));
                [
                    Some(patroni.generation),
                    system.map(|database| database.generation),
                ]
            });
            both.flatten().collect()
        })
    }

    /// The system identifier of the cluster that a public port leads to.
    pub(super) fn system_behind(&self, door: &Door) -> Result<String, DatabaseError> {
        self.behind(door, |system, _| system.to_owned())
    }

    pub(super) fn create_login(&self, door: &Door, role: &str) -> Result<Login, DatabaseError> {
        self.behind(door, |_, database| database.create_login(role))?
    }

    pub(super) fn withdraw_login(&self, door: &Door, role: &str) -> Result<(), DatabaseError> {
        self.behind(door, |_, database| database.withdraw_login(role))
    }
}

/// Whether one of these passwords is the right one.
fn opens(passwords: &Passwords, right: &str) -> bool {
    use secrecy::ExposeSecret;
    passwords
        .to_try()
        .any(|password| password.expose_secret() == right)
}

fn identity(cell: &CellGuid, node: NodeId, request: &StartNode) -> Identity {
    Identity {
        cell: cell.clone(),
        instance: request.parameters.patroni_scope.clone(),
        incarnation: request.parameters.incarnation,
        node,
    }
}

/// As Patroni patches: null removes, objects are merged.
fn merge(config: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match (config.get_mut(name), value) {
            (_, Value::Null) => drop(config.remove(name)),
            (Some(Value::Object(there)), Value::Object(patch)) => merge(there, patch),
            _ => drop(config.insert(name.clone(), value.clone())),
        }
    }
}
