//! Changes of the plan: who is restarted, what a change leaves behind that fails or comes late, and what is noticed when it is
//! done wrong.

use std::{pin::Pin, sync::Arc};

use shared::record::OperationState;
use tests::simulation::{Accident, Bug, Fate, Layout, Process, World, audit};

use crate::story::{Story, id, kind, settle};

/// A change in a world with a bug, in which this befalls every call; all that was wrong.
fn run(story: Story, bug: Option<Bug>, fate: Fate) -> (Arc<World>, Vec<String>) {
    let world = story.world(Layout {
        bug,
        ..Layout::default()
    });
    let handler = world.handler(Process::new("changer", fate));
    handler.ask(story.tell(&handler)).unwrap();
    // Whoever was told too early sees it now.
    (0..5).for_each(|_| world.tick());
    let mut wrong = audit::violations(&world);
    if world.run_with(&id()).iter().any(|(_, pending)| *pending) {
        wrong.push("a node is still to be restarted".to_owned());
    }
    (world, wrong)
}

fn times(world: &World, event: &str) -> usize {
    world.log().iter().filter(|line| line.ends_with(event)).count()
}

#[test]
fn nodes_are_restarted_once_and_the_leader_hands_over_unless_settings_shrink() {
    for (story, leaders, handovers) in [(Story::Widen, 0, 1), (Story::Narrow, 1, 0)] {
        let (world, wrong) = run(story, None, Fate::Kind);
        assert_eq!(wrong, [""; 0]);
        assert_eq!(times(&world, "node: replica restarted"), 2, "{story:?}");
        assert_eq!(times(&world, "node: leader restarted"), leaders, "{story:?}");
        let switches = world
            .log()
            .iter()
            .filter(|line| line.contains(": switch over"))
            .count();
        assert_eq!(switches, handovers, "{story:?}");
        assert_eq!(times(&world, "instance: another plan"), 1);
        assert_eq!(times(&world, "instance: plan in force"), 1);
        story.check(&world, true);
    }
}

#[test]
fn a_plan_that_takes_no_restart_restarts_nobody() {
    let world = Story::Widen.world(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.change_plan(&id(), "quiet")).unwrap().unwrap();
    let done = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    assert_eq!(times(&world, "restarted"), 0);
    assert_eq!(times(&world, "instance: plan in force"), 1);
    assert_eq!(world.record(&id()).unwrap().known_plan(), "quiet");
    audit::assert_in_order(&world);
}

#[test]
fn restarts_that_are_asked_for_twice_happen_once() {
    let twice = || Fate::Always(Accident::Repeats);
    for story in [Story::Widen, Story::Narrow] {
        let (world, wrong) = run(story, None, twice());
        assert_eq!(wrong, [""; 0]);
        assert!(times(&world, "restarted") <= 3, "{story:?}");
    }
}

/// Each call of a change in turn comes long after it was given up; all that was wrong.
fn wrong_with_late_calls(bug: Option<Bug>) -> Vec<String> {
    let mut wrong = Vec::new();
    for at in 1..40 {
        let (world, _) = run(
            Story::Widen,
            bug,
            Fate::Once(at, Accident::ComesLate { seconds: 12 }),
        );
        while world.has_late_calls() {
            world.tick();
        }
        wrong.extend(audit::violations(&world));
    }
    wrong
}

#[test]
fn restarts_that_come_late_restart_nobody_who_does_not_need_it() {
    assert_eq!(wrong_with_late_calls(None), [""; 0]);
    assert_ne!(wrong_with_late_calls(Some(Bug::RestartsUnconditionally)), [""; 0]);
}

#[test]
fn planted_bugs_in_changes_of_the_plan_are_found() {
    for bug in [Bug::RestartsTheLeaderFirst, Bug::TakesSettingsForLoaded] {
        let (_, wrong) = run(Story::Widen, Some(bug), Fate::Kind);
        assert_ne!(wrong, [""; 0], "{bug:?}");
    }
}

#[test]
fn a_change_that_fails_leaves_a_cluster_that_can_go_either_way() {
    for to in ["p1", "wide"] {
        let world = Story::Widen.world(Layout::default());
        let handler = kind(&world);
        let record = world.record(&id()).unwrap();
        let cell = record.nodes.values().next_back().unwrap().cell.to_string();
        handler.ask(handler.change_plan(&id(), "wide")).unwrap().unwrap();
        // Nobody looks until it is too late, and then one of the cells is away.
        world.set_up(&cell, false);
        world.pass(1801);
        let failed = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(failed.state, OperationState::Failed, "{failed:?}");
        assert!(failed.after_failure.unwrap().instance_usable);
        assert_eq!(world.record(&id()).unwrap().known_plan(), "p1");
        world.set_up(&cell, true);
        world.pass(5);
        let changed = handler.ask(handler.change_plan(&id(), to)).unwrap();
        changed.unwrap();
        let done = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
        settle(&world);
        let record = world.record(&id()).unwrap();
        assert_eq!((record.known_plan(), &record.plan_change), (to, &None));
        let connections = if to == "wide" { 200 } else { 100 };
        assert_eq!(world.run_with(&id()), vec![(connections, false); 3]);
        audit::assert_in_order(&world);
    }
}

/// A handler freezes before one of its calls of a change that others finish, and take back. It wakes up when everything is at rest.
fn wakes_up_late(at: usize) -> bool {
    let world = Story::Widen.world(Layout::default());
    let fate = Fate::Once(at, Accident::Freezes { seconds: None });
    let sleeper = world.handler(Process::new("sleeper", fate));
    let mut request: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(Story::Widen.tell(&sleeper));
    if sleeper.run(&mut request).is_some() {
        return false;
    }
    // What was not written down before is a request like any other when it goes on.
    if !Story::Widen.has_begun(&world) {
        return true;
    }
    let handler = kind(&world);
    for plan in ["wide", "p1"] {
        handler.ask(handler.change_plan(&id(), plan)).unwrap().unwrap();
        handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    }
    sleeper.process().thaw();
    sleeper.run(&mut request);
    for _ in 0..10 {
        world.tick();
        handler.ask(handler.mend()).unwrap().unwrap();
    }
    assert_eq!(world.record(&id()).unwrap().known_plan(), "p1");
    assert_eq!(
        world.run_with(&id()),
        vec![(100, false); 3],
        "woke up before call {at}"
    );
    settle(&world);
    audit::assert_in_order(&world);
    true
}

#[test]
fn what_a_handler_writes_late_of_a_change_that_was_taken_back_does_not_stay() {
    let calls = (1..).take_while(|at| wakes_up_late(*at)).count();
    assert!(calls > 10, "{calls}");
}
