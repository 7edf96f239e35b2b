//! Situations that read well: an instance at a stage of its life, with what differs from it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    cluster::{Cluster, Member},
    decide::{
        Decision, Situation, decide,
        placement::{CellView, Room},
    },
    effect::{Effect, Facts},
    ids::{CellGuid, Incarnation, NodeId, OperationId, Port},
    record::{
        Node, Operation, OperationKind, OperationState, Phase, PortClaim, Record, Request, SCHEMA, State,
    },
};

/// The public port of every case.
pub(super) const PORT: u16 = 30000;
/// How long a cell must be missing before its nodes are replaced.
pub(super) const REPLACE_AFTER: SignedDuration = SignedDuration::from_secs(300);
/// Seconds after which the operation of a case is overdue.
pub(super) const DEADLINE: i64 = 600;

/// The n-th node.
pub(super) fn node(n: u128) -> NodeId {
    Uuid::from_u128(n).into()
}

/// A cell, by its guid.
pub(super) fn guid(name: &str) -> CellGuid {
    name.parse().unwrap()
}

/// A port, by its number.
pub(super) fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

/// So many seconds after the operation began.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A live cell with room.
pub(super) fn cell(name: &str, zone: &str) -> CellView {
    CellView {
        guid: guid(name),
        availability_zone: zone.to_owned(),
        room: Some(Room {
            capacity: 10,
            load: 0,
        }),
    }
}

/// Cells `c1`, `c2`, ... in three zones in turn.
pub(super) fn cells(count: usize) -> Vec<CellView> {
    (1..=count)
        .map(|n| cell(&format!("c{n}"), &format!("z{}", (n - 1) % 3 + 1)))
        .collect()
}

/// The plan of every case.
pub(super) fn plan() -> Map<String, Value> {
    object(&json!({"ttl": 30, "loop_wait": 10}))
}

pub(super) fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// What a member in this state and role publishes.
pub(super) fn member(state: &str, role: &str) -> Member {
    Member {
        state: state.to_owned(),
        role: role.to_owned(),
        timeline: Some(1),
        ..Member::default()
    }
}

pub(super) fn operation(kind: OperationKind) -> Operation {
    Operation {
        id: OperationId::from(Uuid::from_u128(0xabc)),
        kind,
        state: OperationState::InProgress,
        description: String::new(),
        started: at(0),
        deadline: at(DEADLINE),
        ended: None,
        originating_identity: None,
    }
}

/// A situation to be decided on.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) record: Record,
    pub(super) cluster: Cluster,
    pub(super) facts: Facts,
    pub(super) plan: Map<String, Value>,
    pub(super) now: Timestamp,
    pub(super) seed: Uuid,
}

impl Case {
    /// A provision that was just claimed: a candidate port, and no node yet.
    pub(super) fn claimed(count: u32) -> Self {
        let record = Record {
            schema: SCHEMA,
            instance_id: "f1".parse().unwrap(),
            incarnation: Incarnation::from(Uuid::from_u128(0x11)),
            request: Request {
                service_id: "s".to_owned(),
                plan_id: "p".to_owned(),
                organization_guid: String::new(),
                space_guid: String::new(),
                parameters: Map::new(),
            },
            context: Map::new(),
            maintenance_version: None,
            maintenance_change: None,
            node_count: count,
            cells: None,
            port: PortClaim::Candidate {
                port: port(PORT),
                misses: 0,
            },
            nodes: BTreeMap::new(),
            retired: Vec::new(),
            retired_earlier: 0,
            state: State::Active,
            bootstrapped: false,
            bootstrap_started: at(0),
            bootstrap_restarts: 0,
            scope_cleared: None,
            master_key: "k".to_owned(),
            failover: None,
            plan_change: None,
            settings: None,
            credential_generation: 1,
            former_credentials: None,
            operation: Some(operation(OperationKind::Provision)),
            last_operation: None,
            last_requested: None,
        };
        Self {
            record,
            cluster: Cluster::default(),
            facts: Facts::default(),
            plan: plan(),
            now: at(1),
            seed: Uuid::from_u128(0x5eed),
        }
    }

    /// A provision that owns its port, and has no node yet.
    pub(super) fn owning(count: u32) -> Self {
        Self::claimed(count).with(|case| case.record.port = PortClaim::Owned { port: port(PORT) })
    }

    /// A provision that owns its port and has placed nodes 1, 2, ... on cells `c1`, `c2`, ... one second ago.
    pub(super) fn assigned(count: u32) -> Self {
        let mut case = Self::claimed(count);
        case.record.port = PortClaim::Owned { port: port(PORT) };
        for (n, cell) in (1..).zip(cells(count.try_into().unwrap())) {
            case = case.with_node(n, &cell, Phase::Assigned);
        }
        case
    }

    /// A provision that has come about: node 1 leads, the others stream, the port leads to it, the plan is in force.
    pub(super) fn standing(count: u32) -> Self {
        let mut case = Self::assigned(count).led_by(1);
        for n in 2..=count.into() {
            case = case.streams(n);
        }
        for node in case.record.nodes.values_mut() {
            node.phase = Phase::Running;
        }
        case.record.bootstrapped = true;
        case.cluster.config = Some(Value::Object(plan()));
        case.facts.prepared = Some(Ok(()));
        case
    }

    /// An instance of `count` nodes that shall have `wanted` ones; there are six cells.
    pub(super) fn update(count: u32, wanted: u32) -> Self {
        let mut case = Self::standing(count);
        case.record.operation = Some(operation(OperationKind::Update));
        case.record.node_count = wanted;
        case.facts.cells = Some(cells(6));
        case
    }

    /// An instance of `count` nodes that is being taken away; its cells were not asked yet.
    pub(super) fn deprovision(count: u32) -> Self {
        let mut case = Self::standing(count);
        case.record.state = State::Deleting;
        case.record.operation = Some(operation(OperationKind::Deprovision));
        for node in case.record.nodes.values_mut() {
            node.phase = Phase::Leaving;
        }
        case.facts = Facts::default();
        case
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn with_node(mut self, n: u128, cell: &CellView, phase: Phase) -> Self {
        let placed = Node {
            cell: cell.guid.clone(),
            availability_zone: cell.availability_zone.clone(),
            phase,
            assigned: at(0),
            missing_since: None,
            credentials_due: false,
        };
        self.record.nodes.insert(node(n), placed);
        self
    }

    pub(super) fn phase(mut self, n: u128, phase: Phase) -> Self {
        self.record.nodes.get_mut(&node(n)).unwrap().phase = phase;
        self
    }

    /// The n-th node publishes this.
    pub(super) fn publishes(mut self, n: u128, member: Member) -> Self {
        self.cluster.exists = true;
        self.cluster.members.insert(node(n).to_string(), member);
        self
    }

    /// The n-th node publishes nothing (any more).
    pub(super) fn silent(mut self, n: u128) -> Self {
        self.cluster.members.remove(&node(n).to_string());
        self
    }

    /// The n-th node runs as the primary (Patroni 4) and holds the leader key.
    pub(super) fn led_by(mut self, n: u128) -> Self {
        self.cluster.initialize = Some("7300000000000000001".to_owned());
        self.cluster.leader = Some(node(n).to_string());
        self.publishes(n, member("running", "primary"))
    }

    /// The n-th node streams, and says so (Patroni 4).
    pub(super) fn streams(self, n: u128) -> Self {
        let streaming = Member {
            replication_state: Some("streaming".to_owned()),
            ..member("running", "replica")
        };
        self.publishes(n, streaming)
    }

    /// The n-th node streams and must not become the leader.
    pub(super) fn passed_over(self, n: u128) -> Self {
        let mut case = self.streams(n);
        let member = case.cluster.members.get_mut(&node(n).to_string());
        member.unwrap().nofailover = true;
        case
    }

    pub(super) fn leaderless(mut self) -> Self {
        self.cluster.leader = None;
        self
    }

    pub(super) fn after(mut self, seconds: i64) -> Self {
        self.now = at(seconds);
        self
    }

    pub(super) fn later(mut self, seconds: i64) -> Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// No operation is under way.
    pub(super) fn idle(mut self) -> Self {
        self.record.last_operation = self.record.operation.take();
        self
    }

    pub(super) fn situation(&self) -> Situation<'_> {
        Situation {
            record: &self.record,
            cluster: &self.cluster,
            facts: &self.facts,
            plan: Some(&self.plan),
            replace_after: REPLACE_AFTER,
            now: self.now,
            seed: self.seed,
        }
    }

    pub(super) fn decide(&self) -> Decision {
        decide(&self.situation())
    }

    /// The same situation with the record that was decided on, as the next look would find it.
    pub(super) fn next(mut self) -> Self {
        self.record = self.decide().record;
        self
    }
}

impl Decision {
    pub(super) fn phase(&self, n: u128) -> Option<Phase> {
        self.record.nodes.get(&node(n)).map(|node| node.phase)
    }

    pub(super) fn leaving(&self) -> Vec<NodeId> {
        let leaving = |placed: &&Node| placed.phase == Phase::Leaving;
        let nodes = self.record.nodes.iter();
        nodes
            .filter(|(_, node)| leaving(node))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn removes(&self) -> Vec<NodeId> {
        let removes = |effect: &Effect| match effect {
            Effect::Remove(node) => Some(*node),
            _ => None,
        };
        self.effects.iter().filter_map(removes).collect()
    }

    pub(super) fn starts(&self) -> Vec<NodeId> {
        let starts = |effect: &Effect| match effect {
            Effect::Start(node) => Some(*node),
            _ => None,
        };
        self.effects.iter().filter_map(starts).collect()
    }

    pub(super) fn has(&self, effect: &Effect) -> bool {
        self.effects.contains(effect)
    }

    /// The state of the latest operation, and what is told about it.
    pub(super) fn told(&self) -> (OperationState, &str) {
        let operation = self.record.latest_operation().unwrap();
        (operation.state, &operation.description)
    }
}
