//! Which cells an instance's nodes are placed on.

use std::collections::BTreeSet;

use super::fixture::{Case, cell, cells, guid, node, port};
use crate::{
    effect::{Effect, PortFact},
    record::{OperationState, Phase, PortClaim},
};

#[test]
fn cells_are_listed_before_nodes_are_placed() {
    let decision = Case::owning(2).decide();
    assert!(decision.has(&Effect::ListCells));
    assert!(decision.record.nodes.is_empty());
}

#[test]
fn no_node_is_placed_before_the_port_is_owned() {
    let case = Case::claimed(2).with(|case| case.facts.cells = Some(cells(6)));
    assert!(case.decide().record.nodes.is_empty());
}

#[test]
fn the_port_says_whose_turn_it_is() {
    let used = |number| {
        let case = Case::owning(2).with(|case| {
            case.record.port = PortClaim::Owned { port: port(number) };
            case.facts.cells = Some(cells(6));
        });
        let nodes = case.decide().record.nodes.into_values();
        nodes.map(|node| node.cell.to_string()).collect::<BTreeSet<_>>()
    };
    let all: Vec<_> = (30000..30003).flat_map(used).collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (6, 6), "{all:?}");
}

#[test]
fn all_nodes_are_placed_at_once_across_the_zones() {
    let decision = Case::owning(3)
        .with(|case| case.facts.cells = Some(cells(6)))
        .decide();
    let nodes = || decision.record.nodes.values();
    let zones: BTreeSet<_> = nodes().map(|node| node.availability_zone.as_str()).collect();
    let cells: BTreeSet<_> = nodes().map(|node| node.cell.as_str()).collect();
    assert_eq!((zones.len(), cells.len()), (3, 3));
    assert!(nodes().all(|node| node.phase == Phase::Assigned));
    for id in decision.record.nodes.keys() {
        assert!(decision.has(&Effect::Project(*id)));
    }
    let placed: Vec<_> = decision.record.nodes.keys().copied().collect();
    assert_eq!(decision.starts(), placed);
}

#[test]
fn whoever_places_nodes_of_an_owner_asks_at_once() {
    let case = Case::claimed(2).with(|case| {
        case.facts.cells = Some(cells(6));
        case.facts.port = PortFact::Ours(port(30000));
    });
    let decision = case.decide();
    let placed: Vec<_> = decision.record.nodes.keys().copied().collect();
    assert_eq!((decision.starts(), placed.len()), (placed, 2));
}

#[test]
fn the_same_pass_places_the_same_nodes_and_another_pass_others() {
    let case = Case::owning(2).with(|case| case.facts.cells = Some(cells(6)));
    let other = case.clone().with(|case| case.seed = uuid::Uuid::from_u128(7));
    assert_eq!(case.decide(), case.decide());
    let ids = |case: &Case| case.decide().record.nodes.into_keys().collect::<BTreeSet<_>>();
    assert!(ids(&case).is_disjoint(&ids(&other)));
}

#[test]
fn too_few_cells_place_nothing_and_say_so() {
    let case = Case::owning(3).with(|case| case.facts.cells = Some(cells(2)));
    let decision = case.decide();
    assert!(decision.record.nodes.is_empty());
    assert_eq!(
        decision.told(),
        (
            OperationState::InProgress,
            "members stopped, stopped, stopped; 3 nodes need 3 cells, and 2 are there"
        )
    );
}

#[test]
fn only_the_cells_asked_for_are_used() {
    let case = Case::owning(2).with(|case| {
        case.record.cells = Some(vec![guid("c2"), guid("c5")]);
        case.facts.cells = Some(cells(6));
    });
    let decision = case.decide();
    let used: BTreeSet<_> = decision
        .record
        .nodes
        .values()
        .map(|node| node.cell.as_str())
        .collect();
    assert_eq!(used, BTreeSet::from(["c2", "c5"]));
}

#[test]
fn a_cell_of_a_node_that_leaves_is_not_free_yet() {
    let case = Case::update(2, 2)
        .phase(2, Phase::Leaving)
        .with(|case| case.facts.cells = Some(vec![cell("c1", "z1"), cell("c2", "z2")]));
    let decision = case.decide();
    assert_eq!(decision.record.nodes.len(), 2);
    assert_eq!(decision.phase(2), Some(Phase::Leaving));
    let told = "master running; replicas stopped; 2 nodes need 2 cells, and 2 are there";
    assert_eq!(decision.told(), (OperationState::InProgress, told));
}

#[test]
fn the_id_of_a_new_node_is_one_that_nobody_ever_had() {
    // However the record came to name ids that this very pass would think of next.
    let free = Case::owning(2).with(|case| case.facts.cells = Some(cells(6)));
    let next: Vec<_> = (0..4).map(|n| free.situation().fresh_node(n)).collect();
    let case = free.with(|case| case.record.retired.extend(&next[2..]));
    let placed: BTreeSet<_> = case.decide().record.nodes.into_keys().collect();
    assert_eq!(placed.len(), 2);
    assert!(placed.is_disjoint(&case.record.retired.iter().copied().collect()));

    let taken = Case::update(1, 2);
    let next = taken.situation().fresh_node(2);
    let case = taken.with(|case| {
        let there = case.record.nodes.remove(&node(1)).unwrap();
        case.record.nodes.insert(next, there);
        case.record.retired.push(node(9));
        let leads = case.cluster.members.remove(&node(1).to_string()).unwrap();
        case.cluster.members.insert(next.to_string(), leads);
        case.cluster.leader = Some(next.to_string());
    });
    let placed = case.decide().record.nodes;
    assert_eq!((placed.len(), &placed[&next]), (2, &case.record.nodes[&next]));
}
