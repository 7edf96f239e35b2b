//! An instance whose every copy is lost: what speaks against it, and how it comes about anew.

use std::{collections::BTreeSet, num::NonZeroU64};

use uuid::Uuid;

use super::fixture::{Case, at, cells, guid, member, node, operation, port};
use crate::{
    cell_api::{CellStatus, NodeState, NodeStatus},
    cluster::Cluster,
    decide::recreation::{Evidence, anew, doubts, going_on, was_given_up},
    effect::Effect,
    ids::Incarnation,
    record::{OperationKind, OperationState, Phase, PortClaim, Record},
    roll::{Presence, Roll},
};

/// Two nodes that once stood, on cells `c1` and `c2`; nobody reports any more.
fn lost() -> Record {
    Case::standing(2).idle().record
}

/// Cells `c1`, `c2` and `c3` live and hold nothing.
fn empty_cells() -> Evidence {
    let answer = |view: &crate::decide::placement::CellView| CellStatus {
        guid: view.guid.clone(),
        nodes: Vec::new(),
        unkept: Some(BTreeSet::new()),
    };
    let views = cells(3);
    Evidence {
        cluster: Cluster::default(),
        roll: Roll::empty(at(0)),
        cells: views
            .iter()
            .map(|view| (view.clone(), Ok(answer(view))))
            .collect(),
    }
}

fn holds(evidence: &mut Evidence, cell: usize, n: u128, state: NodeState, life: Incarnation) {
    let record = lost();
    let held = NodeStatus {
        node_id: node(n),
        instance_id: record.instance_id,
        incarnation: life,
        state,
        address: String::new(),
        rest_address: String::new(),
        credential_generation: None,
    };
    evidence.cells[cell].1.as_mut().unwrap().nodes.push(held);
}

fn destroyed(evidence: &mut Evidence, cell: &str) {
    let presence = Presence {
        missing_since: Some(at(0)),
        destroyed: Some(at(0)),
        needed: None,
    };
    evidence.roll.cells.insert(guid(cell), presence);
}

#[test]
fn every_copy_is_lost_only_when_there_is_evidence_of_each() {
    type Change = fn(&mut Evidence);
    let cases: [(&str, Change, &[&str]); 17] = [
        ("both cells say that they hold nothing", |_| {}, &[]),
        (
            "a cell was declared destroyed",
            |evidence| {
                drop(evidence.cells.remove(0));
                destroyed(evidence, "c1");
            },
            &[],
        ),
        (
            "both cells were",
            |evidence| {
                evidence.cells.drain(..2);
                destroyed(evidence, "c1");
                destroyed(evidence, "c2");
            },
            &[],
        ),
        (
            "a cell is merely missing",
            |evidence| drop(evidence.cells.remove(0)),
            &["cell c1 is missing"],
        ),
        (
            "a cell does not say what it holds",
            |evidence| evidence.cells[1].1 = Err("cell c2 does not say".to_owned()),
            &["cell c2 does not say"],
        ),
        (
            "a configured cell is not heard of",
            |evidence| {
                evidence.cells[1].0.room = None;
                evidence.cells[1].1 = Err("cell c2 does not say".to_owned());
            },
            &["cell c2 does not say"],
        ),
        (
            "a configured cell was declared destroyed",
            |evidence| {
                evidence.cells[1].0.room = None;
                evidence.cells[1].1 = Err("cell c2 does not say".to_owned());
                destroyed(evidence, "c2");
            },
            &[],
        ),
        (
            "a cell that lives may hold what the record does not know of",
            |evidence| evidence.cells[2].1 = Err("cell c3 does not say".to_owned()),
            &["cell c3 does not say"],
        ),
        (
            "a configured cell that nobody needs does not answer",
            |evidence| {
                evidence.cells[2].0.room = None;
                evidence.cells[2].1 = Err("cell c3 does not say".to_owned());
            },
            &[],
        ),
        (
            "a cell runs its node",
            |evidence| holds(evidence, 0, 1, NodeState::Running, lost().incarnation),
            &["cell c1 holds node "],
        ),
        (
            "a cell has its node in quarantine",
            |evidence| holds(evidence, 1, 2, NodeState::Quarantined, lost().incarnation),
            &["in quarantine"],
        ),
        (
            "a cell that the record does not name has a node of it",
            |evidence| holds(evidence, 2, 9, NodeState::Quarantined, lost().incarnation),
            &["cell c3 holds node "],
        ),
        (
            "of another life",
            |evidence| holds(evidence, 2, 9, NodeState::Running, Uuid::from_u128(5).into()),
            &[],
        ),
        (
            "a directory that its cell cannot make sense of",
            |evidence| {
                let status = evidence.cells[0].1.as_mut().unwrap();
                status.unkept = Some(BTreeSet::from([node(1)]));
            },
            &["that it cannot make sense of"],
        ),
        (
            "a cell that does not say what else it has",
            |evidence| evidence.cells[0].1.as_mut().unwrap().unkept = None,
            &["cell c1 does not say what else"],
        ),
        (
            "the leader key is there",
            |evidence| evidence.cluster.leader = Some(node(1).to_string()),
            &["leads, or did so lately"],
        ),
        (
            "a member key is there",
            |evidence| {
                let (name, stopped) = (node(1).to_string(), member("stopped", "replica"));
                evidence.cluster.members.insert(name, stopped);
            },
            &["reports to Patroni as stopped"],
        ),
    ];
    for (case, change, expected) in cases {
        let mut evidence = empty_cells();
        change(&mut evidence);
        let found = doubts(&lost(), &evidence);
        assert_eq!(found.len(), expected.len(), "{case}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{case}: {found}");
        }
    }
}

/// The instance has just been told to come about anew, and etcd still holds what the old cluster left.
fn begun() -> Case {
    let mut case = Case::standing(2).idle().after(1000);
    let mut operation = operation(OperationKind::Recreate);
    (operation.started, operation.deadline) = (at(1000), at(2000));
    case.record = anew(case.record, operation, "newer");
    case.cluster = Cluster {
        exists: true,
        initialize: Some("7300000000000000001".to_owned()),
        leaves: vec![("/service/f1/initialize".to_owned(), NonZeroU64::MIN)],
        ..Cluster::default()
    };
    case.facts = Default::default();
    case.facts.cells = Some(cells(6));
    case
}

#[test]
fn the_record_keeps_what_users_know_and_gives_up_what_was_lost() {
    let (before, after) = (lost(), begun().record);
    assert_eq!(after.incarnation, before.incarnation);
    assert_eq!(after.port, PortClaim::Owned { port: port(30000) });
    assert_eq!((after.node_count, &after.cells), (2, &None));
    assert!(after.nodes.values().all(|node| node.phase == Phase::Leaving));
    assert!(!after.bootstrapped);
    assert_eq!((after.bootstrap_started, after.bootstrap_restarts), (at(1000), 0));
    // A handler from before the loss cannot log in to what comes after it.
    assert_eq!(after.credential_generation, before.credential_generation + 1);
    assert_eq!(after.master_key, "newer");
}

#[test]
fn old_nodes_are_retired_and_the_scope_is_cleared_before_new_nodes_come() {
    let begun = begun();
    assert_eq!(begun.decide().removes(), [node(1), node(2)]);
    let gone = begun.with(|case| case.facts.removed.extend([node(1), node(2)]));
    let decision = gone.decide();
    assert!(decision.record.nodes.is_empty());
    let clears = |effect: &Effect| matches!(effect, Effect::ClearScope { .. });
    assert!(decision.effects.iter().any(clears), "{:?}", decision.effects);

    let cleared = gone.next().with(|case| case.cluster = Cluster::default());
    let decision = cleared.decide();
    assert_eq!(decision.record.retired, [node(1), node(2)]);
    assert_eq!(decision.starts().len(), 2);
    let old = |id| [node(1), node(2)].contains(id);
    assert!(!decision.record.nodes.keys().any(old));
    assert_eq!(decision.told().0, OperationState::InProgress);
}

#[test]
fn it_has_succeeded_when_the_bindings_can_log_in_again() {
    let stands = Case::standing(2).with(|case| {
        case.record.operation = Some(operation(OperationKind::Recreate));
    });
    let restores = |case: &Case| case.decide().has(&Effect::RestoreLogins);
    let state = |case: &Case| case.decide().told().0;
    let unprepared = stands.clone().with(|case| case.facts.prepared = None);
    assert_eq!(
        (restores(&unprepared), state(&unprepared)),
        (false, OperationState::InProgress)
    );
    assert!(unprepared.decide().has(&Effect::Prepare));
    assert_eq!(
        (restores(&stands), state(&stands)),
        (true, OperationState::InProgress)
    );
    let refused = stands
        .clone()
        .with(|case| case.facts.logins = Some(Err("refused".to_owned())));
    assert_eq!(
        (restores(&refused), state(&refused)),
        (false, OperationState::InProgress)
    );
    let made = stands.clone().with(|case| case.facts.logins = Some(Ok(())));
    assert_eq!(
        (restores(&made), state(&made)),
        (false, OperationState::Succeeded)
    );

    // At the deadline it is tried once more, and then told.
    let late = stands.after(10_000);
    assert!(restores(&late));
    let late = refused.after(10_000).decide();
    let (state, told) = late.told();
    assert_eq!(state, OperationState::Failed);
    assert!(
        told.contains("the logins of the bindings are not made again: refused"),
        "{told}"
    );
    assert!(told.contains("Give the command again"), "{told}");
    assert!(was_given_up(&late.record));
    let again = going_on(late.record.clone(), operation(OperationKind::Recreate));
    assert_eq!(again.nodes, late.record.nodes);
    assert!(
        again.bootstrapped
            && !was_given_up(&Record {
                last_operation: None,
                ..again
            })
    );
}

#[test]
fn no_other_operation_makes_logins() {
    for kind in [OperationKind::Provision, OperationKind::Update] {
        let case = Case::standing(2).with(|case| case.record.operation = Some(operation(kind)));
        let decision = case.decide();
        assert!(!decision.has(&Effect::RestoreLogins));
        assert_eq!(decision.told().0, OperationState::Succeeded);
    }
}
