//! Nodes on cells that are missing.

use super::fixture::{Case, at, cell, cells, guid, node};
use crate::{
    decide::Decision,
    effect::Effect,
    record::{OperationState, Phase},
    roll::Roll,
};

/// An instance at rest whose second node reports no more, five minutes and a second after its cell `c2` was first missed.
fn lost() -> Case {
    let case = Case::standing(2).idle().silent(2).after(1301);
    missing(case, &["c2"], 1000)
}

/// These cells have been missing since then; there are six.
fn missing(mut case: Case, names: &[&str], since: i64) -> Case {
    let alive = |guid: &str| !names.contains(&guid);
    let views = cells(6).into_iter().filter(|view| alive(view.guid.as_str()));
    case.facts.cells = Some(views.collect());
    let all = cells(6)
        .into_iter()
        .map(|view| (view.guid, crate::roll::Presence::default()));
    let mut roll = Roll {
        looked: case.now,
        cells: all.collect(),
    };
    for name in names {
        roll.cells.get_mut(&guid(name)).unwrap().missing_since = Some(at(since));
    }
    case.facts.roll = Some(roll);
    case.facts.marked = true;
    case
}

fn new_nodes(decision: &Decision) -> usize {
    let nodes = decision.record.nodes.keys();
    nodes.filter(|id| ![node(1), node(2)].contains(id)).count()
}

#[test]
fn a_node_that_does_not_report_makes_a_pass_look_at_the_cells() {
    let silent = Case::standing(2).idle().silent(2);
    assert_eq!(silent.decide().effects, [Effect::ListCells]);
    assert_eq!(Case::standing(2).idle().decide().effects, []);
}

#[test]
fn so_it_does_during_an_operation_once_the_cluster_stands() {
    let unlooked = |case: Case| case.with(|case| case.facts.cells = None);
    for case in [Case::standing(2), unlooked(Case::update(2, 2))] {
        assert!(!case.decide().has(&Effect::ListCells));
        assert!(case.clone().silent(2).decide().has(&Effect::ListCells));
        let looked = missing(case.silent(2), &["c2"], 0);
        assert!(!looked.decide().has(&Effect::ListCells), "once in a pass");
    }
    let never_stood = Case::assigned(2).phase(2, Phase::Running);
    assert!(!never_stood.decide().has(&Effect::ListCells));
}

#[test]
fn a_node_that_is_lost_during_an_operation_is_replaced() {
    for case in [Case::update(2, 2), Case::standing(2)] {
        let case = missing(case.silent(2).after(301), &["c2"], 0);
        let replacing = case.decide();
        assert_eq!(new_nodes(&replacing), 1);
        let new = replacing
            .record
            .nodes
            .keys()
            .find(|id| ![node(1), node(2)].contains(id));
        assert!(replacing.has(&Effect::Start(*new.unwrap())));
        assert_eq!(replacing.told().0, OperationState::InProgress);
        let replaced = case
            .with_node(3, &cell("c3", "z3"), Phase::Running)
            .streams(3)
            .next();
        assert_eq!(replaced.record.nodes[&node(2)].phase, Phase::Leaving);
        assert_eq!(replaced.decide().told().0, OperationState::Succeeded);
    }
}

#[test]
fn since_when_a_cell_is_missing_is_written_down_and_taken_back() {
    let decision = lost().decide();
    let since = |decision: &Decision| decision.record.nodes[&node(2)].missing_since;
    assert_eq!(since(&decision), Some(at(1000)));
    assert_eq!(decision.record.nodes[&node(1)].missing_since, None);
    let back = missing(lost().next().streams(2), &[], 0);
    assert_eq!(since(&back.decide()), None);
}

#[test]
fn the_marker_comes_first_and_then_the_replacement() {
    let unmarked = lost().with(|case| case.facts.marked = false);
    let decision = unmarked.decide();
    assert_eq!(
        (&decision.record, &decision.effects),
        (&unmarked.record, &vec![Effect::Mark])
    );
    let decision = lost().decide();
    assert_eq!(new_nodes(&decision), 1);
    assert_eq!(decision.phase(2), Some(Phase::Running));
    assert_eq!(decision.starts().len(), 1);
    assert_eq!(decision.removes(), []);
}

#[test]
fn the_old_node_leaves_when_the_replacement_streams() {
    let replacing = lost().with_node(3, &cell("c3", "z3"), Phase::Assigned);
    assert_eq!(replacing.decide().leaving(), []);
    let decision = replacing.clone().streams(3).decide();
    assert_eq!(decision.leaving(), [node(2)]);
    assert!(!decision.has(&Effect::Unmark), "it is still to be removed");
    // Also for a pass that has not looked at the cells: the record remembers.
    let blind = replacing.next().streams(3).with(|case| {
        case.facts.cells = None;
        case.facts.roll = None;
    });
    assert_eq!(blind.decide().leaving(), [node(2)]);
}

#[test]
fn a_node_that_comes_back_first_makes_the_replacement_leave() {
    let replacing = lost().with_node(3, &cell("c3", "z3"), Phase::Assigned).next();
    let back = missing(replacing.streams(2), &[], 0);
    assert_eq!(back.decide().leaving(), [node(3)]);
}

#[test]
fn a_node_is_not_replaced() {
    let single = Case::standing(1).idle().silent(1).leaderless().after(1301);
    for (why, case) in [
        ("its cell was missed too lately", missing(lost(), &["c2"], 1001)),
        ("it reports, whatever its cell does", lost().streams(2)),
        ("nobody leads", lost().leaderless()),
        ("it leads itself", lost().led_by(2)),
        ("it is the only one", missing(single, &["c1"], 0)),
        (
            "half of the cells are missing",
            missing(lost(), &["c2", "c4", "c5"], 1000),
        ),
        (
            "there is no other cell",
            lost().with(|case| case.facts.cells = Some(cells(1))),
        ),
        (
            "the others are not wanted",
            lost().with(|case| case.record.cells = Some(vec![guid("c1"), guid("c2")])),
        ),
    ] {
        let decision = case.decide();
        assert_eq!(decision.record.nodes.len(), case.record.nodes.len(), "{why}");
        assert_eq!(decision.leaving(), [], "{why}");
    }
}

#[test]
fn a_node_on_a_destroyed_cell_is_replaced_at_once() {
    let declared = missing(lost(), &["c2", "c3", "c4", "c5"], 1300).with(|case| {
        let roll = case.facts.roll.as_mut().unwrap();
        roll.cells.get_mut(&guid("c2")).unwrap().destroyed = Some(at(1300));
    });
    assert_eq!(new_nodes(&declared.decide()), 1);
}

#[test]
fn a_node_that_cannot_be_asked_to_go_keeps_nothing_up() {
    // Two nodes and one on its way out, on a cell that is missing.
    let stale = |case: Case| missing(case.phase(3, Phase::Leaving).silent(3), &["c3"], 0);
    let shrunk = stale(Case::update(3, 2));
    assert_eq!(shrunk.decide().told().0, OperationState::Succeeded);
    assert_eq!(shrunk.decide().leaving(), [node(3)], "it is not forgotten");
    // Another one leaves all the same.
    assert_eq!(stale(Case::update(3, 1)).decide().leaving(), [node(2), node(3)]);
    // One whose cell is there is waited for.
    let slow = missing(Case::update(3, 2).phase(3, Phase::Leaving).silent(3), &[], 0);
    assert_eq!(slow.decide().told().0, OperationState::InProgress);
}

#[test]
fn a_bootstrap_is_started_over_without_a_missing_cell_that_cannot_be_initialising() {
    let given_up = |n: u32| {
        let mut case = Case::assigned(n).after(100);
        for node in case.record.nodes.values_mut() {
            node.phase = Phase::Leaving;
        }
        case.record.bootstrap_restarts = 1;
        case.record.bootstrap_started = at(99);
        case.cluster.initialize = Some(String::new());
        case
    };
    let waits = missing(given_up(2), &[], 0);
    assert_eq!(waits.decide().record.nodes.len(), 2, "its cells are asked first");
    let still = missing(given_up(2), &["c1", "c2"], 50);
    assert_eq!(new_nodes(&still.decide()), 0, "a machine may only stand still");
    let destroyed = missing(given_up(2), &["c1", "c2"], 50).with(|case| {
        let cells = &mut case.facts.roll.as_mut().unwrap().cells;
        cells
            .values_mut()
            .for_each(|presence| presence.destroyed = presence.missing_since);
    });
    assert_eq!(new_nodes(&destroyed.decide()), 2);
    let gone = still.with(|case| case.cluster.initialize = None);
    let decision = gone.decide();
    assert_eq!(
        decision.leaving(),
        [node(1), node(2)],
        "they go when their cells are back"
    );
    assert_eq!(new_nodes(&decision), 2);
    let reports = gone.publishes(
        1,
        super::fixture::member("initializing new cluster", "uninitialized"),
    );
    assert_eq!(new_nodes(&reports.decide()), 0, "it may still become the leader");
}
