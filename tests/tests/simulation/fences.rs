//! A deprovision that finds no instance: what was on its way then comes to nothing, however late it comes.

use std::{pin::Pin, sync::Arc, time::Duration};

use jiff::SignedDuration;
use shared::{
    clock::Clock,
    error::Error,
    ids::{Incarnation, OperationId},
    keyspace,
    marker::{FENCE_TTL, Marker},
    record::{OperationKind, OperationState},
    store::{Entry, Read},
};
use tests::simulation::{Accident, Fate, Handler, Layout, Process, World, audit, now};

use crate::story::{Carrier, Story, id, kind, settle};

/// A handler to which this happens at its n-th write or call.
fn unlucky(world: &Arc<World>, at: usize, accident: Accident) -> Handler {
    world.handler(Process::new("unlucky", Fate::Once(at, accident)))
}

fn deprovision_finds_nothing(world: &Arc<World>) {
    let handler = kind(world);
    let gone = handler.ask(handler.deprovision(&id())).unwrap();
    assert!(matches!(gone, Err(Error::Gone(_))), "{gone:?}");
}

fn marker(world: &World) -> Option<Entry> {
    now(world.store.get(&keyspace::operation(&id()), Read::Quorum)).unwrap()
}

/// Whoever asks for it now does get it, and at once.
fn assert_free(world: &Arc<World>) {
    assert_eq!(world.record(&id()), None);
    let handler = kind(world);
    handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
    settle(world);
    audit::assert_in_order(world);
}

/// A provision stands still before it has announced itself; its platform gives it up and asks for a deprovision, which finds
/// nothing. Half a minute later it would be too old anyway.
#[test]
fn a_provision_that_goes_on_after_its_deprovision_found_nothing_makes_nothing() {
    for (at, before, after, times) in [
        (1, 2, 0, 1),
        (2, 2, 0, 1),
        (2, 10, 10, 2),
        (2, 27, 1, 1),
        (2, 2, 200, 1),
    ] {
        let world = World::new(Layout::default());
        let frozen = unlucky(&world, at, Accident::Freezes { seconds: None });
        let id = id();
        let mut making: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(frozen.provision(&id, 2));
        assert!(frozen.run(&mut making).is_none());
        world.pass(before);
        for _ in 0..times {
            deprovision_finds_nothing(&world);
        }
        world.pass(after);
        frozen.process().thaw();
        let late = frozen.run(&mut making).unwrap();
        assert!(matches!(late, Err(Error::Concurrency(_))), "{late:?}");
        assert_free(&world);
    }
}

/// The same, while the deprovision finds that another provision has announced itself.
#[test]
fn a_deprovision_that_takes_an_announcement_away_keeps_older_provisions_back() {
    let world = World::new(Layout::default());
    let frozen = unlucky(&world, 2, Accident::Freezes { seconds: None });
    let second = unlucky(&world, 1, Accident::FreezesAfter { seconds: None });
    let id = id();
    let mut making: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(frozen.provision(&id, 2));
    assert!(frozen.run(&mut making).is_none());
    world.pass(2);
    let mut again: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(second.provision(&id, 2));
    assert!(second.run(&mut again).is_none());
    assert!(marker(&world).is_some());
    world.pass(2);
    deprovision_finds_nothing(&world);
    for (handler, making) in [(&frozen, &mut making), (&second, &mut again)] {
        handler.process().thaw();
        let late = handler.run(making).unwrap();
        assert!(matches!(late, Err(Error::Concurrency(_))), "{late:?}");
    }
    assert_free(&world);
}

/// A provision is given up by its platform while the write that claims its instance is still on its way, and nobody is left
/// who could see that it has come. The platform may ask for its end again, also at once, or what the clocks of two brokers
/// take for that.
#[test]
fn a_claim_that_comes_after_its_deprovision_is_taken_back() {
    for (late, again) in [5, 20, 50, 100]
        .into_iter()
        .flat_map(|late| [None, Some(0), Some(2)].map(|again| (late, again)))
    {
        let world = World::new(Layout::default());
        // After the mark that ports were adopted, and the marker.
        let handler = unlucky(&world, 3, Accident::ComesLate { seconds: late });
        let lost = handler.ask(handler.provision(&id(), 2)).unwrap();
        assert!(matches!(lost, Err(Error::Store(_))), "{lost:?}");
        deprovision_finds_nothing(&world);
        if let Some(pause) = again {
            world.pass(pause);
            deprovision_finds_nothing(&world);
        }
        world.pass(late + 5);
        assert!(world.record(&id()).is_some());
        let handler = kind(&world);
        if marker(&world).is_some() {
            handler.ask(handler.reconcile()).unwrap().unwrap();
        } else {
            assert_eq!(handler.ask(handler.mend()).unwrap().unwrap(), 1);
        }
        settle(&world);
        assert_eq!(world.record(&id()), None, "{late} s late, {again:?}");
        audit::assert_in_order(&world);
        assert!(!world.log().iter().any(|call| call.contains("start ")));
    }
}

#[test]
fn a_fence_goes_by_itself() {
    for announced in [false, true] {
        let world = World::new(Layout::default());
        if announced {
            let dead = unlucky(&world, 2, Accident::DiesAfter);
            assert!(dead.ask(dead.provision(&id(), 2)).is_none());
            assert!(marker(&world).is_some());
        }
        deprovision_finds_nothing(&world);
        let left = marker(&world).unwrap().ttl.unwrap_or(Duration::MAX);
        assert!(left <= FENCE_TTL, "{left:?}");
        world.pass(u32::try_from(FENCE_TTL.as_secs()).unwrap() + 1);
        assert_eq!(marker(&world), None);
    }
}

#[test]
fn a_fence_by_a_clock_that_is_far_ahead_keeps_nobody_back() {
    let world = World::new(Layout::default());
    let fence = Marker {
        incarnation: Incarnation::from(world.clock.random()),
        operation: OperationId::from(world.clock.random()),
        kind: OperationKind::Deprovision,
        since: world.clock.now() + SignedDuration::from_hours(3),
    };
    now(world
        .store
        .set(&keyspace::operation(&id()), &fence.to_json(), None))
    .unwrap();
    assert_free(&world);
}

#[test]
fn a_change_of_the_context_that_comes_late_is_none_of_the_next_life() {
    let world = Story::Deprovision.world(Layout::default());
    let (handler, id) = (kind(&world), id());
    let slow = unlucky(&world, 1, Accident::Freezes { seconds: None });
    let name = ("name".to_owned(), "of the first life".into());
    let change = slow.change_context(&id, serde_json::Map::from_iter([name]));
    let mut change: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(change);
    assert!(slow.run(&mut change).is_none(), "it has read the record");
    handler.ask(handler.deprovision(&id)).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id)).unwrap();
    handler.ask(handler.provision(&id, 1)).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id)).unwrap();
    slow.process().thaw();
    let changed = slow.run(&mut change).unwrap();
    assert!(matches!(&changed, Err(Error::Concurrency(_))), "{changed:?}");
    assert!(world.record(&id).unwrap().context.is_empty());
}

/// Whoever takes an instance away dies at any step, and the schedule carries on: a provision from before is kept back all the same.
#[test]
fn a_deprovision_that_others_finish_leaves_a_fence_too() {
    let mut fences = 0;
    for at in 1.. {
        let world = Story::Deprovision.world(Layout::default());
        let handler = unlucky(&world, at, Accident::DiesAfter);
        if handler.ask(Story::Deprovision.tell(&handler)).is_some() {
            break;
        }
        if !Story::Deprovision.has_begun(&world) {
            continue;
        }
        let others = kind(&world);
        Story::Deprovision.carry_on(&world, Carrier::Reconcile);
        others.ask(others.reconcile()).unwrap().unwrap();
        let left = marker(&world).and_then(|entry| Marker::parse(&entry.value));
        let left = left.unwrap_or_else(|| panic!("no fence after a death at {at}"));
        assert_eq!(left.kind, OperationKind::Deprovision);
        assert!(left.ends_what_began(world.clock.now() - SignedDuration::from_secs(60)));
        fences += 1;
        settle(&world);
        audit::assert_in_order(&world);
    }
    assert!(fences > 5, "{fences}");
}
