//! A handler that stands still before one of its writes or calls, and goes on long after others have ended its operation,
//! when the instance may be gone, or be another one of the same id.

use std::sync::Arc;

use shared::{
    error::Error,
    record::{OperationState, Record},
};
use tests::simulation::{Accident, Bug, Fate, Layout, Process, World, audit, binding};

use crate::story::{Carrier, STORIES, Story, id, kind, settle};

/// What happens while the handler stands still, after its operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// The instance is taken away.
    Gone,
    /// The instance is taken away, and one of the same id is made.
    Again,
    /// The same, when its port is not in quarantine any more and there is no other.
    AgainOnItsPort,
}

/// More seconds than a port is in quarantine.
const QUARANTINE: u32 = 3700;

impl Meanwhile {
    fn happen(self, world: &Arc<World>) {
        let handler = kind(world);
        let end = || handler.ask(handler.poll_to_the_end(&id())).unwrap();
        if self != Self::Nothing {
            let was_there = world.record(&id()).is_some();
            let gone = handler.ask(handler.deprovision(&id())).unwrap();
            // The platform has given the instance up, whether the broker has heard of it or not.
            assert_eq!(matches!(gone, Err(Error::Gone(_))), !was_there, "{gone:?}");
            end();
        }
        if self == Self::AgainOnItsPort {
            world.pass(QUARANTINE);
        }
        if matches!(self, Self::Again | Self::AgainOnItsPort) {
            handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
            assert_eq!(end().unwrap().state, OperationState::Succeeded);
            handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
        }
    }
}

fn run(story: Story, at: usize, freeze: Accident, meanwhile: Meanwhile, bug: Option<Bug>) -> bool {
    let ports = if meanwhile == Meanwhile::AgainOnItsPort {
        1
    } else {
        100
    };
    let world = story.world(Layout {
        ports,
        bug,
        ..Layout::default()
    });
    let handler = world.handler(Process::new("frozen", Fate::Once(at, freeze)));
    let mut told: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(story.tell(&handler));
    if handler.run(&mut told).is_some() {
        return false;
    }
    if story.has_begun(&world) {
        story.carry_on(&world, Carrier::Reconcile);
    }
    settle(&world);
    meanwhile.happen(&world);
    let before = world.record(&id());
    world.pass(100);
    handler.process().thaw();
    handler.run(&mut told).unwrap();
    settle(&world);
    audit::assert_in_order(&world);
    if meanwhile == Meanwhile::Gone {
        // Nobody asks for it any more.
        assert_eq!(world.record(&id()), None);
    }
    if matches!(meanwhile, Meanwhile::Again | Meanwhile::AgainOnItsPort) {
        let after = world.record(&id()).unwrap();
        // A request that stood still before it was written down is a request like any other when it goes on; but never
        // does an older one undo what a newer one has made.
        let before = before.unwrap();
        assert_eq!((after.incarnation, after.port), (before.incarnation, before.port));
        let handler = kind(&world);
        let bound = handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
        assert!(bound.existed);
    }
    true
}

/// A deprovision that finds no record but a marker, and stands still at its calls while the provision of that marker goes on.
/// Both freeze at each of their calls; `between` are those that the provision gets done after the deprovision has stopped
/// for the first time, `at` is the call of the deprovision at which the instance is made meanwhile.
fn run_unknown(freeze: Accident, between: usize, at: usize, seconds: u32) -> bool {
    let world = World::new(Layout::default());
    let after = Accident::FreezesAfter { seconds: None };
    let maker = world.handler(Process::new("maker", Fate::Always(after)));
    let id = id();
    let mut making: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(maker.provision(&id, 2));
    while !world
        .log()
        .iter()
        .any(|call| call.contains("create /operations/"))
    {
        maker.process().thaw();
        assert!(maker.run(&mut making).is_none());
    }
    assert_eq!(world.record(&id), None);

    let frozen = world.handler(Process::new("frozen", Fate::Always(freeze)));
    let mut ending: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(frozen.deprovision(&id));
    assert!(frozen.run(&mut ending).is_none());
    let mut made = None;
    for _ in 0..between {
        maker.process().thaw();
        made = maker.run(&mut making);
        if made.is_some() {
            break;
        }
    }
    for _ in 1..at {
        frozen.process().thaw();
        if frozen.run(&mut ending).is_some() {
            return false;
        }
    }
    while made.is_none() {
        maker.process().thaw();
        made = maker.run(&mut making);
    }

    // Whatever became of the first request, its client goes on until the instance is there.
    let handler = kind(&world);
    handler.ask(handler.poll_to_the_end(&id)).unwrap();
    handler.ask(handler.provision(&id, 2)).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id)).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded);
    handler.ask(handler.bind(&id, &binding("b1"))).unwrap().unwrap();
    let before = world.record(&id).unwrap();
    world.pass(seconds);
    loop {
        frozen.process().thaw();
        if frozen.run(&mut ending).is_some() {
            break;
        }
    }
    settle(&world);
    audit::assert_in_order(&world);
    let whole = |record: &Record| {
        (
            record.incarnation,
            record.port.clone(),
            record.nodes.len(),
            record.state,
        )
    };
    assert_eq!(world.record(&id).as_ref().map(whole), Some(whole(&before)));
    assert!(
        handler
            .ask(handler.bind(&id, &binding("b1")))
            .unwrap()
            .unwrap()
            .existed
    );
    true
}

/// Before each write or call, and right after it.
const FREEZES: [Accident; 2] = [
    Accident::Freezes { seconds: None },
    Accident::FreezesAfter { seconds: None },
];

fn each(meanwhile: Meanwhile) {
    for (story, freeze) in STORIES
        .into_iter()
        .flat_map(|story| FREEZES.map(|freeze| (story, freeze)))
    {
        let mut at = 1;
        loop {
            let run = || run(story, at, freeze, meanwhile, None);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(true) => at += 1,
                Ok(false) => break,
                Err(panic) => {
                    println!("{story:?}: {freeze:?} at {at}, meanwhile {meanwhile:?}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
        println!("{story:?}: {freeze:?} at each of {} writes and calls", at - 1);
        assert!(at > 8);
    }
}

#[test]
fn a_handler_that_wakes_up_late_finds_its_work_done() {
    each(Meanwhile::Nothing);
}

#[test]
fn a_handler_that_wakes_up_after_its_instance_leaves_nothing_behind() {
    each(Meanwhile::Gone);
}

#[test]
fn a_handler_that_wakes_up_in_another_life_of_its_instance_does_not_touch_it() {
    each(Meanwhile::Again);
}

/// Whether the run goes wrong at some step of the story.
fn is_noticed(bug: Option<Bug>, story: Story, meanwhile: Meanwhile) -> bool {
    for freeze in FREEZES {
        for at in 1.. {
            let run = || run(story, at, freeze, meanwhile, bug);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return true,
            }
        }
    }
    false
}

#[test]
fn a_late_allocation_is_that_of_another_life() {
    // Without the bug it is one of the stories above.
    assert!(is_noticed(
        Some(Bug::AllocatesForAnyLife),
        Story::Provision,
        Meanwhile::Again
    ));
}

#[test]
fn a_late_release_leaves_another_life_its_port() {
    let (story, meanwhile) = (Story::Deprovision, Meanwhile::AgainOnItsPort);
    assert!(!is_noticed(None, story, meanwhile));
    assert!(is_noticed(Some(Bug::ReleasesForAnyLife), story, meanwhile));
}

#[test]
fn a_deprovision_of_an_unknown_id_that_wakes_up_late_leaves_alone_what_was_made_meanwhile() {
    let mut runs = 0;
    for (freeze, seconds) in FREEZES.into_iter().flat_map(|freeze| [(freeze, 0), (freeze, 60)]) {
        for between in 0..6 {
            let mut at = 1;
            loop {
                let run = || run_unknown(freeze, between, at, seconds);
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    Ok(true) => at += 1,
                    Ok(false) => break,
                    Err(panic) => {
                        println!("{freeze:?} at {at}, {between} between, {seconds} s later");
                        std::panic::resume_unwind(panic);
                    }
                }
            }
            runs += at - 1;
        }
    }
    println!("{runs} runs");
    // Where the record comes before the marker goes, there is more to do than to remove the marker.
    assert!(runs > 4 * 6);
}
