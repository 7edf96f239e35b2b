//! The record: the one JSON document that describes an instance, at `/serviceinstances/<id>/record`.
//!
//! **Guarantees.** Everything that decides about an instance is in here. The record changes only by compare-and-swap on
//! its index, from the result of [`crate::decide`]; all other keys are effects that can be repeated from it.
//! **Caveats.** It holds no password, and nothing a password could be derived from without the master key.

mod operation;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::operation::{AfterFailure, Operation, OperationKind, OperationState};
use crate::ids::{CellGuid, Incarnation, InstanceId, NodeId, Port};

/// The version of the record's shape that this code writes. A record with a higher one is left alone.
pub const SCHEMA: u32 = 1;

/// The most nodes that any plan allows: more replicas than that need care that the broker does not take. A record that wants
/// more is corrupt: a damaged number must not exhaust anybody's memory.
pub const MOST_NODES: u32 = 32;

/// The credential generation of a new instance, and of every binding: a binding's password changes with the binding alone.
pub const FIRST_GENERATION: u32 = 1;

/// An instance, as all handlers agree on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`] of the code that wrote it.
    pub schema: u32,
    /// Whose instance it is.
    pub instance_id: InstanceId,
    /// Which life of that instance id.
    pub incarnation: Incarnation,
    /// What the platform asked for, as far as it is compared with a repeated request.
    #[serde(flatten)]
    pub request: Request,
    /// The platform's context: kept, never compared (names in it change).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// The version of the plan's `maintenance_info` that the instance was made with, or brought to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_version: Option<String>,
    /// What it was before, while an update brings it to another, and after one that has failed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_change: Option<MaintenanceChange>,
    /// How many nodes the cluster shall have.
    pub node_count: u32,
    /// The cells that the instance must live on; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Vec<CellGuid>>,
    /// The public port and how far its claim has come.
    pub port: PortClaim,
    /// The nodes that cells run, or are asked to run or to remove.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Nodes that are gone from their cells for good. Their ids are never used again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<NodeId>,
    /// How many of them were gone when the deprovision began.
    #[serde(default)]
    pub retired_earlier: usize,
    /// Whether the instance lives or is being deprovisioned.
    pub state: State,
    /// Whether the cluster ever stood. From then on it is never bootstrapped anew, unless an operator says that every copy
    /// is lost ([`crate::decide::recreation`]).
    pub bootstrapped: bool,
    /// When the bootstrap under way began.
    pub bootstrap_started: Timestamp,
    /// How many times a half-made bootstrap was started over.
    #[serde(default)]
    pub bootstrap_restarts: u32,
    /// When Patroni's keys were last cleared by a deprovision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_cleared: Option<Timestamp>,
    /// What happens when the leader's processes have died, as its plan said when the instance was made or last updated;
    /// `None` in a record of an earlier broker: what is usual ([`Failover::usual`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// The plan that it comes from, while an update brings it to `request.plan_id`, and after one that has failed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_change: Option<PlanChange>,
    /// Which settings all nodes are known to run with (the plan's, by
    /// [`dynamic_configuration::version`](crate::decide::dynamic_configuration::version)); `None`: not known, also in a
    /// record of an earlier broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// Which master key its passwords are derived from.
    pub master_key: String,
    /// Counted up when the passwords change that its nodes and the broker use. Those of bindings stay.
    pub credential_generation: u32,
    /// The credentials that are being replaced. Until every role and node is known to have the new ones, any may still have
    /// these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_credentials: Option<FormerCredentials>,
    /// The operation under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The last operation that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_operation: Option<Operation>,
    /// The last one that the platform had asked for, as it was when an operator's command came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_requested: Option<Operation>,
}

/// The attributes of a provision request that make two requests the same (osb-reference.md, 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The service's id in the catalog.
    pub service_id: String,
    /// The plan's id in the catalog.
    pub plan_id: String,
    /// The platform's organization; empty when a lenient broker was given none.
    pub organization_guid: String,
    /// The platform's space; empty when a lenient broker was given none.
    pub space_guid: String,
    /// The parameters as given; absent ones are `{}`.
    pub parameters: Map<String, Value>,
}

impl Request {
    /// The attributes in which two requests differ, by their names in the specification.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("service_id", self.service_id != other.service_id),
            ("plan_id", self.plan_id != other.plan_id),
            (
                "organization_guid",
                self.organization_guid != other.organization_guid,
            ),
            ("space_guid", self.space_guid != other.space_guid),
            ("parameters", self.parameters != other.parameters),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// An update to another version of the plan's `maintenance_info` that has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceChange {
    /// The version that the platform knows the instance to have, until the update has succeeded; `None`: its plan had none.
    pub from: Option<String>,
}

/// An update to another plan that has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// The plan that the platform knows the instance to have, until the change has succeeded.
    pub from: String,
    /// What the new plan says of dead leaders. It counts when the rest of the plan is in force: a replica may take over at
    /// once only where commits wait for it already.
    pub failover: Failover,
}

/// What the passwords of nodes and broker were derived from before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerCredentials {
    /// The master key.
    pub master_key: String,
    /// The generation.
    pub generation: u32,
}

/// Whether the instance lives or is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is being made, or is there.
    Active,
    /// It is being deprovisioned; it never becomes active again.
    Deleting,
}

/// The public port of an instance (design.md, 5, Ports).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PortClaim {
    /// The next port to try; its owner key may exist already, made by a handler that then died.
    Candidate {
        /// The port to try.
        port: Port,
        /// How many candidates were owned by others.
        misses: u32,
    },
    /// The owner key names this instance and incarnation.
    Owned {
        /// The port, for as long as the instance lives.
        port: Port,
    },
    /// Handed back, or never had one: only while the instance is being deprovisioned.
    Released,
}

impl PortClaim {
    /// The port, when it is certainly this instance's.
    #[must_use]
    pub fn owned(&self) -> Option<Port> {
        match self {
            Self::Owned { port } => Some(*port),
            Self::Candidate { .. } | Self::Released => None,
        }
    }
}

/// What a cell does when the leader's Patroni and PostgreSQL have died on it, and a replica could take over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failover {
    /// It starts the leader again: nothing is lost, and clients wait for that.
    Restart,
    /// It lets a replica take over: clients wait less. What no replica had yet is lost.
    Promote,
}

impl Failover {
    /// What a plan does that does not say: a replica takes over where every commit has waited for it.
    #[must_use]
    pub fn usual(synchronous: bool) -> Self {
        if synchronous { Self::Promote } else { Self::Restart }
    }
}

/// One node: a Patroni member on a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The cell that runs it.
    pub cell: CellGuid,
    /// The cell's availability zone when the node was placed.
    pub availability_zone: String,
    /// How far it has come.
    pub phase: Phase,
    /// When it was placed.
    pub assigned: Timestamp,
    /// Since when its cell has been missing, as the roll of cells said at the last look ([`crate::roll`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// Its cell has yet to confirm the new passwords.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials_due: bool,
}

/// How far a node has come. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its cell is asked to start it.
    Assigned,
    /// Patroni has reported it as running, once at least.
    Running,
    /// Its cell is asked to remove it. It must not become the leader any more (tag `nofailover`).
    Leaving,
}

/// What is kept of a deprovisioned instance for a while, at `/tombstones/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which life of the instance id ended.
    pub incarnation: Incarnation,
    /// The deprovision that ended it.
    pub operation: Operation,
    /// All nodes it ever had: what a cell may delete for good.
    pub retired: Vec<NodeId>,
}

/// A document in etcd that cannot be understood. It is reported and left alone: nobody guesses about an instance.
#[derive(Debug, thiserror::Error)]
pub enum CorruptDocument {
    /// Not the JSON that it should be.
    #[error("not readable: {0}")]
    Json(String),
    /// Written by a newer broker.
    #[error("its schema is {0}, newer than the {SCHEMA} that this broker knows")]
    Newer(u32),
}

impl Record {
    /// Reads a record as it stands in etcd.
    ///
    /// # Errors
    /// When it is not a record, or one with a newer schema.
    pub fn parse(value: &str) -> Result<Self, CorruptDocument> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let json = |error: serde_json::Error| CorruptDocument::Json(error.to_string());
        let Versioned { schema } = serde_json::from_str(value).map_err(json)?;
        if schema > SCHEMA {
            return Err(CorruptDocument::Newer(schema));
        }
        let record: Self = serde_json::from_str(value).map_err(json)?;
        if record.node_count > MOST_NODES {
            let text = format!("{} nodes are wanted, more than {MOST_NODES}", record.node_count);
            return Err(CorruptDocument::Json(text));
        }
        Ok(record)
    }

    /// The record as it is written to etcd.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with text keys only: serde_json cannot fail on them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The plan that the platform knows the instance to have: a new one counts when the change to it has succeeded
    /// (osb-reference.md, 6).
    #[must_use]
    pub fn known_plan(&self) -> &str {
        self.plan_change
            .as_ref()
            .map_or(&self.request.plan_id, |change| &change.from)
    }

    /// The version of `maintenance_info` that the platform knows the instance to have: as with plans, a new one counts when the
    /// update has succeeded.
    #[must_use]
    pub fn known_maintenance_version(&self) -> Option<&str> {
        let change = self.maintenance_change.as_ref();
        change
            .map_or(&self.maintenance_version, |change| &change.from)
            .as_deref()
    }

    /// The request with the plan that the platform knows.
    #[must_use]
    pub fn known_request(&self) -> Request {
        Request {
            plan_id: self.known_plan().to_owned(),
            ..self.request.clone()
        }
    }

    /// The plans whose quotas count the instance: during a change, and after one that has failed, both.
    pub fn plans(&self) -> impl Iterator<Item = &str> {
        let former = self.plan_change.as_ref().map(|change| change.from.as_str());
        let present = self.request.plan_id.as_str();
        std::iter::once(present).chain(former.filter(move |former| *former != present))
    }

    /// Whether the quota of this plan counts the instance.
    #[must_use]
    pub fn has_plan(&self, plan: &str) -> bool {
        self.plans().any(|own| own == plan)
    }

    /// Nodes that are not on their way out.
    pub fn staying(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.phase != Phase::Leaving)
            .map(|(id, node)| (*id, node))
    }

    /// Whether a node is still to be removed.
    #[must_use]
    pub fn somebody_leaves(&self) -> bool {
        self.nodes.values().any(|node| node.phase == Phase::Leaving)
    }

    /// Whether more nodes stay than the cluster shall have: some wait for others that take over from them.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        u32::try_from(self.staying().count()).is_ok_and(|staying| staying > self.node_count)
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.operation.is_none()
            && self.state == State::Active
            && !self.somebody_leaves()
            && !self.has_surplus()
            && self.former_credentials.is_none()
    }

    /// The one under way, otherwise the last one.
    #[must_use]
    pub fn latest_operation(&self) -> Option<&Operation> {
        self.operation.as_ref().or(self.last_operation.as_ref())
    }

    /// The operations that are known, the latest first.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        let known = [&self.operation, &self.last_operation, &self.last_requested];
        known.into_iter().flatten()
    }

    /// The last operation that has ended and that the platform had asked for.
    #[must_use]
    pub fn last_requested(&self) -> Option<&Operation> {
        let ended = [&self.last_operation, &self.last_requested];
        ended.into_iter().flatten().find(|last| last.kind.is_requested())
    }
}
