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
    tombstone: Option<&Tombstone>,
    leader: Option<&str>,
    id: &Identity,
) -> Result<(), &'static str> {
    let lives = |record: &&Record| record.incarnation == id.incarnation && record.state == State::Active;
    let active = record.filter(lives);
    let given_up = |record: &Record| !record.bootstrapped && record.staying().next().is_none();
    let leads = leader.is_some_and(|leader| leader == id.node.to_string());
    if leads && active.is_some_and(|record| !given_up(record)) {
        return Err("the node leads its cluster, which lives on");
    }
    let Some(phase) = record.and_then(|record| phase_here(record, id)) else {
        let is_gone = judge(record, tombstone, id) == Judgement::Remove;
        return is_gone.then_some(()).ok_or("nothing names the node as gone");
    };
    let Some(record) = active else { return Ok(()) };
    let led = || leader.is_some_and(|leader| record.staying().any(|(node, _)| leader == node.to_string()));
    match phase {
        Phase::Assigned | Phase::Running => Err("the record wants the node on this cell"),
        Phase::Leaving if record.bootstrapped && !led() => Err("no node that stays leads its cluster"),
        Phase::Leaving => Ok(()),
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
