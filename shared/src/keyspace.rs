//! Every key in etcd, in one place (design.md, 4). The keys of the original broker keep their exact path and value,
//! since other programs read them.

use crate::ids::{BindingId, CellGuid, Incarnation, InstanceId, NodeId, PlanId, Port};

/// Everything the broker knows about instances.
pub const INSTANCES: &str = "/serviceinstances";
/// Patroni's own tree, one directory for each scope.
pub const PATRONI: &str = "/service";
/// Everything about public ports.
pub const ROUTING: &str = "/routing";
/// The public ports of instances: the permanent contract with their users.
pub const ALLOCATIONS: &str = "/routing/allocation";
/// A hint: where the search for a free port starts.
pub const NEXT_PORT: &str = "/routing/nextport";
/// Who owns which port.
pub const PORTS: &str = "/routing/ports";
/// Present once every allocation of an older router has an owner key.
pub const PORTS_ADOPTED: &str = "/routing/adopted";
/// Instances with an operation under way.
pub const OPERATIONS: &str = "/operations";
/// What reconcile remembers.
pub const RECONCILE: &str = "/reconcile";
/// How far reconcile has come in its round through all instances.
pub const RECONCILE_CURSOR: &str = "/reconcile/cursor";
/// Live cells.
pub const CELLS: &str = "/cells";
/// Which cells there were lately, and which of them are missing.
pub const CELL_ROLL: &str = "/cell-roll";
/// Outcomes of finished deprovisions, for a while.
pub const TOMBSTONES: &str = "/tombstones";
/// The instances of plans that allow only so many.
pub const QUOTAS: &str = "/quotas";
/// What the registrar of each cell announces.
pub const REGISTRAR: &str = "/postgresql-patroni";

/// The directory that holds an instance's record, bindings and projections.
#[must_use]
pub fn instance(id: &InstanceId) -> String {
    format!("{INSTANCES}/{id}")
}

/// The record: the truth about an instance.
#[must_use]
pub fn record(id: &InstanceId) -> String {
    format!("{INSTANCES}/{id}/record")
}

/// The projections of an instance's nodes, as the original wrote them.
#[must_use]
pub fn nodes(id: &InstanceId) -> String {
    format!("{INSTANCES}/{id}/nodes")
}

/// One node's directory among the projections.
#[must_use]
pub fn node(id: &InstanceId, node: NodeId) -> String {
    format!("{INSTANCES}/{id}/nodes/{node}")
}

/// Which cell holds a node: a projection of the record.
#[must_use]
pub fn backend(id: &InstanceId, node: NodeId) -> String {
    format!("{INSTANCES}/{id}/nodes/{node}/backend")
}

/// The bindings of an instance.
#[must_use]
pub fn bindings(id: &InstanceId) -> String {
    format!("{INSTANCES}/{id}/bindings")
}

/// One binding.
#[must_use]
pub fn binding(id: &InstanceId, binding: &BindingId) -> String {
    format!("{INSTANCES}/{id}/bindings/{binding}")
}

/// Patroni's directory of one cluster.
#[must_use]
pub fn scope(id: &InstanceId) -> String {
    format!("{PATRONI}/{id}")
}

/// Patroni's name of who leads a cluster.
#[must_use]
pub fn leader(id: &InstanceId) -> String {
    format!("{PATRONI}/{id}/leader")
}

/// What Patroni publishes about one node.
#[must_use]
pub fn member(id: &InstanceId, node: NodeId) -> String {
    format!("{PATRONI}/{id}/members/{node}")
}

/// The public port of an instance.
#[must_use]
pub fn allocation(id: &InstanceId) -> String {
    format!("{ALLOCATIONS}/{id}")
}

/// The owner of a port.
#[must_use]
pub fn port(port: Port) -> String {
    format!("{PORTS}/{port}")
}

/// The marker that an instance has an operation under way.
#[must_use]
pub fn operation(id: &InstanceId) -> String {
    format!("{OPERATIONS}/{id}")
}

/// A cell's heartbeat.
#[must_use]
pub fn cell(guid: &CellGuid) -> String {
    format!("{CELLS}/{guid}")
}

/// What is kept of a deprovisioned instance.
#[must_use]
pub fn tombstone(id: &InstanceId) -> String {
    format!("{TOMBSTONES}/{id}")
}

/// The instances that a plan's quota counts.
#[must_use]
pub fn quota(plan: &PlanId) -> String {
    format!("{QUOTAS}/{plan}")
}

/// The reservation by which a life of an instance counts among those of a plan.
#[must_use]
pub fn reservation(plan: &PlanId, incarnation: Incarnation) -> String {
    format!("{QUOTAS}/{plan}/{incarnation}")
}

/// Where a cell's registrar announces a node's `host:port`.
#[must_use]
pub fn registration(host: &CellGuid, node: NodeId) -> String {
    format!("{REGISTRAR}/{host}:cf-{node}:5432")
}

/// The last segment of a key.
#[must_use]
pub fn last_segment(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
