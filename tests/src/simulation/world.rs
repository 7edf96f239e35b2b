//! Everything outside the handlers: time, the store, cells with their Patronis, databases, and calls that are still on
//! their way.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use shared::{
    broker::{Broker, Settings},
    cell_api::{REST_USER, StartNode},
    cells::RemoveAnswer,
    clock::Clock,
    config::Config,
    database::{DatabaseError, Door, Login},
    effect::StartAnswer,
    ids::{CellGuid, InstanceId, NodeId},
    keyspace,
    record::Record,
    setup,
    store::{Read, Store},
};

use super::{
    Process,
    cell::{Cell, Life},
    database::{Database, instance_at, is_target},
    handler::Handler,
    immediate::now,
    judgement::{Identity, admit, dismiss},
    patroni::{Patroni, Version},
    wire::Wire,
};
use crate::{manual_clock::ManualClock, memory_store::MemoryStore};

/// What a world begins with.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// How many cells, named `c1`, `c2`, ..., in three zones in turn.
    pub cells: usize,
    /// How many nodes each holds.
    pub capacity: u32,
    /// How many public ports there are.
    pub ports: u16,
    /// Whether Patroni is of version 3, which does not say who streams.
    pub patroni_3: bool,
    /// Seconds that a node takes to stop.
    pub stopping_takes: u32,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Layout {
    /// Six cells with enough room, Patroni 4.
    fn default() -> Self {
        Self {
            cells: 6,
            capacity: 20,
            ports: 100,
            patroni_3: false,
            stopping_takes: 0,
            seed: 0,
        }
    }
}

/// The first public port of every world.
pub(super) const FIRST_PORT: u16 = 30000;

/// A world.
pub struct World {
    /// Its time, and chance.
    pub clock: Arc<ManualClock>,
    /// Its etcd.
    pub store: MemoryStore,
    settings: Arc<Settings>,
    version: Version,
    state: Mutex<State>,
}

struct State {
    cells: BTreeMap<CellGuid, Cell>,
    databases: BTreeMap<String, Database>,
    systems: u64,
    late: Vec<(Timestamp, LateCall)>,
    log: Vec<String>,
}

type LateCall = Box<dyn FnOnce(&World) + Send>;

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(layout: Layout) -> Arc<Self> {
        let clock = Arc::new(ManualClock::new(layout.seed));
        let store = MemoryStore::new(Arc::<ManualClock>::clone(&clock));
        let cells = (1..=layout.cells).map(|n| {
            let guid: CellGuid = format!("c{n}").parse().unwrap();
            let mut cell = Cell::new(guid.clone(), format!("z{}", (n - 1) % 3 + 1), layout.capacity);
            cell.stopping_takes = layout.stopping_takes;
            (guid, cell)
        });
        let state = State {
            cells: cells.collect(),
            databases: BTreeMap::new(),
            systems: 0,
            late: Vec::new(),
            log: Vec::new(),
        };
        let world = Self {
            clock,
            store,
            settings: settings(layout.ports),
            version: if layout.patroni_3 {
                Version::Three
            } else {
                Version::Four
            },
            state: Mutex::new(state),
        };
        world.tick();
        Arc::new(world)
    }

    /// A handler in a process of its own.
    #[must_use]
    pub fn handler(self: &Arc<Self>, process: Process) -> Handler {
        let process = Arc::new(process);
        let wire = Arc::new(Wire::new(Arc::clone(self), Arc::clone(&process)));
        let broker = Broker {
            store: Arc::<Wire>::clone(&wire),
            cells: Arc::<Wire>::clone(&wire),
            patroni: Arc::<Wire>::clone(&wire),
            databases: wire,
            clock: Arc::<ManualClock>::clone(&self.clock),
            settings: Arc::clone(&self.settings),
        };
        Handler::new(Arc::clone(self), broker, process)
    }

    /// Lets a second pass.
    pub fn tick(&self) {
        self.clock.advance(Duration::from_secs(1));
        let now = self.clock.now();
        let due = self.with(|state| {
            let (due, later) = std::mem::take(&mut state.late)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            state.late = later;
            due
        });
        let due: Vec<(Timestamp, LateCall)> = due;
        for (_, call) in due {
            call(self);
        }
        self.with(|state| {
            for cell in state.cells.values_mut() {
                cell.turn(&self.store, self.version, &mut state.systems);
            }
        });
    }

    /// Lets so many seconds pass.
    pub fn pass(&self, seconds: u32) {
        (0..seconds).for_each(|_| self.tick());
    }

    /// A cell, and all that runs on it, is cut off, or is back.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn set_up(&self, cell: &str, up: bool) {
        let guid: CellGuid = cell.parse().unwrap();
        self.with(|state| state.cells.get_mut(&guid).unwrap().up = up);
    }

    /// The record of an instance.
    ///
    /// # Panics
    /// When what is there is not one.
    #[must_use]
    pub fn record(&self, id: &InstanceId) -> Option<Record> {
        let entry = now(self.store.get(&keyspace::record(id), Read::Quorum)).unwrap()?;
        Some(Record::parse(&entry.value).unwrap())
    }

    /// Every call of every process, in their order, with their time.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.with(|state| state.log.clone())
    }

    pub(super) fn note(&self, event: &str) {
        let line = format!("{} {event}", self.clock.now());
        self.with(|state| state.log.push(line));
    }

    /// Whether calls are still on their way.
    #[must_use]
    pub fn has_late_calls(&self) -> bool {
        self.with(|state| !state.late.is_empty())
    }

    /// Whether each role of an instance can log in.
    #[must_use]
    pub fn logins(&self, id: &InstanceId) -> BTreeMap<String, bool> {
        self.with(|state| {
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let data = nodes.find(|patroni| patroni.id.instance == *id && patroni.leads());
            data.and_then(|patroni| patroni.data.as_ref())
                .and_then(|system| state.databases.get(system))
                .map(|database| database.roles.clone())
                .unwrap_or_default()
        })
    }

    /// All nodes that cells hold: who, on which cell, whether it runs, and what data it has.
    pub(super) fn held(&self) -> Vec<(Identity, bool, Option<String>)> {
        self.with(|state| {
            let cells = state.cells.values();
            let shown = |held: &super::cell::Held| {
                let runs = held.life != Life::SetAside;
                (held.patroni.id.clone(), runs, held.patroni.data.clone())
            };
            cells.flat_map(|cell| cell.nodes.values().map(shown)).collect()
        })
    }

    pub(super) fn later(&self, seconds: u32, call: LateCall) {
        let at = self.clock.now() + SignedDuration::from_secs(seconds.into());
        self.with(|state| state.late.push((at, call)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn at_cell<T>(&self, cell: &CellGuid, change: impl FnOnce(&mut Cell) -> T) -> Option<T> {
        self.with(|state| state.cells.get_mut(cell).filter(|cell| cell.up).map(change))
    }

    /// A cell looks at the record before it takes a node in. `Ok`: it may; `Err`: the answer is settled.
    pub(super) fn examine(
        &self,
        cell: &CellGuid,
        node: NodeId,
        request: &StartNode,
    ) -> Result<(), StartAnswer> {
        let id = identity(cell, node, request);
        self.recognise(&id)?;
        admit(self.record(&id.instance).as_ref(), &id)
            .map_err(|reason| StartAnswer::Unclear(format!("cell {cell} answered 409: {reason}")))
    }

    /// The node is here already, or never may be, or the cell does not answer.
    fn recognise(&self, id: &Identity) -> Result<(), StartAnswer> {
        let cell = &id.cell;
        let known = self.at_cell(cell, |cell| {
            if cell.retired.contains(&id.node) {
                return Some(StartAnswer::Refused("the node is retired".to_owned()));
            }
            let held = cell.nodes.get_mut(&id.node)?;
            held.nudged = true;
            Some(StartAnswer::Accepted)
        });
        let unreachable = StartAnswer::Refused(format!("cell {cell} cannot be reached"));
        known.unwrap_or(Some(unreachable)).map_or(Ok(()), Err)
    }

    /// The cell takes a node in that it has looked up.
    pub(super) fn admit(&self, cell: &CellGuid, node: NodeId, request: &StartNode) -> StartAnswer {
        let id = identity(cell, node, request);
        if let Err(settled) = self.recognise(&id) {
            return settled;
        }
        let admitted = self.at_cell(cell, |cell| {
            if cell.load() >= cell.capacity {
                return StartAnswer::Refused(format!("cell {} is full", cell.guid));
            }
            cell.hold(&self.store, Patroni::new(id, &request.parameters));
            StartAnswer::Accepted
        });
        admitted.unwrap_or_else(|| StartAnswer::Refused(format!("cell {cell} cannot be reached")))
    }

    pub(super) fn remove(&self, cell: &CellGuid, node: NodeId) -> RemoveAnswer {
        let unreachable = || RemoveAnswer::NotYet(format!("cell {cell} cannot be reached"));
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
            if let Err(reason) = dismiss(self.record(&id.instance).as_ref(), leader.as_deref(), &id) {
                return RemoveAnswer::NotYet(format!("cell {cell} answered 409: {reason}"));
            }
        }
        let gone = self.at_cell(cell, |cell| {
            cell.retired.insert(node);
            let left = cell.stopping_takes;
            if left == 0 {
                cell.remove(&self.store, node);
                return RemoveAnswer::Gone;
            }
            if let Some(held) = cell.nodes.get_mut(&node)
                && !matches!(held.life, Life::Ends { .. })
            {
                held.patroni.stop(&self.store);
                held.life = Life::Ends { left };
            }
            RemoveAnswer::NotYet(format!("cell {} is still stopping it", cell.guid))
        });
        gone.unwrap_or_else(unreachable)
    }

    /// The Patroni that answers at this URL.
    fn at_api<T>(
        &self,
        api: &str,
        call: impl FnOnce(&State, &Patroni) -> Result<T, String>,
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
        password: &str,
        patch: &Map<String, Value>,
    ) -> Result<(), String> {
        self.at_api(api, |_, patroni| {
            if patroni.restapi_password != password {
                return Err(format!("401 for {REST_USER}"));
            }
            let key = format!("{}/config", keyspace::scope(&patroni.id.instance));
            let entry = now(self.store.get(&key, Read::Quorum)).unwrap();
            let entry = entry.ok_or("there is no configuration")?;
            let mut config: Map<String, Value> = serde_json::from_str(&entry.value).unwrap();
            merge(&mut config, patch);
            let config = Value::Object(config).to_string();
            now(self.store.compare_and_swap(&key, &config, entry.index, None)).unwrap();
            Ok(())
        })
    }

    pub(super) fn switchover(&self, api: &str, leader: &str, candidate: &str) -> Result<(), String> {
        self.at_api(api, |state, patroni| {
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
            now(self.store.compare_and_swap(&key, candidate, entry.index, ttl)).unwrap();
            Ok(())
        })
    }

    /// The database behind a public port, if it leads anywhere and the password is right.
    fn behind<T>(
        &self,
        door: &Door,
        call: impl FnOnce(&str, &mut Database) -> T,
    ) -> Result<T, DatabaseError> {
        use secrecy::ExposeSecret;
        let refused = || DatabaseError("connection refused".to_owned());
        let instance = instance_at(&self.store, door.port).ok_or_else(refused)?;
        self.with(|state| {
            let mut nodes = state.cells.values().flat_map(Cell::running);
            let leader = nodes
                .find(|patroni| is_target(&self.store, &instance, patroni))
                .ok_or_else(refused)?;
            if leader.superuser_password != door.password.expose_secret() {
                return Err(DatabaseError("password authentication failed".to_owned()));
            }
            let system = leader.data.clone().ok_or_else(refused)?;
            let database = state.databases.entry(system.clone()).or_default();
            Ok(call(&system, database))
        })
    }

    pub(super) fn prepare(&self, door: &Door, system_identifier: &str) -> Result<(), DatabaseError> {
        self.behind(door, |system, database| {
            if system != system_identifier {
                return Err(DatabaseError(format!("it leads to another cluster ({system})")));
            }
            database.prepared = true;
            Ok(())
        })?
    }

    pub(super) fn create_login(&self, door: &Door, role: &str) -> Result<Login, DatabaseError> {
        self.behind(door, |_, database| database.create_login(role))?
    }

    pub(super) fn withdraw_login(&self, door: &Door, role: &str) -> Result<(), DatabaseError> {
        self.behind(door, |_, database| database.withdraw_login(role))
    }
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

/// What the configuration of every broker says, but for the number of ports.
fn settings(ports: u16) -> Arc<Settings> {
    static KNOWN: OnceLock<Mutex<BTreeMap<u16, Arc<Settings>>>> = OnceLock::new();
    let mut known = KNOWN
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let made = known.entry(ports).or_insert_with(|| {
        let text = format!(
            "\
broker: {{username: u, password: p}}
router: {{hostname: h}}
kvstore: {{machines: ['http://127.0.0.1:1']}}
cell: {{username: u, password: p}}
ports: {{range: {FIRST_PORT}-{}}}
secrets: {{master_keys: [{{id: k, value_for_development: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}}]}}
catalog:
  services:
  - id: s1
    name: postgresql
    description: about it
    plans:
    - {{id: p1, name: small, description: less, cluster: {{nodes: {{default: 2, max: 5}}}}}}
",
            FIRST_PORT + ports - 1
        );
        let config = Config::parse("world.yml", &text, []).unwrap();
        setup::broker(config).unwrap().settings
    });
    Arc::clone(made)
}
