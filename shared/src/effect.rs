//! What a decision calls for, and what came of it.
//!
//! **Guarantees.** Every effect is idempotent and harmless when it comes late: it creates, or it removes what it names
//! by index or by an id that is never used again (design.md, 4). None of them decides anything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    database::{NodeSettings, Reach},
    ids::{NodeId, Port},
    store::Index,
};

/// One thing to do outside the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Find out which cells are alive, and since when the others are missing.
    ListCells,
    /// Create the owner key of the candidate port.
    ClaimPort(Port),
    /// Write the allocation, move the hint to the next port.
    Allocate(Port),
    /// Write the projection that the original's tools read: which cell holds this node.
    Project(NodeId),
    /// Delete the projections of nodes that the instance does not have any more.
    SweepProjections,
    /// Ask the node's cell to run it.
    Start(NodeId),
    /// Ask the node's cell to remove it for good, together with its data.
    Remove(NodeId),
    /// Tidy up after nodes that are gone: their projections and what Patroni published about them.
    Forget(Vec<NodeId>),
    /// Connect through the public port: does the leader of this cluster answer, and is the database there? If it is
    /// not, create it.
    Prepare,
    /// Make the logins of all bindings, in a cluster that was made anew.
    RestoreLogins,
    /// Give the roles that nodes and broker use the passwords of the record's generation.
    ChangePasswords,
    /// Ask the leader who streams from it, for Patroni 3 does not write that into the member keys.
    AskReplication,
    /// Ask each node's PostgreSQL what it runs with: Patroni does not publish which configuration a member has taken over.
    AskSettings,
    /// Change Patroni's dynamic configuration.
    Configure(Map<String, Value>),
    /// Restart the PostgreSQL of a node, provided that this is still pending and the node still has this role.
    Restart {
        /// The node.
        node: NodeId,
        /// Its role as it publishes it.
        role: String,
    },
    /// Hand the leadership over, from one member to another that streams.
    Switchover {
        /// Who leads now.
        leader: String,
        /// Who shall lead.
        candidate: String,
    },
    /// Delete the reservation that counted the instance among those of a plan which it does not have any more.
    LeavePlan(String),
    /// Delete the allocation, put the port into quarantine, delete the projections and reservations.
    ReleasePort(Option<Port>),
    /// Delete the bindings.
    DropBindings,
    /// Delete these keys of Patroni's, each only if it is still at this index, and the directories when empty.
    ClearScope {
        /// The leaves as observed.
        leaves: Vec<(String, Index)>,
        /// The directories below the scope.
        directories: Vec<String>,
    },
    /// Write the tombstone, delete the record (on the index that was decided on), then what may be left: the marker and
    /// empty directories.
    Bury,
    /// Write a marker, so that reconcile comes to this instance often: nodes are about to be replaced.
    Mark,
    /// Delete the marker: no operation is under way any more.
    Unmark,
}

impl Effect {
    /// Whether nodes may run with other settings afterwards.
    #[must_use]
    pub fn touches_settings(&self) -> bool {
        matches!(
            self,
            Self::Configure(_) | Self::Restart { .. } | Self::Switchover { .. }
        )
    }

    /// Whether the cluster may look different afterwards, so that it has to be observed again.
    #[must_use]
    pub fn touches_cluster(&self) -> bool {
        matches!(
            self,
            Self::Remove(_)
                | Self::Forget(_)
                | Self::Configure(_)
                | Self::Restart { .. }
                | Self::Switchover { .. }
                | Self::ClearScope { .. }
        )
    }
}

/// What effects found out in this pass. A fact lives as long as the pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The cells that are alive or configured, once they were listed.
    pub cells: Option<Vec<crate::decide::placement::CellView>>,
    /// Since when other cells are missing, as it was known when the cells were listed.
    pub roll: Option<crate::roll::Roll>,
    /// Whose the candidate port is.
    pub port: PortFact,
    /// What cells answered to `Start`.
    pub started: BTreeMap<NodeId, StartAnswer>,
    /// Nodes that their cells confirmed to be gone.
    pub removed: BTreeSet<NodeId>,
    /// Why nodes are not gone yet.
    pub not_removed: BTreeMap<NodeId, String>,
    /// Whether the public port led to this cluster's leader, and why not.
    pub prepared: Option<Result<(), String>>,
    /// Whether the bindings can log in again, and why not.
    pub logins: Option<Result<(), String>>,
    /// Whose roles have the passwords of the record's generation, and why nobody's do.
    pub passwords: Option<Result<Reach, String>>,
    /// Who streams from the leader, by member name and state.
    pub replication: Option<BTreeMap<String, String>>,
    /// What each node's PostgreSQL runs with, of those that answered.
    pub settings: Option<BTreeMap<NodeId, NodeSettings>>,
    /// The allocation and the owner key are gone, as are the projections.
    pub port_released: bool,
    /// All bindings are gone.
    pub bindings_dropped: bool,
    /// A marker is there.
    pub marked: bool,
    /// The record is gone: this pass has deleted it, or somebody else has.
    pub gone: bool,
    /// Effects that failed otherwise, as sentences.
    pub troubles: Vec<String>,
}

/// Whose a candidate port is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortFact {
    /// Not tried in this pass.
    #[default]
    Unknown,
    /// The owner key names this instance and incarnation.
    Ours(Port),
    /// Somebody else's.
    Taken {
        /// The port that was tried.
        port: Port,
        /// Where to go on.
        next: Port,
    },
    /// All ports of the range are owned by others or in quarantine.
    Exhausted,
}

/// What a cell answered to the request to run a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartAnswer {
    /// It runs the node, or will, with passwords of this generation; `None`: it does not say of which.
    Accepted(Option<u32>),
    /// It certainly does not run the node and will not: it said so, or the request did not reach it.
    Refused(String),
    /// Nobody knows: the answer was lost, or the cell cannot tell now. To be asked again.
    Unclear(String),
}
