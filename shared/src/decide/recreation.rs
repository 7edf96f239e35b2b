//! Whether every copy of an instance is lost, and what its record says once it is to be made anew (design.md, 4, rule 4).
//!
//! **Guarantees.** Nothing counts as lost on absence of evidence: of each node, its cell was declared destroyed by an
//! operator, or says itself that it does not hold the node. A copy that any cell tells of, in quarantine or not, is a copy; so
//! is a node that reports to Patroni.
//! **Assumes.** The evidence was gathered after the record was read, and the new record is written by compare-and-swap on
//! the index it was read at.
//! **Caveats.** A cell whose disk is not mounted holds nothing and says so. Old nodes are removed wherever they turn up
//! later: an operator who asks for this gives every old copy up.

use std::collections::BTreeSet;

use super::placement::CellView;
use crate::{
    cell_api::{CellStatus, NodeState},
    cluster::Cluster,
    record::{Operation, OperationKind, OperationState, Phase, Record},
    roll::Roll,
};

/// What is said when [`was_given_up`].
pub const GIVEN_UP: &str = "the instance was to be made anew, and is not complete; its operator has to go on with that, or \
                            delete it";

/// What is known of the copies of an instance.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The cluster as Patroni published it.
    pub cluster: Cluster,
    /// Which cells are declared destroyed.
    pub roll: Roll,
    /// The cells that are alive or configured, and what each says that it holds, or why it does not say so.
    pub cells: Vec<(CellView, Result<CellStatus, String>)>,
}

/// Why it is not certain that every copy is lost, in words for an operator. Empty: it is.
#[must_use]
pub fn doubts(record: &Record, evidence: &Evidence) -> BTreeSet<String> {
    let mut doubts = of_the_cluster(&evidence.cluster);
    for (view, answer) in &evidence.cells {
        doubts.extend(of_a_cell(record, view, answer, &evidence.roll));
    }
    for node in record.nodes.values() {
        let cell = &node.cell;
        let is_listed = evidence.cells.iter().any(|(view, _)| view.guid == *cell);
        if !is_listed && !evidence.roll.is_destroyed(cell) {
            doubts.insert(format!(
                "cell {cell} is missing: start it, or declare it destroyed if it will never come back"
            ));
        }
    }
    doubts
}

fn of_the_cluster(cluster: &Cluster) -> BTreeSet<String> {
    let leader = cluster.leader.iter().map(|name| format!("{name} leads"));
    let members = cluster.members.iter();
    let members = members.map(|(name, member)| format!("{name} reports to Patroni as {}", member.state));
    leader
        .chain(members)
        .map(|what| format!("{what}, or did so lately: its key in etcd has not run out"))
        .collect()
}

fn of_a_cell(
    record: &Record,
    view: &CellView,
    answer: &Result<CellStatus, String>,
    roll: &Roll,
) -> Vec<String> {
    let cell = &view.guid;
    let is_named = record.nodes.values().any(|node| node.cell == *cell);
    // A configured cell that nobody hears of and that the record does not name has nothing to say in this.
    let must_answer = view.is_alive() || (is_named && !roll.is_destroyed(cell));
    let status = match answer {
        Ok(status) => status,
        Err(_) if !must_answer => return Vec::new(),
        Err(reason) => return vec![reason.clone()],
    };
    let mut doubts = Vec::new();
    for held in &status.nodes {
        if held.instance_id == record.instance_id && held.incarnation == record.incarnation {
            let where_to = match held.state {
                NodeState::Quarantined => " in quarantine",
                NodeState::Running | NodeState::Waiting | NodeState::Stopping => "",
            };
            doubts.push(format!("cell {cell} holds node {}{where_to}", held.node_id));
        }
    }
    match &status.unkept {
        Some(unkept) => {
            let ours = record.nodes.keys().chain(&record.retired);
            doubts.extend(ours.filter(|node| unkept.contains(node)).map(|node| {
                format!("cell {cell} has a directory of node {node} that it cannot make sense of")
            }));
        }
        None if is_named => {
            doubts.push(format!(
                "cell {cell} does not say what else is on its disk: upgrade it"
            ));
        }
        None => {}
    }
    doubts
}

/// The record of an instance that is to be made anew: the same incarnation, port and bindings, all nodes on their way out,
/// and nothing bootstrapped.
///
/// The passwords of nodes and broker are another generation's, of the key for everything new: a handler that stood still
/// since before the loss cannot log in to the new cluster, where nothing remembers which logins were withdrawn.
#[must_use]
pub fn anew(record: Record, operation: Operation, master_key: &str) -> Record {
    let generation = record.credential_generation;
    let mut next = Record {
        master_key: master_key.to_owned(),
        credential_generation: generation.saturating_add(1),
        // The new cluster has never had others.
        former_credentials: None,
        ..going_on(record, operation)
    };
    next.bootstrapped = false;
    next.settings = None;
    for node in next.nodes.values_mut() {
        node.phase = Phase::Leaving;
    }
    next
}

/// The record in which another operation goes on with what the last one was given up with.
#[must_use]
pub fn going_on(record: Record, operation: Operation) -> Record {
    Record {
        bootstrap_started: operation.started,
        bootstrap_restarts: 0,
        operation: Some(operation),
        ..record
    }
}

/// Whether the last operation was to make the instance anew, and was given up.
#[must_use]
pub fn was_given_up(record: &Record) -> bool {
    record
        .last_operation
        .as_ref()
        .is_some_and(|last| last.kind == OperationKind::Recreate && last.state == OperationState::Failed)
}
