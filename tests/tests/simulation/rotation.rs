//! Other passwords for nodes and broker: who has them in the end, whatever happens meanwhile.

use std::{pin::Pin, sync::Arc};

use shared::{
    error::Error,
    record::{OperationKind, OperationState, Record},
    service::update::Updated,
};
use tests::simulation::{Accident, Bug, Fate, Handler, Layout, Process, World, audit, binding};

use crate::story::{Story, id, kind, settle};

fn world(bug: Option<Bug>) -> Arc<World> {
    Story::Rotate.world(Layout {
        bug,
        ..Layout::default()
    })
}

fn record(world: &World) -> Record {
    world.record(&id()).unwrap()
}

/// Changes passwords, and waits for it.
fn rotate(handler: &Handler) {
    handler.ask(handler.rotate(&id())).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
}

#[test]
fn nodes_and_database_have_other_passwords_each_time() {
    let world = world(None);
    let handler = kind(&world);
    handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
    let logins = world.logins(&id());
    for generation in [2, 3] {
        rotate(&handler);
        assert_eq!(record(&world).credential_generation, generation);
        assert_eq!(record(&world).former_credentials, None);
        assert_eq!(world.generations(&id()), [generation; 4]);
        // Whoever uses them gets in.
        handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
    }
    assert_eq!(world.logins(&id()), logins);
    settle(&world);
    audit::assert_in_order(&world);
    handler.ask(handler.update(&id(), 3)).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(world.generations(&id()), [3; 6]);
}

#[test]
fn meanwhile_it_is_busy_and_a_deprovision_takes_over() {
    let world = world(None);
    let handler = kind(&world);
    let cell = record(&world).nodes.values().next().unwrap().cell.to_string();
    world.set_up(&cell, false);
    handler.ask(handler.rotate(&id())).unwrap().unwrap();
    assert_eq!(record(&world).operation.unwrap().kind, OperationKind::Rotate);
    let before = record(&world).credential_generation;
    handler.ask(handler.rotate(&id())).unwrap().unwrap();
    assert_eq!(record(&world).credential_generation, before, "it is joined");
    let update = handler.ask(handler.update(&id(), 3)).unwrap().map(drop);
    let bind = handler
        .ask(handler.bind(&id(), &binding("b1")))
        .unwrap()
        .map(drop);
    for answer in [update, bind] {
        assert!(matches!(&answer, Err(Error::Concurrency(_))), "{answer:?}");
    }
    world.set_up(&cell, true);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn a_cell_that_is_away_is_waited_for_and_told_when_it_is_back() {
    let world = world(None);
    let handler = kind(&world);
    let replica = record(&world).nodes.into_values().next_back().unwrap();
    let cell = replica.cell.to_string();
    world.set_up(&cell, false);
    handler.ask(handler.rotate(&id())).unwrap().unwrap();
    for _ in 0..20 {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.tick();
    }
    assert!(record(&world).former_credentials.is_some());
    world.set_up(&cell, true);
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
    assert_eq!(world.generations(&id()), [2; 4]);
    settle(&world);
    audit::assert_in_order(&world);
}

/// Updates, and waits for the end of it. Answers its name.
fn update(handler: &Handler, nodes: u32, end: OperationState) -> String {
    let Updated::Accepted { operation } = handler.ask(handler.update(&id(), nodes)).unwrap().unwrap() else {
        panic!("there was something to do");
    };
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, end, "{last:?}");
    operation
}

fn told(handler: &Handler, operation: &str) -> OperationState {
    let last = handler.ask(handler.poll_named(&id(), operation)).unwrap();
    last.unwrap().state
}

/// A cell that a replica is on, and that does not answer.
fn replicas_cell_down(world: &World) -> String {
    let cell = record(world).nodes.into_values().next_back().unwrap().cell;
    world.set_up(cell.as_str(), false);
    cell.to_string()
}

#[test]
fn a_platform_is_not_told_of_the_command_that_came_after_its_update() {
    let world = world(None);
    let handler = kind(&world);
    let cell = replicas_cell_down(&world);
    let failed = update(&handler, 1, OperationState::Failed);
    world.set_up(&cell, true);
    settle(&world);
    rotate(&handler);
    assert_eq!(told(&handler, &failed), OperationState::Failed);
    // It is still to be done again, though nothing is left of it but its end.
    let again = update(&handler, 1, OperationState::Succeeded);
    assert_eq!(told(&handler, &again), OperationState::Succeeded);
}

#[test]
fn a_command_that_fails_is_not_the_end_of_the_update_before() {
    let world = Story::Rotate.world(Layout {
        cells: 3,
        ..Layout::default()
    });
    let handler = kind(&world);
    let succeeded = update(&handler, 3, OperationState::Succeeded);
    // Nobody can take its place.
    replicas_cell_down(&world);
    handler.ask(handler.rotate(&id())).unwrap().unwrap();
    assert_eq!(told(&handler, &succeeded), OperationState::Succeeded);
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Failed, "{last:?}");
    for operation in [&succeeded, "provision-1"] {
        assert_eq!(told(&handler, operation), OperationState::Succeeded);
    }
    // Nor is the next update.
    handler.ask(handler.update(&id(), 2)).unwrap().unwrap();
    assert_eq!(told(&handler, &succeeded), OperationState::Succeeded);
}

/// What is wrong when one call of a change comes late, or is lost, and another change follows.
fn wrong_with(bug: Option<Bug>, accident: Accident) -> Vec<String> {
    let mut wrong = Vec::new();
    for at in 1..20 {
        let world = world(bug);
        let unlucky = world.handler(Process::new("unlucky", Fate::Once(at, accident)));
        unlucky.ask(Story::Rotate.tell(&unlucky)).unwrap();
        let handler = kind(&world);
        settle(&world);
        wrong.extend(audit::leavings(&world));
        let again = handler.ask(async {
            handler.rotate(&id()).await?;
            Ok::<_, Error>(handler.poll_to_the_end(&id()).await)
        });
        // With a bug, nobody may get in any more.
        if again.unwrap().is_ok_and(|last| last.is_some()) {
            while world.has_late_calls() {
                world.tick();
            }
            settle(&world);
            wrong.extend(audit::leavings(&world));
        }
    }
    wrong
}

#[test]
fn planted_bugs_in_changes_of_passwords_are_found() {
    let late = Accident::ComesLate { seconds: 400 };
    let nothing: [&str; 0] = [];
    assert_eq!(wrong_with(None, late), nothing);
    assert_ne!(wrong_with(Some(Bug::TakesFormerPasswords), late), nothing);
    assert_eq!(wrong_with(None, Accident::LosesCall), nothing);
    assert_ne!(
        wrong_with(Some(Bug::ForgetsFormerPasswords), Accident::LosesCall),
        nothing
    );
}

/// A handler freezes before one of its calls of a change that others finish, and another one follows. Then it wakes up.
fn wakes_up_late(at: usize) -> bool {
    let world = world(None);
    let fate = Fate::Once(at, Accident::Freezes { seconds: None });
    let sleeper = world.handler(Process::new("sleeper", fate));
    let mut request: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(Story::Rotate.tell(&sleeper));
    if sleeper.run(&mut request).is_some() {
        return false;
    }
    let handler = kind(&world);
    rotate(&handler);
    rotate(&handler);
    sleeper.process().thaw();
    sleeper.run(&mut request);
    settle(&world);
    audit::assert_in_order(&world);
    true
}

#[test]
fn what_a_handler_does_late_of_a_change_changes_nothing_back() {
    let calls = (1..).take_while(|at| wakes_up_late(*at)).count();
    assert!(calls > 5, "{calls}");
}
