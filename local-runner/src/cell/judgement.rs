//! What the record of an instance says about one node on this cell.
//!
//! **Guarantees.** Pure: no clock, no I/O. Nothing is ever judged [`Judgement::Remove`] without a document that names
//! the node as retired; the mere absence of a record, or a record that does not know the node, sets it aside.
//! **Assumes.** What it is given was read with a quorum after the node was written into its record, so that "absent" is
//! a fact and not a delay.

use shared::{
    ids::{CellGuid, Incarnation, InstanceId, NodeId},
    record::{Phase, Record, State, Tombstone},
};

/// A node as the cell was told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cell that holds it.
    pub(super) cell: CellGuid,
    /// Its instance.
    pub(super) instance: InstanceId,
    /// Which life of the instance.
    pub(super) incarnation: Incarnation,
    /// The node.
    pub(super) node: NodeId,
}

/// What to do with a node that the cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The record names it here: it runs.
    Run {
        /// It is on its way out and must not become the leader.
        nofailover: bool,
    },
    /// Nothing names it here, and nothing says that it is gone for good: stop it, keep its data.
    SetAside,
    /// A record or a tombstone names it as retired: its data goes.
    Remove,
}

/// Judges a node that the cell holds. The tombstone matters only when the record does not name the node.
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

/// Whether a node that the cell does not hold may be started; otherwise why not.
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

/// Whether a node that the cell holds may be removed because a caller says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dismissal {
    /// It may go.
    Granted,
    /// It leads its cluster, which lives on.
    Leads,
    /// No node that stays leads: what is here may be the last living copy.
    Unled,
    /// No document names it as going or gone.
    Unnamed,
    /// Its record wants it to stay.
    Wanted,
}

/// Judges a caller's wish to remove a node. `leader` is the value of Patroni's leader key; the tombstone matters only when the
/// record does not name the node.
///
/// A leader may go when its instance is being deprovisioned, or when the record gives the whole bootstrap up before the
/// cluster ever stood: nobody could take the leadership over, and there is no data yet. A node of a cluster that has stood
/// may go only while one that stays leads: a request may be late, and the others may have died since it was sent. That
/// nothing names a node is no reason to remove it: the record may be lost, or older than the node.
pub(super) fn dismiss(
    record: Option<&Record>,
    tombstone: Option<&Tombstone>,
    leader: Option<&str>,
    id: &Identity,
) -> Dismissal {
    let lives = |record: &&Record| record.incarnation == id.incarnation && record.state == State::Active;
    let active = record.filter(lives);
    let given_up = |record: &Record| !record.bootstrapped && record.staying().next().is_none();
    if active.is_some_and(|record| !given_up(record))
        && leader.is_some_and(|leader| leader == id.node.to_string())
    {
        return Dismissal::Leads;
    }
    let Some(phase) = record.and_then(|record| phase_here(record, id)) else {
        return match judge(record, tombstone, id) {
            Judgement::Remove => Dismissal::Granted,
            Judgement::Run { .. } | Judgement::SetAside => Dismissal::Unnamed,
        };
    };
    let Some(record) = active else {
        return Dismissal::Granted;
    };
    let led = || leader.is_some_and(|leader| record.staying().any(|(node, _)| leader == node.to_string()));
    match phase {
        Phase::Assigned | Phase::Running => Dismissal::Wanted,
        Phase::Leaving if record.bootstrapped && !led() => Dismissal::Unled,
        Phase::Leaving => Dismissal::Granted,
    }
}

/// How far the node has come on this cell, as its own record says.
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

#[cfg(test)]
mod tests {
    use shared::record::Node;
    use uuid::Uuid;

    use super::{super::fixture, *};

    fn id() -> Identity {
        Identity {
            cell: "c1".parse().unwrap(),
            instance: "i1".parse().unwrap(),
            incarnation: Uuid::from_u128(1).into(),
            node: Uuid::from_u128(10).into(),
        }
    }

    fn record(change: impl FnOnce(&mut Record)) -> Record {
        let mut record = fixture::record(&id().instance, id().incarnation);
        record.nodes.insert(id().node, node(Phase::Running, "c1"));
        record.bootstrapped = true;
        change(&mut record);
        record
    }

    fn node(phase: Phase, cell: &str) -> Node {
        fixture::node(phase, &cell.parse().unwrap())
    }

    fn tombstone(retired: &[NodeId]) -> Tombstone {
        fixture::from(fixture::tombstone(Uuid::from_u128(9).into(), retired))
    }

    fn another_incarnation(record: &mut Record) {
        record.incarnation = Uuid::from_u128(2).into();
    }

    fn leaving(record: &mut Record) {
        record.nodes.insert(id().node, node(Phase::Leaving, "c1"));
    }

    fn elsewhere(record: &mut Record) {
        record.nodes.insert(id().node, node(Phase::Running, "c2"));
    }

    fn deleting(record: &mut Record) {
        record.state = State::Deleting;
    }

    #[test]
    fn a_held_node_is_judged_by_what_names_it() {
        use Judgement::{Remove, Run, SetAside};
        let stays = Run { nofailover: false };
        let assigned = |record: &mut Record| {
            record.nodes.insert(id().node, node(Phase::Assigned, "c1"));
        };
        let unnamed = |record: &mut Record| record.nodes.clear();
        let retired = |record: &mut Record| {
            record.nodes.clear();
            record.retired.push(id().node);
        };
        let retired_in_another = |record: &mut Record| {
            retired(record);
            another_incarnation(record);
        };
        let contradictory = |record: &mut Record| record.retired.push(id().node);
        let ours = tombstone(&[id().node]);
        let others = tombstone(&[Uuid::from_u128(77).into()]);

        for (case, record, tombstone, expected) in [
            ("running", Some(record(|_| ())), None, stays),
            ("assigned", Some(record(assigned)), None, stays),
            ("leaving", Some(record(leaving)), None, Run { nofailover: true }),
            ("deleting keeps running", Some(record(deleting)), None, stays),
            (
                "named and retired: the name wins",
                Some(record(contradictory)),
                None,
                stays,
            ),
            (
                "named, whatever a tombstone says",
                Some(record(|_| ())),
                Some(&ours),
                stays,
            ),
            ("not named", Some(record(unnamed)), None, SetAside),
            ("on another cell", Some(record(elsewhere)), None, SetAside),
            (
                "of another incarnation",
                Some(record(another_incarnation)),
                None,
                SetAside,
            ),
            ("no record", None, None, SetAside),
            ("a tombstone of others", None, Some(&others), SetAside),
            ("retired", Some(record(retired)), None, Remove),
            (
                "retired, then the id used again",
                Some(record(retired_in_another)),
                None,
                Remove,
            ),
            ("deprovisioned", None, Some(&ours), Remove),
            (
                "deprovisioned and the id used again",
                Some(record(another_incarnation)),
                Some(&ours),
                Remove,
            ),
        ] {
            assert_eq!(judge(record.as_ref(), tombstone, &id()), expected, "{case}");
        }
    }

    #[test]
    fn only_a_node_that_its_living_record_names_here_is_admitted() {
        assert_eq!(admit(Some(&record(|_| ())), &id()), Ok(()));
        for (case, record) in [
            ("no record", None),
            ("another incarnation", Some(record(another_incarnation))),
            ("deleting", Some(record(deleting))),
            ("not named", Some(record(|record| record.nodes.clear()))),
            ("elsewhere", Some(record(elsewhere))),
            ("leaving", Some(record(leaving))),
        ] {
            assert!(admit(record.as_ref(), &id()).is_err(), "{case}");
        }
    }

    #[test]
    fn a_leader_or_a_wanted_node_is_not_dismissed() {
        use Dismissal::{Granted, Leads, Unled, Unnamed, Wanted};
        let leader = id().node.to_string();
        let given_up = |record: &mut Record| {
            leaving(record);
            record.bootstrapped = false;
        };
        let with_a_successor = |record: &mut Record| {
            given_up(record);
            let successor = Uuid::from_u128(11).into();
            record.nodes.insert(successor, node(Phase::Assigned, "c2"));
        };
        for (case, record, leads, expected) in [
            ("bootstrap given up", Some(record(given_up)), true, Granted),
            (
                "bootstrap goes on without it",
                Some(record(with_a_successor)),
                true,
                Leads,
            ),
            ("wanted", Some(record(|_| ())), false, Wanted),
            ("leader", Some(record(|_| ())), true, Leads),
            ("leaving, and nobody leads", Some(record(leaving)), false, Unled),
            (
                "leaving before the bootstrap, and nobody leads",
                Some(record(with_a_successor)),
                false,
                Granted,
            ),
            (
                "deleting, and nobody leads",
                Some(record(deleting)),
                false,
                Granted,
            ),
            ("leaving leader", Some(record(leaving)), true, Leads),
            (
                "unnamed leader",
                Some(record(|record| record.nodes.clear())),
                true,
                Leads,
            ),
            (
                "unnamed",
                Some(record(|record| record.nodes.clear())),
                false,
                Unnamed,
            ),
            ("elsewhere", Some(record(elsewhere)), false, Unnamed),
            ("deleting", Some(record(deleting)), true, Granted),
            ("no record", None, true, Unnamed),
            (
                "another incarnation",
                Some(record(another_incarnation)),
                true,
                Unnamed,
            ),
            (
                "another incarnation that is being deprovisioned",
                Some(record(|record| {
                    deleting(record);
                    another_incarnation(record);
                })),
                false,
                Unnamed,
            ),
        ] {
            let leader = leads.then_some(leader.as_str());
            assert_eq!(dismiss(record.as_ref(), None, leader, &id()), expected, "{case}");
        }
    }

    #[test]
    fn a_node_that_its_record_does_not_name_goes_only_if_a_document_says_that_it_is_gone() {
        use Dismissal::{Granted, Unnamed};
        let unnamed = |record: &mut Record| record.nodes.clear();
        let retired = |record: &mut Record| {
            unnamed(record);
            record.retired.push(id().node);
        };
        let (ours, others) = (tombstone(&[id().node]), tombstone(&[Uuid::from_u128(77).into()]));
        for (case, record, tombstone, expected) in [
            ("nothing", None, None, Unnamed),
            ("a tombstone of others", None, Some(&others), Unnamed),
            ("a tombstone", None, Some(&ours), Granted),
            (
                "a record without it",
                Some(record(unnamed)),
                Some(&others),
                Unnamed,
            ),
            (
                "a record that has retired it",
                Some(record(retired)),
                None,
                Granted,
            ),
            (
                "another incarnation",
                Some(record(another_incarnation)),
                Some(&others),
                Unnamed,
            ),
            (
                "another incarnation, and a tombstone",
                Some(record(another_incarnation)),
                Some(&ours),
                Granted,
            ),
        ] {
            assert_eq!(
                dismiss(record.as_ref(), tombstone, None, &id()),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn a_leaving_node_goes_only_while_one_that_stays_leads() {
        use Dismissal::{Granted, Unled};
        let other: NodeId = Uuid::from_u128(11).into();
        let leads = Some(other.to_string());
        let with = |phase| {
            record(|record| {
                leaving(record);
                record.nodes.insert(other, node(phase, "c2"));
            })
        };
        for (case, record, leader, expected) in [
            ("it runs", with(Phase::Running), leads.clone(), Granted),
            ("it has just come", with(Phase::Assigned), leads.clone(), Granted),
            ("it leaves, too", with(Phase::Leaving), leads.clone(), Unled),
            ("it is not named", record(leaving), leads, Unled),
            ("nobody leads", with(Phase::Running), None, Unled),
            (
                "a stranger leads",
                with(Phase::Running),
                Some("stranger".to_owned()),
                Unled,
            ),
        ] {
            assert_eq!(
                dismiss(Some(&record), None, leader.as_deref(), &id()),
                expected,
                "{case}"
            );
        }
    }
}
