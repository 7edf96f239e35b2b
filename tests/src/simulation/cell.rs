//! A cell: which nodes it holds, and what it makes of the requests of handlers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use shared::{
    cell_api::Heartbeat,
    ids::{CellGuid, InstanceId, NodeId},
    keyspace,
    record::{Node, Phase, Record, Tombstone},
    store::{Read, Store, StoreError},
};

use super::{
    Bug,
    immediate::now,
    judgement::{Identity, Judgement, judge},
    patroni::{Patroni, Version},
    world::Layout,
};

const MEMBER_TTL: Duration = Duration::from_secs(30);
/// How many looks a member of etcd may lag behind.
const LAG: usize = 3;
/// How many beats may fail before the heartbeat runs out.
const BEATS: u64 = 3;
/// Seconds between two looks of a cell at the record of a node that runs.
const LOOK: u64 = 5;

#[derive(Debug)]
pub(super) struct Cell {
    pub(super) guid: CellGuid,
    pub(super) zone: String,
    pub(super) capacity: u32,
    /// Seconds between two heartbeats.
    beat: u64,
    /// Whether it runs and is reached.
    pub(super) up: bool,
    /// Whether its API takes requests and never answers them.
    pub(super) hangs: bool,
    pub(super) nodes: BTreeMap<NodeId, Held>,
    pub(super) retired: BTreeSet<NodeId>,
    /// Seconds that a node takes to stop.
    pub(super) stopping_takes: u32,
    /// From when to when it was away.
    pub(super) outages: Vec<(Timestamp, Timestamp)>,
    pub(super) http: Option<SocketAddr>,
    pub(super) bug: Option<Bug>,
    pub(super) wrong: Vec<String>,
    /// Whether writes of Patronis that are stopped come late. They run out of time, so only where that is the world's.
    pub(super) writes_late: bool,
    /// Member keys whose writes were under way when their Patronis were stopped.
    last_words: Vec<String>,
    /// What a member of etcd knows of records that lags behind, the oldest first.
    lagging: Lagging,
    age: u64,
}

type Lagging = BTreeMap<InstanceId, VecDeque<Option<Record>>>;

/// A node that a cell holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) patroni: Patroni,
    pub(super) life: Life,
    /// Look at the record at once.
    pub(super) nudged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    /// Its record did not name it at the last look.
    Doubted,
    /// Stopped, data kept.
    SetAside,
    /// Being stopped, to be removed for good.
    Ends {
        left: u32,
    },
}

impl Cell {
    pub(super) fn new(guid: CellGuid, zone: String, layout: &Layout) -> Self {
        Self {
            guid,
            zone,
            capacity: layout.capacity,
            beat: layout.beat,
            up: true,
            hangs: false,
            nodes: BTreeMap::new(),
            retired: BTreeSet::new(),
            stopping_takes: 0,
            outages: Vec::new(),
            http: None,
            bug: None,
            wrong: Vec::new(),
            writes_late: false,
            last_words: Vec::new(),
            lagging: Lagging::new(),
            age: 0,
        }
    }

    pub(super) fn between_beats(&self) -> SignedDuration {
        SignedDuration::from_secs(self.beat.cast_signed())
    }

    /// How many nodes count against the capacity.
    pub(super) fn load(&self) -> u32 {
        let counts = |held: &&Held| held.life != Life::SetAside;
        u32::try_from(self.nodes.values().filter(counts).count()).unwrap()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Patroni> {
        let runs = |held: &&Held| held.life != Life::SetAside;
        self.nodes
            .values()
            .filter(runs)
            .map(|held| &held.patroni)
            .filter(|_| self.up)
    }

    /// A second of its life.
    pub(super) fn turn(&mut self, store: &dyn Store, version: Version, fresh_system: &mut u64) {
        let last_words = std::mem::take(&mut self.last_words);
        if !self.up {
            return;
        }
        for key in last_words {
            now(store.set(&key, r#"{"state": "stopped"}"#, Some(MEMBER_TTL))).unwrap();
        }
        if self.age.is_multiple_of(self.beat) {
            self.beat(store);
        }
        self.age += 1;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let looks = self.age.is_multiple_of(LOOK);
            let Some(held) = self.nodes.get_mut(&id) else {
                continue;
            };
            if let Life::Ends { left } = held.life {
                held.life = Life::Ends {
                    left: left.saturating_sub(1),
                };
                if left == 0 {
                    self.remove(store, id);
                }
                continue;
            }
            if (looks || held.nudged) && self.bug != Some(Bug::CellNeverLooksAgain) {
                held.nudged = false;
                look(store, held, self.bug, &mut self.lagging);
                if held.life == (Life::Ends { left: 0 }) {
                    self.retired.insert(id);
                    continue;
                }
            }
            if matches!(held.life, Life::Runs | Life::Doubted) {
                held.patroni.turn(store, version, fresh_system);
            }
        }
    }

    pub(super) fn beat(&self, store: &dyn Store) {
        let ttl = Duration::from_secs(self.beat * BEATS);
        let heartbeat = Heartbeat {
            guid: self.guid.clone(),
            availability_zone: self.zone.clone(),
            uri: match self.http {
                Some(address) => format!("http://{address}/cells/{}", self.guid),
                None => format!("http://{}:8889", self.guid),
            },
            capacity: self.capacity,
            load: self.load(),
            version: "0".to_owned(),
            ttl: Some(ttl.as_secs()),
        };
        let value = serde_json::to_string(&heartbeat).unwrap();
        now(store.set(&keyspace::cell(&self.guid), &value, Some(ttl))).unwrap();
    }

    /// Takes a node in and starts its Patroni.
    pub(super) fn hold(&mut self, store: &dyn Store, patroni: Patroni) {
        let (node, address) = (patroni.id.node, format!("{}:15000", self.guid));
        let held = Held {
            patroni,
            life: Life::Runs,
            nudged: false,
        };
        self.nodes.insert(node, held);
        let key = keyspace::registration(&self.guid, node);
        now(store.set(&key, &address, None)).unwrap();
        self.beat(store);
    }

    /// Has a node set aside.
    pub(super) fn keep(&mut self, patroni: Patroni) {
        let node = patroni.id.node;
        let held = Held {
            patroni,
            life: Life::SetAside,
            nudged: false,
        };
        self.nodes.insert(node, held);
    }

    /// All that was on its disk is gone. As at each start, it takes registrations back of nodes that it does not hold.
    pub(super) fn lose_disk(&mut self, store: &dyn Store) {
        self.retired.clear();
        for node in std::mem::take(&mut self.nodes).into_keys() {
            delete(store, &keyspace::registration(&self.guid, node));
        }
    }

    /// The machine is gone with all that was on it, and says nothing more.
    pub(super) fn burn_down(&mut self) {
        self.retired.clear();
        self.nodes.clear();
    }

    /// The end of a node that was told to go.
    pub(super) fn remove(&mut self, store: &dyn Store, node: NodeId) {
        let Some(mut held) = self.nodes.remove(&node) else {
            return;
        };
        held.patroni.stop(store);
        if held.patroni.data.is_some() && !is_named_as_going(store, &held.patroni.id) {
            self.wrong.push(format!(
                "the data of {node} was deleted and nothing names it as going"
            ));
        }
        let member = keyspace::member(&held.patroni.id.instance, node);
        delete(store, &member);
        if self.writes_late && matches!(held.life, Life::Runs | Life::Doubted) {
            self.last_words.push(member);
        }
        delete(store, &keyspace::registration(&self.guid, node));
        self.beat(store);
    }
}

/// Looks at the record of a node. What would stop it must be seen twice.
fn look(store: &dyn Store, held: &mut Held, bug: Option<Bug>, lagging: &mut Lagging) {
    let id = &held.patroni.id;
    let mut record = read(store, &id.instance);
    if bug == Some(Bug::CellReadsStaleRecords) {
        let known = lagging.entry(id.instance.clone()).or_default();
        known.push_back(record);
        record = (known.len() > LAG).then(|| known.pop_front()).flatten().flatten();
    }
    let judgement = match consult(store, record.as_ref(), id) {
        Judgement::SetAside if bug == Some(Bug::CellDeletesStrangers) => Judgement::Remove,
        judgement => judgement,
    };
    match (judgement, held.life) {
        (_, Life::Ends { .. }) => {}
        (Judgement::Run { nofailover }, _) => {
            held.patroni.nofailover = nofailover;
            held.life = Life::Runs;
        }
        (Judgement::Remove, _) => {
            held.patroni.stop(store);
            held.life = Life::Ends { left: 0 };
        }
        (Judgement::SetAside, Life::Runs) => held.life = Life::Doubted,
        (Judgement::SetAside, Life::Doubted) => {
            held.patroni.stop(store);
            let key = keyspace::registration(&held.patroni.id.cell, held.patroni.id.node);
            delete(store, &key);
            held.life = Life::SetAside;
        }
        (Judgement::SetAside, Life::SetAside) => {}
    }
}

/// Whether the record of its incarnation lets a node go, or that incarnation has ended or is about to.
fn is_named_as_going(store: &dyn Store, id: &Identity) -> bool {
    let record = read(store, &id.instance);
    let tombstone = now(store.get(&keyspace::tombstone(&id.instance), Read::Quorum)).unwrap();
    let tombstone = tombstone.and_then(|entry| serde_json::from_str::<Tombstone>(&entry.value).ok());
    match record.filter(|record| record.incarnation == id.incarnation) {
        Some(record) => {
            let leaves = |node: &Node| node.phase == Phase::Leaving;
            record.retired.contains(&id.node) || record.nodes.get(&id.node).is_some_and(leaves)
        }
        None => tombstone.is_some_and(|tombstone| {
            tombstone.incarnation != id.incarnation || tombstone.retired.contains(&id.node)
        }),
    }
}

fn read(store: &dyn Store, instance: &InstanceId) -> Option<Record> {
    let record = now(store.get(&keyspace::record(instance), Read::Quorum)).unwrap();
    record.map(|entry| Record::parse(&entry.value).unwrap())
}

fn consult(store: &dyn Store, record: Option<&Record>, id: &Identity) -> Judgement {
    match judge(record, None, id) {
        Judgement::SetAside => {
            let tombstone = now(store.get(&keyspace::tombstone(&id.instance), Read::Quorum)).unwrap();
            let tombstone: Option<Tombstone> =
                tombstone.map(|entry| serde_json::from_str(&entry.value).unwrap());
            judge(record, tombstone.as_ref(), id)
        }
        decided => decided,
    }
}

fn delete(store: &dyn Store, key: &str) {
    if let Some(entry) = now(store.get(key, Read::Quorum)).unwrap() {
        match now(store.compare_and_delete(key, entry.index)) {
            // A broker in a process of its own may have been there first.
            Ok(()) | Err(StoreError::Missing { .. } | StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
}
