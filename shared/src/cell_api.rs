//! What a cell is asked and what it answers: the small HTTP API of the original's cells, `PUT` and `DELETE
//! /v2/service_instances/<node>` with basic auth, and our `GET`s beside them (design.md, 7).

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{CellGuid, Incarnation, InstanceId, NodeId};

/// The superuser role of every cluster. Its password leaves the broker only to cells.
pub const SUPERUSER: &str = "postgres";
/// The role that replicas stream with.
pub const REPLICATION_USER: &str = "replicator";
/// The role that `pg_rewind` connects with.
pub const REWIND_USER: &str = "rewind";
/// The user that changes anything over Patroni's REST API.
pub const REST_USER: &str = "patroni";

/// Body of `PUT /v2/service_instances/<node>`. The fields beside `parameters` are the original's; a cell ignores them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartNode {
    /// The instance's service.
    pub service_id: String,
    /// The instance's plan.
    pub plan_id: String,
    /// The instance's organization.
    pub organization_guid: String,
    /// The instance's space.
    pub space_guid: String,
    /// What the cell works with.
    pub parameters: NodeParameters,
}

/// What a cell needs to know to run a node.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub struct NodeParameters {
    /// The instance, which is the cluster's scope.
    pub patroni_scope: InstanceId,
    /// The node: Patroni's member name.
    pub node_id: NodeId,
    /// Which life of the instance the node belongs to.
    pub incarnation: Incarnation,
    /// Which generation of the instance's passwords these are; a cell takes later ones over for a node that it has, and
    /// never earlier ones. 0 from a broker that does not say.
    #[serde(default)]
    pub credential_generation: u32,
    /// Password of [`SUPERUSER`].
    pub superuser_password: String,
    /// Password of [`REPLICATION_USER`].
    pub replication_password: String,
    /// Password of [`REWIND_USER`].
    pub rewind_password: String,
    /// Password of [`REST_USER`].
    pub restapi_password: String,
    /// Patroni's dynamic configuration for a cluster that is bootstrapped (`bootstrap.dcs`), as Patroni documents it.
    pub patroni_config: Map<String, Value>,
}

impl fmt::Debug for NodeParameters {
    /// Leaves the passwords out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeParameters")
            .field("patroni_scope", &self.patroni_scope)
            .field("node_id", &self.node_id)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// Body of `GET /v2/service_instances/<node>`, and of a successful `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node_id: NodeId,
    /// Its instance.
    pub instance_id: InstanceId,
    /// Which life of its instance.
    pub incarnation: Incarnation,
    /// What the cell does with it.
    pub state: NodeState,
    /// `host:port` where its PostgreSQL listens.
    pub address: String,
    /// `host:port` where its Patroni answers REST calls.
    pub rest_address: String,
    /// The generation of the passwords that its Patroni has; `None` from a cell that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_generation: Option<u32>,
}

/// What a cell does with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its Patroni process runs.
    Running,
    /// Its Patroni process is down and will be started again, or waits for etcd to be readable.
    Waiting,
    /// Told to leave: being stopped, its data being removed.
    Stopping,
    /// No record names it on this cell: stopped, its directory set aside, nothing deleted.
    Quarantined,
}

/// Body of `GET /v2/service_instances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellStatus {
    /// The cell.
    pub guid: CellGuid,
    /// All nodes it holds, quarantined ones included.
    pub nodes: Vec<NodeStatus>,
    /// Other nodes of which a directory is on its disk: it cannot make sense of them and leaves them alone. `None` from a
    /// cell that does not say, so that nothing follows from its not naming a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unkept: Option<BTreeSet<NodeId>>,
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One word for programs, see [`refusal`].
    pub error: String,
    /// A sentence for people.
    pub description: String,
}

/// The words of [`Refusal::error`], each with its status.
pub mod refusal {
    /// 410: the node was told to leave before; its id is never accepted again.
    pub const RETIRED: &str = "Retired";
    /// 409: the record does not name this node on this cell (for this incarnation), or is there no more.
    pub const NOT_ASSIGNED: &str = "NotAssigned";
    /// 409 to a DELETE: the node leads its cluster, which is not being deleted.
    pub const LEADER: &str = "Leader";
    /// 409 to a DELETE: no node that stays leads the cluster, which is not being deleted.
    pub const NO_LEADER: &str = "NoLeader";
    /// 409 to a DELETE: neither the record nor a tombstone names this node; what is here may be the last copy.
    pub const UNNAMED: &str = "Unnamed";
    /// 409 to a DELETE: the record wants this node on this cell.
    pub const ASSIGNED: &str = "Assigned";
    /// 422: the cell runs as many nodes as it may.
    pub const FULL: &str = "Full";
    /// 503: the cell cannot read the record from etcd now, so it starts nothing.
    pub const STORE_UNAVAILABLE: &str = "StoreUnavailable";
    /// 503: the cell is shutting down.
    pub const STOPPING: &str = "Stopping";
    /// 500: the cell's disk or system does not do what it should.
    pub const FAILED: &str = "Failed";
    /// 404: no such node on this cell, or no such path.
    pub const NOT_FOUND: &str = "NotFound";
    /// 405: the path is there, but not for this method.
    pub const METHOD_NOT_ALLOWED: &str = "MethodNotAllowed";
    /// 400: not a request that the cell understands.
    pub const BAD_REQUEST: &str = "BadRequest";
    /// 401: wrong credentials.
    pub const UNAUTHORIZED: &str = "Unauthorized";
}

/// A live cell's value at `/cells/<guid>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The cell.
    pub guid: CellGuid,
    /// Its availability zone.
    pub availability_zone: String,
    /// Where its API answers: `http://host:port`.
    pub uri: String,
    /// How many nodes it may hold.
    pub capacity: u32,
    /// How many it holds.
    pub load: u32,
    /// The version of its software.
    pub version: String,
    /// How many seconds a heartbeat counts, so that its age can be told from what is left of them; `None` from a cell
    /// that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
}
