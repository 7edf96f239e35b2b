//! Everything outside the handlers: time, the store, cells with their Patronis, databases, and calls that are still on
//! their way.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use shared::{
    broker::{Broker, Settings},
    clock::Clock,
    config::Config,
    decide::decide,
    ids::{CellGuid, InstanceId},
    keyspace,
    record::Record,
    setup,
    store::Read,
};

use super::{
    Bug, Process,
    cell::{Cell, Life},
    database::Database,
    ground::Ground,
    handler::Handler,
    immediate::now,
    judgement::Identity,
    patroni::Version,
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
    /// Seconds between two heartbeats of a cell.
    pub beat: u64,
    /// How many public ports there are.
    pub ports: u16,
    /// Whether Patroni is of version 3, which does not say who streams.
    pub patroni_3: bool,
    /// Seconds that a node takes to stop.
    pub stopping_takes: u32,
    /// Where its cells and Patronis answer over HTTP (see [`super::stand_in`]), and not only to its own handlers.
    pub http: Option<SocketAddr>,
    /// What is broken on purpose.
    pub bug: Option<Bug>,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Layout {
    /// Six cells with enough room, Patroni 4.
    fn default() -> Self {
        Self {
            cells: 6,
            capacity: 20,
            beat: 10,
            ports: 100,
            patroni_3: false,
            stopping_takes: 0,
            http: None,
            bug: None,
            seed: 0,
        }
    }
}

/// How long a cell may be missing before its nodes are replaced.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// The first public port of every world.
pub(super) const FIRST_PORT: u16 = 30000;

/// How many instances may have the plan `few` at once. The others have no quota.
pub const QUOTA: usize = 2;

/// A world.
pub struct World {
    /// Its time, and chance.
    pub clock: Arc<ManualClock>,
    /// Its etcd.
    pub store: Arc<dyn Ground>,
    settings: Arc<Settings>,
    version: Version,
    bug: Option<Bug>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) cells: BTreeMap<CellGuid, Cell>,
    pub(super) databases: BTreeMap<String, Database>,
    systems: u64,
    late: Vec<(Timestamp, LateCall)>,
    log: Vec<String>,
    /// What should never have happened, noticed when it did.
    wrong: Vec<String>,
}

type LateCall = Box<dyn FnOnce(&World) + Send>;

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("store", &self.store.content())
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(layout: Layout) -> Arc<Self> {
        let clock = Arc::new(ManualClock::new(layout.seed));
        let store = MemoryStore::new(Arc::<ManualClock>::clone(&clock));
        Self::made(layout, clock, Arc::new(store))
    }

    /// The same with another store, in which nothing is yet.
    #[must_use]
    pub fn on(store: Arc<dyn Ground>, layout: Layout) -> Arc<Self> {
        Self::made(layout, Arc::new(ManualClock::new(layout.seed)), store)
    }

    fn made(layout: Layout, clock: Arc<ManualClock>, store: Arc<dyn Ground>) -> Arc<Self> {
        let cells = (1..=layout.cells).map(|n| {
            let guid: CellGuid = format!("c{n}").parse().unwrap();
            let mut cell = Cell::new(guid.clone(), format!("z{}", (n - 1) % 3 + 1), &layout);
            cell.stopping_takes = layout.stopping_takes;
            cell.http = layout.http;
            cell.bug = layout.bug;
            cell.writes_late = store.follows_the_clock();
            (guid, cell)
        });
        let state = State {
            cells: cells.collect(),
            databases: BTreeMap::new(),
            systems: 0,
            late: Vec::new(),
            log: Vec::new(),
            wrong: Vec::new(),
        };
        let world = Self {
            clock,
            store,
            settings: settings(layout.ports, "p1"),
            version: if layout.patroni_3 {
                Version::Three
            } else {
                Version::Four
            },
            bug: layout.bug,
            state: Mutex::new(state),
        };
        world.tick();
        Arc::new(world)
    }

    /// A handler in a process of its own.
    #[must_use]
    pub fn handler(self: &Arc<Self>, process: Process) -> Handler {
        self.handler_with(process, Arc::clone(&self.settings))
    }

    /// A handler whose catalog holds another plan than all instances have.
    #[must_use]
    pub fn handler_with_another_plan(self: &Arc<Self>, process: Process) -> Handler {
        self.handler_with(process, settings(100, "p2"))
    }

    /// A handler that is configured otherwise.
    #[must_use]
    pub fn handler_with(self: &Arc<Self>, process: Process, settings: Arc<Settings>) -> Handler {
        let process = Arc::new(process);
        let wire = Arc::new(Wire::new(Arc::clone(self), Arc::clone(&process)));
        let broker = Broker {
            store: Arc::<Wire>::clone(&wire),
            cells: Arc::<Wire>::clone(&wire),
            patroni: Arc::<Wire>::clone(&wire),
            databases: wire,
            decide: self.bug.map_or(decide, Bug::decide),
            clock: Arc::<ManualClock>::clone(&self.clock),
            settings,
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
                cell.turn(&*self.store, self.version, &mut state.systems);
            }
        });
    }

    /// Lets so many seconds pass: one by one, unless nothing in the store runs out of time by this clock.
    pub fn pass(&self, seconds: u32) {
        if self.store.follows_the_clock() {
            (0..seconds).for_each(|_| self.tick());
        } else {
            let but_one = seconds.saturating_sub(1);
            self.clock.advance(Duration::from_secs(but_one.into()));
            self.tick();
        }
    }

    /// A cell, and all that runs on it, is cut off, or is back.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn set_up(&self, cell: &str, up: bool) {
        let guid: CellGuid = cell.parse().unwrap();
        let now = self.clock.now();
        self.with(|state| {
            let cell = state.cells.get_mut(&guid).unwrap();
            if cell.up != up {
                cell.up = up;
                // A cell that is back for a moment only may not have come to send a heartbeat.
                let beat = cell.between_beats();
                let goes_on = |(_, to): &(Timestamp, Timestamp)| now.duration_since(*to) <= beat;
                if !up && !cell.outages.last().is_some_and(goes_on) {
                    cell.outages.push((now, Timestamp::MAX));
                }
                cell.outages.last_mut().unwrap().1 = if up { now } else { Timestamp::MAX };
            }
        });
        self.note(if up { "a cell is back" } else { "a cell is cut off" });
    }

    /// The disk of a cell is lost, and it goes on with an empty one.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn lose_disk(&self, cell: &str) {
        let guid: CellGuid = cell.parse().unwrap();
        self.with(|state| state.cells.get_mut(&guid).unwrap().lose_disk(&*self.store));
        self.note("a cell has lost its disk");
    }

    /// A cell is lost for good, with all that was on it.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn burn_down(&self, cell: &str) {
        self.set_up(cell, false);
        let guid: CellGuid = cell.parse().unwrap();
        self.with(|state| state.cells.get_mut(&guid).unwrap().burn_down());
    }

    /// Whether a cell was away for longer than its nodes are left alone.
    pub(super) fn was_away_for_long(&self, cell: &CellGuid) -> bool {
        let now = self.clock.now();
        let long = |(from, to): &(Timestamp, Timestamp)| now.min(*to).duration_since(*from) > PATIENCE;
        self.with(|state| {
            state
                .cells
                .get(cell)
                .is_some_and(|cell| cell.outages.iter().any(long))
        })
    }

    /// How many cells have been away for so long that everybody knows, and how many there are.
    pub(super) fn away(&self) -> (usize, usize) {
        let now = self.clock.now();
        self.with(|state| {
            let away = |cell: &&Cell| {
                let last = cell.outages.last().filter(|_| !cell.up);
                last.is_some_and(|(from, _)| now.duration_since(*from) > PATIENCE)
            };
            (state.cells.values().filter(away).count(), state.cells.len())
        })
    }

    /// The bug that is planted in this world, if any.
    #[must_use]
    pub fn bug(&self) -> Option<Bug> {
        self.bug
    }

    pub(super) fn blame(&self, what: String) {
        self.note(&what);
        self.with(|state| state.wrong.push(what));
    }

    /// What should never have happened.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.with(|state| {
            let cells = state.cells.values();
            let of_cells = cells.flat_map(|cell| cell.wrong.iter().cloned());
            state.wrong.iter().cloned().chain(of_cells).collect()
        })
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

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the configuration of every broker says, but for the number of ports and the id of the plan.
fn settings(ports: u16, plan: &'static str) -> Arc<Settings> {
    type Known = BTreeMap<(u16, &'static str), Arc<Settings>>;
    static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
    let mut known = KNOWN
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let made = known.entry((ports, plan)).or_insert_with(|| {
        let text = format!(
            "\
broker: {{username: u, password: p}}
router: {{hostname: h}}
kvstore: {{machines: ['http://127.0.0.1:1']}}
cell: {{username: u, password: p}}
ports: {{range: {FIRST_PORT}-{}}}
operations: {{replace_after: 60}}
secrets: {{master_keys: [{{id: k, value_for_development: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}}]}}
catalog:
  services:
  - id: s1
    name: postgresql
    description: about it
    plan_updateable: true
    allow_context_updates: true
    plans:
    - {{id: {plan}, name: small, description: less, cluster: {{nodes: {{default: 2, max: 5}}}}}}
    - {{id: wide, name: wide, description: more, cluster: {{postgresql: {{parameters: {{max_connections: 200}}}}}}}}
    - {{id: narrow, name: narrow, description: less, cluster: {{postgresql: {{parameters: {{max_connections: 50}}}}}}}}
    - {{id: few, name: few, description: not many, cluster: {{nodes: {{default: 2, max: 5}}, instances: {{max: {QUOTA}}}}}}}
    - {{id: quiet, name: quiet, description: as many, cluster: {{postgresql: {{parameters: {{jit: false}}}}}}}}
",
            FIRST_PORT + ports - 1
        );
        let config = Config::parse("world.yml", &text, []).unwrap();
        setup::broker(config).unwrap().settings
    });
    Arc::clone(made)
}
