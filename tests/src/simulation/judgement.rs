//! What a cell makes of a record: the rules of `local-runner/src/cell/judgement.rs`.

use shared::{
    ids::{CellGuid, Incarnation, InstanceId, NodeId},
    record::{Phase, Record, State, Tombstone},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cell: CellGuid,
    pub(super) instance: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) node: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Run { nofailover: bool },
    SetAside,
    Remove,
}

pub(super) fn judge(record: Option<&Record>, tombstone: Option<&Tombstone>, id: &Identity) -> Judgement {
    if let Some(phase) = record.and_then(|record| phase_here(record, id)) {
        return Judgement::Run {
            nofailover: phase == Phase::Leaving,
        };
    }
    let retired = |list: &[NodeId]| list.contains(&id.node);
    if record.is_some_and(|record| retired(&record.retired))
        || tombstone.is_some_and(|tombstone| retired(&tombstone.retired))
    {
        return Judgement::Remove;
    }
    Judgement::SetAside
}

pub(super) fn admit(record: Option<&Record>, id: &Identity) -> Result<(), &'static str> {
    let Some(record) = record else {
        return Err("the instance has no record");
    };
    if record.incarnation != id.incarnation {
        return Err("the instance's record is of another incarnation");
    }
    if record.state == State::Deleting {
        return Err("the instance is being deprovisioned");
    }
    match record.nodes.get(&id.node) {
        None => Err("the instance's record does not name this node"),
        Some(node) if node.cell != id.cell => Err("the instance's record names this node on another cell"),
        Some(node) if node.phase == Phase::Leaving => Err("the node is on its way out"),
        Some(_) => Ok(()),
    }
}

/// Whether a node may be removed because a caller says so; otherwise why not.
pub(super) fn dismiss(
    record: Option<&Record>,
    leader: Option<&str>,
    id: &Identity,
) -> Result<(), &'static str> {
    let Some(record) =
        record.filter(|record| record.incarnation == id.incarnation && record.state == State::Active)
    else {
        return Ok(());
    };
    let given_up = !record.bootstrapped && record.staying().next().is_none();
    if !given_up && leader.is_some_and(|leader| leader == id.node.to_string()) {
        return Err("the node leads its cluster, which lives on");
    }
    let led = || leader.is_some_and(|leader| record.staying().any(|(node, _)| leader == node.to_string()));
    match phase_here(record, id) {
        Some(Phase::Assigned | Phase::Running) => Err("the record wants the node on this cell"),
        Some(Phase::Leaving) if record.bootstrapped && !led() => Err("no node that stays leads its cluster"),
        Some(Phase::Leaving) | None => Ok(()),
    }
}

fn phase_here(record: &Record, id: &Identity) -> Option<Phase> {
    if record.incarnation != id.incarnation {
        return None;
    }
    record
        .nodes
        .get(&id.node)
        .filter(|node| node.cell == id.cell)
        .map(|node| node.phase)
}
