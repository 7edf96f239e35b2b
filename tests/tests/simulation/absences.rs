//! Cells that go and do not come back for long, or never; and a plan that has gone.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use jiff::SignedDuration;
use shared::{
    act::{self, Directory, Scene},
    clock::Clock,
    cluster::Cluster,
    effect::{Effect, Facts},
    ids::CellGuid,
    keyspace,
    record::{OperationState, Phase},
    roll::{Known, Roll},
    store::Read,
};
use tests::simulation::{Accident, Bug, Fate, Handler, Layout, Process, World, audit, now};

use crate::story::{id, kind, settle};

/// More seconds than it takes until a missing cell's nodes are replaced.
const LONG: u32 = 150;

/// Lets the schedule run for so long, and look at the instance now and then.
fn watch(world: &Arc<World>, handler: &Handler, seconds: u32) {
    for second in 0..seconds {
        if second % 5 == 0 {
            handler.ask(handler.reconcile()).unwrap().unwrap();
            handler.ask(handler.advance(&id())).unwrap().unwrap();
        }
        world.tick();
        audit::assert_safe(world);
    }
}

/// An instance of so many nodes that stands.
fn standing(nodes: u32) -> (Arc<World>, Handler) {
    standing_with(None, nodes)
}

fn standing_with(bug: Option<Bug>, nodes: u32) -> (Arc<World>, Handler) {
    let world = World::new(Layout {
        bug,
        ..Layout::default()
    });
    let handler = kind(&world);
    handler.ask(handler.reconcile()).unwrap().unwrap();
    handler.ask(handler.provision(&id(), nodes)).unwrap().unwrap();
    let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
    (world, handler)
}

fn cells(world: &World) -> Vec<String> {
    let record = world.record(&id()).unwrap();
    record.staying().map(|(_, node)| node.cell.to_string()).collect()
}

#[test]
fn nodes_of_a_missing_cell_are_replaced_and_removed_when_it_is_back() {
    for n in 0..2 {
        let (world, handler) = standing(2);
        let lost = cells(&world)[n].clone();
        world.set_up(&lost, false);
        watch(&world, &handler, 60);
        assert!(cells(&world).contains(&lost), "not at once");
        watch(&world, &handler, LONG);
        let now = cells(&world);
        assert!(now.len() == 2 && !now.contains(&lost), "{now:?}");
        // Others are not kept up by the one that cannot be asked.
        handler.ask(handler.update(&id(), 3)).unwrap().unwrap();
        let grown = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(grown.state, OperationState::Succeeded, "{grown:?}");
        handler.ask(handler.update(&id(), 1)).unwrap().unwrap();
        let shrunk = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(shrunk.state, OperationState::Succeeded, "{shrunk:?}");
        world.set_up(&lost, true);
        settle(&world);
        audit::assert_in_order(&world);
    }
}

/// An operation under way succeeds though a cell is lost for good, which is then declared destroyed.
fn succeeds_without(world: &Arc<World>, handler: &Handler, lost: &str, nodes: usize) {
    let ended = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    let now = cells(world);
    assert!(
        now.len() == nodes && !now.iter().any(|cell| cell == lost),
        "{now:?}"
    );
    handler.ask(handler.declare_destroyed(lost)).unwrap().unwrap();
    settle(world);
    audit::assert_in_order(world);
}

#[test]
fn a_node_that_is_lost_during_an_update_is_replaced_within_it() {
    for n in 0..2 {
        let (world, handler) = standing(2);
        let lost = cells(&world)[n].clone();
        // As long as its keys last, Patroni says that the node runs.
        world.burn_down(&lost);
        world.pass(40);
        handler.ask(handler.update(&id(), 3)).unwrap().unwrap();
        succeeds_without(&world, &handler, &lost, 3);
    }
}

#[test]
fn a_node_that_is_lost_when_the_new_cluster_stands_is_replaced_within_the_provision() {
    for n in 0..3 {
        let world = World::new(Layout::default());
        let handler = kind(&world);
        handler.ask(handler.reconcile()).unwrap().unwrap();
        handler.ask(handler.provision(&id(), 3)).unwrap().unwrap();
        let runs = || {
            let record = world.record(&id()).unwrap();
            assert!(record.operation.is_some(), "it is over before all run");
            record.nodes.values().all(|node| node.phase == Phase::Running)
        };
        while !runs() {
            world.tick();
            handler.ask(handler.poll(&id())).unwrap().unwrap();
        }
        assert!(world.record(&id()).unwrap().bootstrapped);
        let lost = cells(&world)[n].clone();
        world.burn_down(&lost);
        succeeds_without(&world, &handler, &lost, 3);
    }
}

/// Whoever replaces a node dies before, or right after, one of its writes or calls; then nobody but the schedule comes by, which
/// looks at what is marked and for no drift. Answers whether it came so far.
fn replaces_after_a_crash(at: usize, dies: Accident) -> bool {
    let (world, handler) = standing(2);
    let lost = cells(&world)[0].clone();
    world.set_up(&lost, false);
    for _ in 0..LONG {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.tick();
    }
    let unlucky = world.handler(Process::new("unlucky", Fate::Once(at, dies)));
    let is_over = unlucky.ask(unlucky.advance(&id())).is_some();
    let has_begun = cells(&world).len() > 2;
    settle(&world);
    assert!(
        !has_begun || !cells(&world).contains(&lost),
        "{:#?}",
        world.record(&id())
    );
    assert!(!is_over || has_begun);
    !is_over
}

#[test]
fn a_replacement_goes_on_whose_handler_has_died() {
    for dies in [Accident::DiesBefore, Accident::DiesAfter] {
        let calls = (1..).take_while(|at| replaces_after_a_crash(*at, dies)).count();
        assert!(calls > 3, "{calls}");
    }
}

#[test]
fn nothing_is_replaced_while_half_of_the_cells_are_missing() {
    let (world, handler) = standing(2);
    let before = cells(&world);
    let others = ["c1", "c2", "c3", "c4", "c5", "c6"].into_iter();
    let gone: Vec<&str> = others.filter(|cell| *cell != before[0]).take(3).collect();
    gone.iter().for_each(|cell| world.set_up(cell, false));
    watch(&world, &handler, LONG);
    assert_eq!(cells(&world), before);
    gone.iter().for_each(|cell| world.set_up(cell, true));
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn an_instance_moves_to_the_cells_asked_for_and_changes_its_size_at_once() {
    let (world, handler) = standing(2);
    for (nodes, wanted) in [
        (2, ["c4", "c5"].as_slice()),
        (3, &["c1", "c2", "c3"]),
        (1, &["c6"]),
    ] {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        handler
            .ask(handler.relocate(&id(), nodes, &wanted))
            .unwrap()
            .unwrap();
        let moved = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(moved.state, OperationState::Succeeded, "{moved:?}");
        let mut now = cells(&world);
        now.sort();
        assert_eq!(now, wanted);
        settle(&world);
        audit::assert_in_order(&world);
    }
    let unknown = ["c1".to_owned(), "c9".to_owned()];
    let refused = handler.ask(handler.relocate(&id(), 2, &unknown)).unwrap();
    assert_eq!(refused.unwrap_err().to_string(), "there is no cell c9");
}

#[test]
fn a_bootstrap_whose_cell_is_destroyed_is_started_over_elsewhere() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.reconcile()).unwrap().unwrap();
    handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
    world.tick();
    let gone = cells(&world);
    gone.iter().for_each(|cell| world.set_up(cell, false));
    for _ in 0..200 {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.tick();
    }
    assert!(cells(&world).is_empty(), "their machines may only stand still");
    for cell in &gone {
        handler.ask(handler.declare_destroyed(cell)).unwrap().unwrap();
    }
    let made = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(made.state, OperationState::Succeeded, "{made:?}");
    let now = cells(&world);
    assert!(
        now.len() == 2 && gone.iter().all(|cell| !now.contains(cell)),
        "{now:?}"
    );
    gone.iter().for_each(|cell| world.set_up(cell, true));
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn a_deprovision_does_not_wait_for_a_cell_that_is_declared_destroyed() {
    let (world, handler) = standing(2);
    let gone = cells(&world)[0].clone();
    let alive = handler.ask(handler.declare_destroyed(&gone)).unwrap();
    assert!(alive.unwrap_err().to_string().contains("is alive"));
    world.set_up(&gone, false);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    for _ in 0..100 {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.tick();
    }
    let record = world.record(&id()).unwrap();
    assert_eq!(record.nodes.len(), 1, "its cell has not confirmed");
    let known = |cell: &str| handler.ask(handler.declare_destroyed(cell)).unwrap().unwrap();
    assert_eq!([known("mistyped"), known(&gone)], [Known::No, Known::Yes]);
    settle(&world);
    assert_eq!(world.record(&id()), None);
    let content = world.store.content();
    let registered = |key: &&String| key.starts_with(keyspace::REGISTRAR) && key.contains(":cf-");
    assert_eq!(content.keys().find(registered), None);
    // It comes back all the same: what counted as gone goes.
    world.set_up(&gone, true);
    settle(&world);
    audit::assert_in_order(&world);
}

#[test]
fn a_look_at_the_cells_from_before_a_declaration_does_not_take_it_back() {
    let cell = "c6";
    for steps in 0.. {
        let world = World::new(Layout::default());
        let operator = kind(&world);
        // The look has news: the cell is back, for a moment.
        for up in [false, true] {
            operator.ask(operator.reconcile()).unwrap().unwrap();
            world.set_up(cell, up);
            world.pass(LONG);
        }
        let slow = world.handler(Process::interleaved("slow", Fate::Kind));
        let mut look = Box::pin(slow.reconcile());
        let mut context = Context::from_waker(Waker::noop());
        let has_ended = (0..steps).any(|_| look.as_mut().poll(&mut context).is_ready());
        if has_ended {
            assert!(steps > 3, "it reads the roll and the cells, and writes");
            return;
        }
        world.set_up(cell, false);
        world.pass(LONG);
        operator.ask(operator.declare_destroyed(cell)).unwrap().unwrap();
        while look.as_mut().poll(&mut context).is_pending() {}
        let entry = now(world.store.get(keyspace::CELL_ROLL, Read::Quorum)).unwrap();
        let roll: Roll = serde_json::from_str(&entry.unwrap().value).unwrap();
        assert!(roll.is_destroyed(&cell.parse().unwrap()), "after {steps} steps");
    }
}

/// What is wrong when the leader of three nodes is lost while another one is about to go: whoever asks its cell to remove it
/// stands still meanwhile. Tried with several seeds, and the request at several moments.
fn wrong_when_the_leader_is_lost_during_a_shrink(bug: Option<Bug>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (seed, seconds) in (0..4).flat_map(|seed| (24..30).map(move |seconds| (seed, seconds))) {
        let world = World::new(Layout {
            bug,
            seed,
            ..Layout::default()
        });
        let (handler, id) = (kind(&world), id());
        handler.ask(handler.provision(&id, 3)).unwrap().unwrap();
        handler.ask(handler.poll_to_the_end(&id)).unwrap().unwrap();
        let record = world.record(&id).unwrap();
        let leads = record.nodes.iter().find(|(node, _)| world.leads(**node));
        world.set_up(leads.unwrap().1.cell.as_str(), false);
        world.pass(seconds);
        let fate = Fate::Always(Accident::Freezes { seconds: None });
        let slow = world.handler(Process::new("slow", fate));
        let mut shrinking: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(slow.update(&id, 2));
        let asks = || world.log().iter().any(|call| call.contains("slow: remove"));
        while slow.run(&mut shrinking).is_none() && !asks() {
            slow.process().thaw();
        }
        if asks() {
            world.pass(6);
            slow.process().thaw();
            while slow.run(&mut shrinking).is_none() {
                slow.process().thaw();
            }
        }
        wrong.extend(audit::violations(&world));
    }
    wrong
}

#[test]
fn a_node_that_may_still_be_elected_is_not_removed() {
    assert_eq!(wrong_when_the_leader_is_lost_during_a_shrink(None), [""; 0]);
    let wrong = wrong_when_the_leader_is_lost_during_a_shrink(Some(Bug::RemovesBeforeTheTag));
    assert!(wrong.iter().any(|what| what.contains("which leads")), "{wrong:?}");
}

/// What is wrong when the record of an instance has been lost, by whatever mishap, for a minute.
fn wrong_without_the_record(bug: Option<Bug>) -> Vec<String> {
    let (world, _) = standing_with(bug, 2);
    let key = keyspace::record(&id());
    let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
    now(world.store.compare_and_delete(&key, entry.index)).unwrap();
    world.pass(60);
    now(world.store.create(&key, &entry.value, None)).unwrap();
    world.pass(60);
    audit::violations(&world)
}

#[test]
fn nodes_without_a_record_are_set_aside_and_never_deleted() {
    assert_eq!(wrong_without_the_record(None), [""; 0]);
    assert_ne!(wrong_without_the_record(Some(Bug::CellDeletesStrangers)), [""; 0]);
}

/// Whether the deprovision of an instance ends whose cell does not come back.
fn hopeless_deprovision_ends(bug: Option<Bug>) -> bool {
    let (world, handler) = standing_with(bug, 2);
    world.set_up(&cells(&world)[0], false);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    for _ in 0..20 {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.pass(60);
    }
    world.record(&id()).unwrap().operation.is_none()
}

#[test]
fn operations_end_at_their_deadline() {
    assert!(hopeless_deprovision_ends(None));
    assert!(!hopeless_deprovision_ends(Some(Bug::KnowsNoDeadline)));
}

#[test]
fn operations_end_and_instances_go_when_their_plan_has_gone_from_the_catalog() {
    let (world, handler) = standing(1);
    handler.ask(handler.update(&id(), 2)).unwrap().unwrap();
    let without = world.handler_with_another_plan(Process::new("without the plan", Fate::Kind));
    assert_eq!(
        world.record(&id()).unwrap().operation.unwrap().state,
        OperationState::InProgress
    );
    for _ in 0..40 {
        without.ask(without.reconcile()).unwrap().unwrap();
        world.pass(60);
    }
    let record = world.record(&id()).unwrap();
    let last = record.last_operation.as_ref().unwrap();
    assert_eq!(
        (record.operation.as_ref(), last.state),
        (None, OperationState::Failed)
    );
    assert!(
        last.description.contains("is not in the catalog any more"),
        "{}",
        last.description
    );
    assert!(record.nodes.values().all(|node| node.phase != Phase::Leaving));
    without.ask(without.deprovision(&id())).unwrap().unwrap();
    settle(&world);
    audit::assert_in_order(&world);
}

/// Patroni goes on while its cell is missing: nothing is to be decided about the instance.
#[test]
fn a_cell_is_not_forgotten_while_a_record_names_it_though_its_node_reports() {
    const DAY: SignedDuration = SignedDuration::from_hours(24);
    let (world, handler) = standing(2);
    let cell: CellGuid = cells(&world)[0].parse().unwrap();
    handler.ask(handler.reconcile()).unwrap().unwrap();
    let read = |key: &str| now(world.store.get(key, Read::Quorum)).unwrap();
    let time = world.clock.now();
    let mut roll: Roll = serde_json::from_str(&read(keyspace::CELL_ROLL).unwrap().value).unwrap();
    roll.looked = time;
    let presence = roll.cells.get_mut(&cell).unwrap();
    presence.missing_since = Some(time - 40 * DAY);
    presence.needed = Some(time - 29 * DAY);
    let text = serde_json::to_string(&roll).unwrap();
    now(world.store.set(keyspace::CELL_ROLL, &text, None)).unwrap();
    let heartbeat = read(&keyspace::cell(&cell)).unwrap();
    now(world
        .store
        .compare_and_delete(&keyspace::cell(&cell), heartbeat.index))
    .unwrap();
    handler.ask(handler.mend()).unwrap().unwrap();
    let roll: Roll = serde_json::from_str(&read(keyspace::CELL_ROLL).unwrap().value).unwrap();
    assert_eq!(roll.cells[&cell].needed, Some(time));
    assert_eq!(roll.missing_since(&cell), Some(time - 40 * DAY));
}

/// A handler stands still before it deletes the marker of an operation that has ended, and goes on when nodes are about to
/// be replaced.
#[test]
fn a_late_unmark_does_not_take_the_marker_of_a_replacement() {
    let (world, handler) = standing(2);
    settle(&world);
    let read = |key: &str| now(world.store.get(key, Read::Quorum)).unwrap();
    let record = world.record(&id()).unwrap();
    let index = read(&keyspace::record(&id())).unwrap().index;
    let cluster = Cluster::default();
    let do_it = |effect: Effect| {
        let scene = Scene {
            record: &record,
            index,
            cluster: &cluster,
        };
        let (mut directory, mut facts) = (Directory::default(), Facts::default());
        let effects = [effect];
        let act = act::act(handler.broker(), scene, &effects, &mut directory, &mut facts);
        handler.ask(act).unwrap().unwrap();
    };
    do_it(Effect::Mark);
    assert!(read(&keyspace::operation(&id())).is_some());
    do_it(Effect::Unmark);
    assert!(read(&keyspace::operation(&id())).is_some());
    // Where nothing came of it, it goes.
    world.pass(61);
    do_it(Effect::Unmark);
    assert!(read(&keyspace::operation(&id())).is_none());
}
