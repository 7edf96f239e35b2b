//! Bindings: undisturbed, crashed, lost, repeated, and late.

use std::{pin::Pin, sync::Arc};

use secrecy::ExposeSecret;
use shared::{binding::Binding, error::Error, keyspace, service::bind::Bound};
use tests::simulation::{Accident, Fate, Handler, Layout, Process, World, audit, binding};

use crate::story::{Story, id, kind, settle};

/// A world with an instance of two nodes.
fn world() -> Arc<World> {
    Story::Deprovision.world(Layout::default())
}

fn unlucky(world: &Arc<World>, at: usize, accident: Accident) -> Handler {
    world.handler(Process::new("unlucky", Fate::Once(at, accident)))
}

fn bind(handler: &Handler) -> Option<Result<Bound, Error>> {
    handler.ask(handler.bind(&id(), &binding("b1")))
}

fn unbind(handler: &Handler) -> Option<Result<(), Error>> {
    handler.ask(handler.unbind(&id(), &binding("b1")))
}

fn stored(world: &World) -> Option<Binding> {
    let key = keyspace::binding(&id(), &binding("b1"));
    let value = world.store.content().get(&key)?.clone().unwrap();
    Some(Binding::parse(&value).unwrap())
}

/// Roles that can log in.
fn open(world: &World) -> Vec<String> {
    let logins = world.logins(&id());
    logins
        .into_iter()
        .filter(|(_, open)| *open)
        .map(|(role, _)| role)
        .collect()
}

/// The binding is there, and its role is the only one that can log in.
fn assert_bound(world: &World, bound: &Bound) {
    assert_eq!(open(world), std::slice::from_ref(&bound.credentials.username));
    assert_eq!(
        stored(world).unwrap().role(&id(), &binding("b1")),
        bound.credentials.username
    );
}

fn assert_unbound(world: &World) {
    assert_eq!(open(world), Vec::<String>::new());
    assert_eq!(stored(world), None);
}

const ACCIDENTS: [Accident; 7] = [
    Accident::DiesBefore,
    Accident::DiesAfter,
    Accident::LosesAnswer,
    Accident::LosesCall,
    Accident::IsRefused,
    Accident::Repeats,
    Accident::ComesLate { seconds: 3 },
];

/// Runs `story` with each accident at each of its calls, until it has no more calls.
fn at_each(accidents: &[Accident], story: impl Fn(&Arc<World>, usize, Accident) -> bool) {
    for accident in accidents {
        let mut at = 1;
        loop {
            let run = || story(&world(), at, *accident);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(true) => at += 1,
                Ok(false) => break,
                Err(panic) => {
                    println!("{accident:?} at {at}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
        assert!(at > 2);
    }
}

#[test]
fn a_binding_can_log_in_until_it_is_unbound() {
    let world = world();
    let handler = kind(&world);
    let bound = bind(&handler).unwrap().unwrap();
    assert!(!bound.existed);
    assert_bound(&world, &bound);
    let again = bind(&handler).unwrap().unwrap();
    assert!(again.existed);
    assert_eq!(again.credentials.username, bound.credentials.username);
    assert_eq!(
        again.credentials.password.expose_secret(),
        bound.credentials.password.expose_secret()
    );
    unbind(&handler).unwrap().unwrap();
    assert_unbound(&world);
    assert!(matches!(unbind(&handler), Some(Err(Error::Gone(_)))));

    let next = bind(&handler).unwrap().unwrap();
    assert_ne!(next.credentials.username, bound.credentials.username);
    assert_bound(&world, &next);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn a_bind_that_is_disturbed_is_ended_by_the_same_request() {
    at_each(&ACCIDENTS, |world, at, accident| {
        let handler = unlucky(world, at, accident);
        let first = bind(&handler);
        world.pass(5);
        let bound = bind(&kind(world)).unwrap().unwrap();
        assert_bound(world, &bound);
        if let Some(Ok(first)) = first {
            assert_eq!(first.credentials.username, bound.credentials.username);
        }
        handler.process().calls() >= at
    });
}

#[test]
fn a_bind_that_is_disturbed_is_taken_back_by_an_unbind() {
    at_each(&ACCIDENTS, |world, at, accident| {
        let handler = unlucky(world, at, accident);
        drop(bind(&handler));
        world.pass(5);
        let answer = unbind(&kind(world)).unwrap();
        assert!(matches!(answer, Ok(()) | Err(Error::Gone(_))), "{answer:?}");
        assert_unbound(world);
        handler.process().calls() >= at
    });
}

#[test]
fn an_unbind_that_is_disturbed_is_ended_by_the_same_request() {
    at_each(&ACCIDENTS, |world, at, accident| {
        bind(&kind(world)).unwrap().unwrap();
        let handler = unlucky(world, at, accident);
        drop(unbind(&handler));
        let answer = unbind(&kind(world)).unwrap();
        assert!(matches!(answer, Ok(()) | Err(Error::Gone(_))), "{answer:?}");
        world.pass(5);
        assert_unbound(world);
        handler.process().calls() >= at
    });
}

/// Runs a bind up to its n-th call, lets `meanwhile` happen, and lets it go on. `None`: it has fewer calls.
fn late_bind(world: &Arc<World>, at: usize, meanwhile: impl FnOnce()) -> Option<Result<Bound, Error>> {
    let handler = unlucky(world, at, Accident::Freezes { seconds: None });
    let mut answer: Pin<Box<dyn Future<Output = Result<Bound, Error>> + '_>> =
        Box::pin(async { handler.bind(&id(), &binding("b1")).await });
    if handler.run(&mut answer).is_some() {
        return None;
    }
    meanwhile();
    handler.process().thaw();
    Some(handler.run(&mut answer).unwrap())
}

const FREEZE: [Accident; 1] = [Accident::Freezes { seconds: None }];

#[test]
fn a_late_bind_does_not_bring_a_login_back() {
    at_each(&FREEZE, |world, at, _| {
        let mut unbound = false;
        let answer = late_bind(world, at, || unbound = unbind(&kind(world)).unwrap().is_ok());
        let Some(answer) = answer else { return false };
        if unbound {
            assert!(answer.is_err());
            assert_unbound(world);
        } else {
            // There was nothing to unbind yet.
            assert_bound(world, &answer.unwrap());
        }
        true
    });
}

#[test]
fn a_late_bind_to_an_instance_that_is_gone_leaves_nothing() {
    at_each(&FREEZE, |world, at, _| {
        let answer = late_bind(world, at, || {
            let handler = kind(world);
            handler.ask(handler.deprovision(&id())).unwrap().unwrap();
            handler.ask(handler.poll_to_the_end(&id())).unwrap();
        });
        let Some(answer) = answer else { return false };
        assert!(answer.is_err());
        settle(world);
        audit::assert_in_order(world);
        true
    });
}

#[test]
fn a_late_bind_to_another_life_of_its_instance_does_not_stand_in_anyones_way() {
    at_each(&FREEZE, |world, at, _| {
        let answer = late_bind(world, at, || {
            let handler = kind(world);
            handler.ask(handler.deprovision(&id())).unwrap().unwrap();
            handler.ask(handler.poll_to_the_end(&id())).unwrap();
            handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
            handler.ask(handler.poll_to_the_end(&id())).unwrap();
        });
        let Some(answer) = answer else { return false };
        assert!(answer.is_err());
        let bound = bind(&kind(world)).unwrap().unwrap();
        assert_bound(world, &bound);
        true
    });
}

#[test]
fn a_late_unbind_does_not_touch_the_next_binding_of_that_id() {
    at_each(&FREEZE, |world, at, freeze| {
        bind(&kind(world)).unwrap().unwrap();
        let handler = unlucky(world, at, freeze);
        let mut answer: Pin<Box<dyn Future<Output = Result<(), Error>> + '_>> =
            Box::pin(async { handler.unbind(&id(), &binding("b1")).await });
        if handler.run(&mut answer).is_some() {
            return false;
        }
        unbind(&kind(world)).unwrap().unwrap();
        let next = bind(&kind(world)).unwrap().unwrap();
        handler.process().thaw();
        drop(handler.run(&mut answer).unwrap());
        assert_bound(world, &next);
        true
    });
}
