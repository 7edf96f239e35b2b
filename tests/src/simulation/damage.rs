//! What happens to cells behind everybody's back.

use serde_json::Map;
use shared::{
    cell_api::NodeParameters,
    ids::{CellGuid, Incarnation, InstanceId, NodeId},
};

use super::{World, cell::Cell, judgement::Identity, patroni::Patroni};

impl World {
    fn at<T>(&self, cell: &str, change: impl FnOnce(&mut Cell) -> T) -> T {
        let guid: CellGuid = cell.parse().unwrap();
        self.with(|state| change(state.cells.get_mut(&guid).unwrap()))
    }

    /// A cell's data directory is lost, with all its nodes and what it knows of former ones; it goes on without.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn wipe(&self, cell: &str) {
        self.at(cell, |cell| {
            cell.nodes.clear();
            cell.retired.clear();
        });
    }

    /// From now on a cell's API takes requests, does nothing, and never answers.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn hang(&self, cell: &str) {
        self.at(cell, |cell| cell.hangs = true);
    }

    /// A cell holds a node that it was never asked for.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn plant(&self, cell: &str, instance: &InstanceId, incarnation: Incarnation, node: NodeId) {
        let parameters = NodeParameters {
            patroni_scope: instance.clone(),
            node_id: node,
            incarnation,
            credential_generation: 1,
            superuser_password: String::new(),
            replication_password: String::new(),
            rewind_password: String::new(),
            restapi_password: String::new(),
            patroni_config: Map::new(),
        };
        self.at(cell, |cell| {
            let id = Identity {
                cell: cell.guid.clone(),
                instance: instance.clone(),
                incarnation,
                node,
            };
            cell.retired.remove(&node);
            cell.keep(Patroni::new(id, &parameters, cell.http));
        });
    }

    /// Whether a cell holds a node, running or not.
    ///
    /// # Panics
    /// When there is no such cell.
    #[must_use]
    pub fn holds(&self, cell: &str, node: NodeId) -> bool {
        self.at(cell, |cell| cell.nodes.contains_key(&node))
    }

    /// Whether a node leads its cluster.
    #[must_use]
    pub fn leads(&self, node: NodeId) -> bool {
        self.with(|state| {
            let mut running = state.cells.values().flat_map(Cell::running);
            running.any(|patroni| patroni.id.node == node && patroni.leads())
        })
    }
}
