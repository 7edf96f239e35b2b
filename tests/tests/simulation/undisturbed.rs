//! Operations to which nothing happens: how they go, what they cost, and what is there afterwards.

use shared::{
    error::Error,
    keyspace,
    record::OperationState,
    service::{deprovision::Deprovisioned, provision::Provisioned},
};
use tests::simulation::{Accident, Fate, Layout, Process, World, audit, instance};

use crate::story::{CARRIERS, Carrier, STORIES, Story, id, kind, settle};

#[test]
fn every_operation_ends_as_asked_whoever_moves_it_on() {
    for story in STORIES {
        for layout in [
            Layout::default(),
            Layout {
                patroni_3: true,
                stopping_takes: 2,
                ..Layout::default()
            },
        ] {
            for carrier in CARRIERS {
                let world = story.world(layout);
                let handler = kind(&world);
                assert!(!handler.ask(story.request(&handler)).unwrap().unwrap());
                story.carry_on(&world, carrier);
                story.check(&world, true);
            }
        }
    }
}

#[test]
fn descriptions_are_those_of_the_readme() {
    let world = Story::Provision.world(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
    let mut told = Vec::new();
    loop {
        let last = handler.ask(handler.poll(&id())).unwrap().unwrap();
        if told.last() != Some(&last.description) {
            told.push(last.description);
        }
        if last.state != OperationState::InProgress {
            break;
        }
        world.tick();
    }
    assert_eq!(told.first().unwrap(), "members stopped, stopped");
    assert!(told.iter().any(|told| told == "master running; replicas stopped"
        || told == "master running; replicas creating replica"));
    assert_eq!(told.last().unwrap(), "master running; replicas running");
}

#[test]
fn an_instance_id_can_be_used_again() {
    let world = Story::Deprovision.world(Layout::default());
    let handler = kind(&world);
    for _ in 0..3 {
        let first = world.record(&id()).unwrap();
        handler.ask(handler.deprovision(&id())).unwrap().unwrap();
        let again = handler.ask(handler.provision(&id(), 2)).unwrap();
        assert!(matches!(again, Err(Error::Concurrency(_))), "{again:?}");
        handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
        handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        let second = world.record(&id()).unwrap();
        assert_ne!(first.incarnation, second.incarnation);
        // The old port is in quarantine.
        assert_ne!(first.port, second.port);
        audit::assert_in_order(&world);
    }
}

#[test]
fn requests_that_are_repeated_are_answered_as_what_they_are() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    let put = || handler.ask(handler.provision(&id(), 2)).unwrap();
    let first = put().unwrap();
    assert!(matches!(first, Provisioned::Accepted { .. }));
    assert_eq!(put().unwrap(), first);
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    assert_eq!(put().unwrap(), Provisioned::Exists);
    let other = handler.ask(handler.provision(&id(), 3)).unwrap();
    assert!(matches!(other, Err(Error::Conflict(_))));

    let delete = || handler.ask(handler.deprovision(&id())).unwrap();
    let first = delete().unwrap();
    assert!(matches!(first, Deprovisioned::Accepted { .. }));
    assert_eq!(delete().unwrap(), first);
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    assert!(matches!(delete(), Err(Error::Gone(_))));
    assert!(matches!(put().unwrap(), Provisioned::Accepted { .. }));
}

#[test]
fn exhausted_ports_are_refused_at_once_and_leave_nothing() {
    for ports in 1..12 {
        let world = World::new(Layout {
            ports,
            ..Layout::default()
        });
        let handler = kind(&world);
        for n in 1..=ports {
            let id = instance(&format!("i{n}"));
            handler.ask(handler.provision(&id, 1)).unwrap().unwrap();
            handler.ask(handler.poll_to_the_end(&id)).unwrap().unwrap();
        }
        let one_more = handler.ask(handler.provision(&id(), 1)).unwrap();
        assert!(matches!(one_more, Err(Error::Unprocessable(_))), "{one_more:?}");
        assert!(world.record(&id()).is_none());
        settle(&world);
        audit::assert_in_order(&world);
    }
}

#[test]
fn too_few_cells_are_refused_and_leave_nothing() {
    for (cells, capacity) in [(1, 20), (0, 20), (3, 0)] {
        let world = World::new(Layout {
            cells,
            capacity,
            ..Layout::default()
        });
        let handler = kind(&world);
        let answer = handler.ask(handler.provision(&id(), 2)).unwrap();
        assert!(matches!(answer, Err(Error::Shortage(_))), "{answer:?}");
        audit::assert_in_order(&world);
    }
}

#[test]
fn a_cell_that_is_down_is_passed_over_and_tidied_up_when_it_is_back() {
    let world = World::new(Layout {
        cells: 3,
        ..Layout::default()
    });
    let handler = kind(&world);
    // Its heartbeat still counts.
    world.set_up("c2", false);
    handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
    let record = world.record(&id()).unwrap();
    assert!(record.staying().all(|(_, node)| node.cell.as_str() != "c2"));
    world.set_up("c2", true);
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn all_cells_down_is_said_at_once_and_leaves_nothing() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    for n in 1..=6 {
        world.set_up(&format!("c{n}"), false);
    }
    let answer = handler.ask(handler.provision(&id(), 2)).unwrap();
    assert!(matches!(answer, Err(Error::CellsUnavailable(_))), "{answer:?}");
    assert!(world.record(&id()).is_none());
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn a_cell_that_is_down_keeps_a_deprovision_open_until_it_is_back() {
    let world = Story::Deprovision.world(Layout::default());
    let handler = kind(&world);
    let record = world.record(&id()).unwrap();
    let cell = record.nodes.values().next().unwrap().cell.to_string();
    world.set_up(&cell, false);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Failed);
    assert!(
        last.description.starts_with("removing nodes: 1 of 2 gone; node "),
        "{last:?}"
    );
    let again = handler.ask(handler.provision(&id(), 2)).unwrap();
    assert!(matches!(again, Err(Error::Concurrency(_))));
    world.set_up(&cell, true);
    world.pass(1);
    Story::Deprovision.check(&world, true);
    let last = handler.ask(handler.poll(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded);
}

#[test]
fn a_bootstrap_whose_first_node_dies_is_started_over() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
    world.tick();
    // The one that bootstraps is cut off before it leads.
    let record = world.record(&id()).unwrap();
    let cell = record
        .nodes
        .values()
        .map(|node| node.cell.to_string())
        .min()
        .unwrap();
    world.set_up(&cell, false);
    for _ in 0..200 {
        let _ = handler.ask(handler.poll(&id())).unwrap();
        world.tick();
        audit::assert_safe(&world);
    }
    world.set_up(&cell, true);
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
    let record = world.record(&id()).unwrap();
    assert!(record.bootstrap_restarts > 0 && record.retired.len() >= 2);
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn everything_done_twice_is_as_if_done_once() {
    for story in STORIES {
        let world = story.world(Layout::default());
        // Each call to the outside is repeated.
        let handler = world.handler(Process::new("stutterer", Fate::Always(Accident::Repeats)));
        handler.ask(story.tell(&handler)).unwrap();
        story.check(&world, true);

        // Each effect is carried out twice.
        let world = story.world(Layout::default());
        let handler = kind(&world);
        handler.ask(story.request(&handler)).unwrap().unwrap();
        for _ in 0..60 {
            handler.ask(handler.advance_twice(&id())).unwrap().unwrap();
            world.tick();
            audit::assert_safe(&world);
        }
        story.check(&world, true);
    }
}

#[test]
fn what_operations_cost() {
    for story in STORIES {
        let world = story.world(Layout::default());
        let handler = kind(&world);
        handler.ask(story.tell(&handler)).unwrap();
        let calls = handler.process().calls();
        println!("{story:?}: {calls} writes and calls");
        assert!(calls > 8, "{story:?}");
    }
    // The hint is never a port that is owned.
    let world = Story::Grow.world(Layout::default());
    let content = world.store.content();
    let hint = content[keyspace::NEXT_PORT].clone().unwrap();
    assert!(!content.contains_key(&format!("{}/{hint}", keyspace::PORTS)));
}

#[test]
fn a_deprovision_counts_its_own_nodes_only() {
    let world = Story::Shrink.world(Layout::default());
    let handler = kind(&world);
    handler.ask(Story::Shrink.tell(&handler)).unwrap();
    Story::Shrink.carry_on(&world, Carrier::Polls);
    settle(&world);
    let record = world.record(&id()).unwrap();
    assert_eq!((record.nodes.len(), record.retired.len()), (2, 1));
    let cell = record.nodes.values().next().unwrap().cell.clone();
    world.set_up(cell.as_str(), false);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    let last = handler.ask(handler.poll(&id())).unwrap().unwrap();
    assert_eq!(last.description, "removing nodes: 1 of 2 gone");
}
