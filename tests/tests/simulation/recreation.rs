//! Instances whose every copy is lost, and an operator who has them made anew.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use shared::{
    binding::Binding,
    error::Error,
    keyspace,
    record::{OperationKind, OperationState, Record},
    service::{fetch_instance::fetch_instance, update::Updated},
    store::Read,
};
use tests::simulation::{Accident, Bug, Fate, Handler, Layout, Process, World, audit, binding, now};

use crate::story::{Story, id, kind, settle};

/// Longer than the keys of Patroni last.
const TTL: u32 = 40;

/// An instance of two nodes that stands, with one binding.
fn bound(bug: Option<Bug>) -> (Arc<World>, Handler) {
    let world = Story::Deprovision.world(Layout {
        bug,
        ..Layout::default()
    });
    let handler = kind(&world);
    handler.ask(handler.reconcile()).unwrap().unwrap();
    handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
    (world, handler)
}

fn record(world: &World) -> Record {
    world.record(&id()).unwrap()
}

fn cells(world: &World) -> Vec<String> {
    record(world)
        .nodes
        .values()
        .map(|node| node.cell.to_string())
        .collect()
}

/// Both disks are lost.
fn lose(world: &World) {
    cells(world).iter().for_each(|cell| world.lose_disk(cell));
    world.pass(TTL);
}

fn recreate(handler: &Handler) -> Result<(), String> {
    let asked = handler.ask(handler.recreate(&id())).unwrap();
    asked.map_err(|error| error.to_string())
}

fn to_the_end(handler: &Handler) {
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
}

fn open_logins(world: &World) -> usize {
    world.logins(&id()).values().filter(|open| **open).count()
}

#[test]
fn it_comes_back_empty_at_the_same_port_with_its_logins() {
    for destroyed in [0, 1, 2] {
        let (world, handler) = bound(None);
        let before = record(&world);
        let logins = world.logins(&id());
        let old = cells(&world);
        lose(&world);
        for cell in &old[..destroyed] {
            world.set_up(cell, false);
        }
        world.pass(60);
        for cell in &old[..destroyed] {
            let refused = recreate(&handler).unwrap_err();
            assert!(refused.contains(&format!("cell {cell} is missing")), "{refused}");
            handler.ask(handler.declare_destroyed(cell)).unwrap().unwrap();
        }
        recreate(&handler).unwrap();
        recreate(&handler).unwrap();
        to_the_end(&handler);
        let after = record(&world);
        assert_eq!(after.last_operation.unwrap().kind, OperationKind::Recreate);
        assert_eq!((after.port, after.incarnation), (before.port, before.incarnation));
        assert_eq!(world.logins(&id()), logins);
        assert!(after.nodes.keys().all(|node| !before.nodes.contains_key(node)));
        settle(&world);
        audit::assert_in_order(&world);
        // It is an instance like any other.
        assert!(recreate(&handler).unwrap_err().contains("nothing was changed"));
        handler.ask(handler.deprovision(&id())).unwrap().unwrap();
        handler.ask(handler.poll_to_the_end(&id())).unwrap();
        settle(&world);
        audit::assert_in_order(&world);
    }
}

#[test]
fn meanwhile_it_is_busy_and_a_deprovision_takes_over() {
    let (world, handler) = bound(None);
    lose(&world);
    recreate(&handler).unwrap();
    let provision = handler.ask(handler.provision(&id(), 2)).unwrap().map(drop);
    let update = handler.ask(handler.update(&id(), 3)).unwrap().map(drop);
    let bind = handler
        .ask(handler.bind(&id(), &binding("b2")))
        .unwrap()
        .map(drop);
    let fetch = handler
        .ask(fetch_instance(handler.broker(), &id()))
        .unwrap()
        .map(drop);
    for (request, answer) in [
        ("provision", provision),
        ("update", update),
        ("bind", bind),
        ("fetch", fetch),
    ] {
        assert!(
            matches!(&answer, Err(Error::Concurrency(_))),
            "{request}: {answer:?}"
        );
    }
    world.pass(2);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    settle(&world);
    assert_eq!(recreate(&handler).unwrap_err(), "there is no such instance");
    audit::assert_in_order(&world);
}

#[test]
fn after_its_deadline_the_same_command_goes_on_with_it() {
    let (world, handler) = bound(None);
    lose(&world);
    let without = world.handler_with_another_plan(Process::new("without the plan", Fate::Kind));
    recreate(&handler).unwrap();
    for _ in 0..40 {
        without.ask(without.reconcile()).unwrap().unwrap();
        world.pass(60);
    }
    let failed = record(&world).last_operation.unwrap();
    assert_eq!(
        (failed.kind, failed.state),
        (OperationKind::Recreate, OperationState::Failed)
    );
    let update = handler.ask(handler.update(&id(), 3)).unwrap();
    assert!(matches!(&update, Err(Error::Unprocessable(_))), "{update:?}");
    let nodes = record(&world).nodes;
    recreate(&handler).unwrap();
    to_the_end(&handler);
    assert!(
        record(&world).nodes.keys().eq(nodes.keys()),
        "what was there is used"
    );
    assert_eq!(open_logins(&world), 1);
    settle(&world);
    audit::assert_in_order(&world);
}

/// Somebody asks for another node while all is lost: none is placed, which would wait for its data for ever and speak
/// against making the instance anew.
#[test]
fn an_update_of_what_is_lost_leaves_it_to_the_operator() {
    for destroyed in [0, 1, 2] {
        let (world, handler) = bound(None);
        let (nodes, old) = (record(&world).nodes, cells(&world));
        lose(&world);
        for cell in &old[..destroyed] {
            world.burn_down(cell);
        }
        handler.ask(handler.update(&id(), 3)).unwrap().unwrap();
        let failed = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(failed.state, OperationState::Failed, "{failed:?}");
        assert!(record(&world).nodes.keys().eq(nodes.keys()));
        for cell in &old[..destroyed] {
            handler.ask(handler.declare_destroyed(cell)).unwrap().unwrap();
        }
        recreate(&handler).unwrap();
        to_the_end(&handler);
        assert_eq!((record(&world).nodes.len(), open_logins(&world)), (3, 1));
        settle(&world);
        audit::assert_in_order(&world);
    }
}

/// A change of the plan has failed, and then all is lost: the change is not made good by the way.
#[test]
fn a_change_of_the_plan_that_has_failed_is_none_after_it() {
    let (world, handler) = bound(None);
    let old = cells(&world);
    handler.ask(handler.change_plan(&id(), "wide")).unwrap().unwrap();
    old.iter().for_each(|cell| world.burn_down(cell));
    world.pass(1801);
    let failed = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(failed.state, OperationState::Failed, "{failed:?}");
    for cell in &old {
        handler.ask(handler.declare_destroyed(cell)).unwrap().unwrap();
    }
    recreate(&handler).unwrap();
    to_the_end(&handler);
    assert_eq!(record(&world).known_plan(), "p1");
    let again = handler.ask(handler.change_plan(&id(), "wide")).unwrap().unwrap();
    assert!(matches!(again, Updated::Accepted { .. }), "{again:?}");
    to_the_end(&handler);
    assert_eq!(record(&world).known_plan(), "wide");
    settle(&world);
    audit::assert_in_order(&world);
}

/// What is wrong after an operator has asked, too early, for an instance whose last copy is one of these: a node that runs,
/// one that its cell has set aside, and one on a cell that is away for a while.
fn wrong_when_asked_too_early(bug: Option<Bug>) -> Vec<String> {
    let mut wrong = Vec::new();
    for copy in ["runs", "is set aside", "is away"] {
        let (world, handler) = bound(bug);
        let before = record(&world);
        let old = cells(&world);
        world.lose_disk(&old[0]);
        if copy == "is set aside" {
            // Its record was lost for a minute, and with it the leader.
            let key = keyspace::record(&id());
            let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
            now(world.store.compare_and_delete(&key, entry.index)).unwrap();
            world.pass(60);
            now(world.store.create(&key, &entry.value, None)).unwrap();
        } else if copy == "is away" {
            world.set_up(&old[1], false);
            world.pass(60);
        }
        match recreate(&handler) {
            Ok(()) => wrong.push(format!("a copy that {copy} was given up")),
            Err(_) if record(&world).nodes != before.nodes => wrong.push("the record has changed".to_owned()),
            Err(_) => {}
        }
    }
    wrong
}

#[test]
fn nothing_is_given_up_while_there_may_be_a_copy() {
    assert_eq!(wrong_when_asked_too_early(None), [""; 0]);
    let wrong = wrong_when_asked_too_early(Some(Bug::TakesCellsForEmpty));
    assert_eq!(wrong, ["a copy that is set aside was given up"]);
}

/// The operator's process dies before, or right after, one of its writes or calls; then nobody but the schedule comes by, or
/// the operator again if nothing had begun. Answers whether it came so far.
fn comes_about_after_a_crash(at: usize, dies: Accident) -> bool {
    let (world, handler) = bound(None);
    let port = record(&world).port;
    lose(&world);
    let unlucky = world.handler(Process::new("unlucky", Fate::Once(at, dies)));
    let tells = async {
        unlucky.recreate(&id()).await.unwrap();
        unlucky.poll_to_the_end(&id()).await
    };
    let is_over = unlucky.ask(tells).is_some();
    let begun = record(&world).latest_operation().unwrap().kind == OperationKind::Recreate;
    assert!(begun || !is_over);
    if !begun {
        recreate(&handler).unwrap();
    }
    settle(&world);
    let after = record(&world);
    assert_eq!(after.last_operation.unwrap().state, OperationState::Succeeded);
    assert_eq!((after.port, open_logins(&world)), (port, 1));
    audit::assert_in_order(&world);
    !is_over
}

#[test]
fn it_comes_about_whenever_the_operators_process_dies() {
    for dies in [Accident::DiesBefore, Accident::DiesAfter] {
        let calls = (1..)
            .take_while(|at| comes_about_after_a_crash(*at, dies))
            .count();
        assert!(calls > 10, "{calls}");
    }
}

/// Somebody does something for so many steps, then stands still while the login is withdrawn, all is lost, and the instance
/// is made anew; then goes on. Answers whether it had not ended before.
fn brings_no_login_back<'w>(
    world: &Arc<World>,
    slow: Pin<Box<dyn Future<Output = ()> + 'w>>,
    steps: usize,
) -> bool {
    let (handler, mut slow) = (kind(world), slow);
    let key = keyspace::binding(&id(), &binding("b1"));
    let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
    let role = Binding::parse(&entry.value).unwrap().role(&id(), &binding("b1"));
    let mut context = Context::from_waker(Waker::noop());
    if (0..steps).any(|_| slow.as_mut().poll(&mut context).is_ready()) {
        return false;
    }
    if record(world).operation.is_some() {
        to_the_end(&handler);
    }
    handler
        .ask(handler.unbind(&id(), &binding("b1")))
        .unwrap()
        .unwrap();
    lose(world);
    recreate(&handler).unwrap();
    to_the_end(&handler);
    assert_eq!(open_logins(world), 0);
    while slow.as_mut().poll(&mut context).is_pending() {}
    // Its request may have made another binding meanwhile, with a login of its own.
    assert_ne!(world.logins(&id()).get(&role), Some(&true), "after {steps} steps");
    true
}

#[test]
fn a_bind_from_before_the_loss_brings_no_login_back() {
    let late = |steps: &usize| {
        let (world, _) = bound(None);
        let slow = world.handler(Process::interleaved("slow", Fate::Kind));
        let again = async {
            // It is refused, or answers what was true when it came.
            let _ = slow.bind(&id(), &binding("b1")).await;
        };
        brings_no_login_back(&world, Box::pin(again), *steps)
    };
    assert!((0..).take_while(late).count() > 2);
}

#[test]
fn one_who_made_logins_after_an_earlier_loss_brings_none_back() {
    let late = |steps: &usize| {
        let (world, handler) = bound(None);
        lose(&world);
        recreate(&handler).unwrap();
        world.pass(10);
        let slow = world.handler(Process::interleaved("slow", Fate::Kind));
        let passes = async {
            for _ in 0..3 {
                let _ = slow.advance(&id()).await;
            }
        };
        brings_no_login_back(&world, Box::pin(passes), *steps)
    };
    assert!((0..).take_while(late).count() > 10);
}
