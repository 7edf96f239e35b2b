//! Drift: planted, found, mended; and what only looks like it, left alone.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use shared::{
    ids::{InstanceId, Port},
    keyspace,
    ports::owner_value,
    reconcile::drift::SLICE,
    record::{OperationKind, OperationState, Record, State},
    store::Read,
};
use tests::simulation::{Accident, Fate, Layout, Process, World, audit, instance, now};

use crate::story::{Story, id, kind, settle};

/// A world with one instance of two nodes at rest, and its record.
fn settled() -> (Arc<World>, Record) {
    let world = Story::Grow.world(Layout::default());
    settle(&world);
    audit::assert_in_order(&world);
    let record = world.record(&id()).unwrap();
    (world, record)
}

/// A world in which an instance has lived and is gone, and its last record.
fn gone() -> (Arc<World>, Record) {
    let (world, record) = settled();
    let handler = kind(&world);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap();
    settle(&world);
    audit::assert_in_order(&world);
    (world, record)
}

fn set(world: &World, key: &str, value: &str) {
    now(world.store.set(key, value, None)).unwrap();
}

fn get(world: &World, key: &str) -> Option<String> {
    let entry = now(world.store.get(key, Read::Quorum)).unwrap();
    entry.map(|entry| entry.value)
}

fn delete(world: &World, key: &str) {
    let entry = now(world.store.get(key, Read::Quorum)).unwrap().unwrap();
    now(world.store.compare_and_delete(key, entry.index)).unwrap();
}

/// One run, which is a whole round in so small a world. Answers how many things it mended.
fn mend(world: &Arc<World>) -> usize {
    let handler = kind(world);
    handler.ask(handler.mend()).unwrap().unwrap()
}

/// Everything is mended in one run, so that the next finds nothing.
fn assert_mended(world: &Arc<World>, things: usize) {
    assert_eq!(mend(world), things, "{world:#?}");
    settle(world);
    assert_eq!(mend(world), 0, "{world:#?}");
    audit::assert_in_order(world);
}

/// Nothing is changed, however often one looks.
fn assert_left_alone(world: &Arc<World>) {
    let before = world.store.content();
    for _ in 0..3 {
        assert_eq!(mend(world), 0);
    }
    let mut after = world.store.content();
    after.retain(|key, _| !key.starts_with(keyspace::RECONCILE) || before.contains_key(key));
    assert_eq!(after, before);
}

fn port(record: &Record) -> Port {
    record.port.owned().unwrap()
}

fn another_life() -> shared::ids::Incarnation {
    uuid::Uuid::from_u128(77).into()
}

#[test]
fn what_is_in_order_is_left_alone() {
    let (world, _) = settled();
    assert_left_alone(&world);
    let (world, _) = gone();
    assert_left_alone(&world);
}

#[test]
fn projections_follow_the_record() {
    let (world, record) = settled();
    let mut nodes = record.nodes.keys();
    delete(&world, &keyspace::backend(&id(), *nodes.next().unwrap()));
    set(
        &world,
        &keyspace::backend(&id(), *nodes.next().unwrap()),
        "elsewhere",
    );
    let nobody = uuid::Uuid::from_u128(5).into();
    set(&world, &keyspace::backend(&id(), nobody), "c1");
    assert_mended(&world, 3);
}

#[test]
fn a_lost_allocation_and_a_lost_owner_key_are_written_again() {
    let (world, record) = settled();
    delete(&world, &keyspace::allocation(&id()));
    assert_mended(&world, 1);
    set(&world, &keyspace::allocation(&id()), "1");
    assert_mended(&world, 1);
    delete(&world, &keyspace::port(port(&record)));
    assert_mended(&world, 1);
    delete(&world, &keyspace::port(port(&record)));
    delete(&world, &keyspace::allocation(&id()));
    assert_mended(&world, 2);
    set(&world, &keyspace::port(port(&record)), "quarantine");
    assert_mended(&world, 1);
}

#[test]
fn a_wrong_allocation_is_this_brokers_also_after_an_update_that_failed() {
    let (world, mut record) = settled();
    let last = record.last_operation.as_mut().unwrap();
    (last.kind, last.state) = (OperationKind::Update, OperationState::Failed);
    set(&world, &keyspace::record(&id()), &record.to_json());
    set(&world, &keyspace::allocation(&id()), "30050");
    assert_eq!(mend(&world), 1);
    assert_eq!(
        get(&world, &keyspace::allocation(&id())).unwrap(),
        port(&record).to_string()
    );
    assert_eq!(get(&world, "/routing/ports/30050"), None);
}

#[test]
fn a_port_that_two_claim_is_left_to_an_operator() {
    let (world, record) = settled();
    set(
        &world,
        &keyspace::port(port(&record)),
        &owner_value(&id(), record.incarnation).replace("f1", "f9"),
    );
    set(&world, "/serviceinstances/f9/record", "unreadable");
    assert_left_alone(&world);
}

#[test]
fn ports_of_lives_that_are_over_go_to_quarantine() {
    let (world, record) = settled();
    let spare = keyspace::port(Port::new(30050).unwrap());
    for nobodys in [
        owner_value(&id(), another_life()),
        owner_value(&id(), record.incarnation),
    ] {
        set(&world, &spare, &nobodys);
        assert_mended(&world, 1);
        assert_eq!(get(&world, &spare).unwrap(), "quarantine");
    }
    let (world, record) = gone();
    for life in [another_life(), record.incarnation] {
        set(&world, &spare, &owner_value(&id(), life));
        set(&world, &keyspace::allocation(&id()), "30050");
        assert_mended(&world, 1);
        assert_eq!(get(&world, &spare).unwrap(), "quarantine");
    }
    // Of an instance that nobody ever heard of, too.
    set(&world, &spare, &owner_value(&instance("f9"), another_life()));
    assert_mended(&world, 1);
}

#[test]
fn what_an_instance_left_behind_is_removed() {
    let (world, record) = gone();
    let node = *record.nodes.keys().next().unwrap();
    set(&world, &keyspace::allocation(&id()), &port(&record).to_string());
    set(&world, &keyspace::backend(&id(), node), "c1");
    assert_mended(&world, 2);
}

#[test]
fn settings_follow_the_plan() {
    let (world, _) = settled();
    let key = format!("{}/config", keyspace::scope(&id()));
    let plans = get(&world, &key).unwrap();
    let mut quick: serde_json::Value = serde_json::from_str(&plans).unwrap();
    quick["loop_wait"] = 2.into();
    quick["an operator's"] = true.into();
    set(&world, &key, &quick.to_string());
    assert_mended(&world, 1);
    let mended: serde_json::Value = serde_json::from_str(&get(&world, &key).unwrap()).unwrap();
    assert_eq!(
        (&mended["loop_wait"], &mended["an operator's"]),
        (&10.into(), &true.into())
    );
}

/// A handler stands still before it makes a growing cluster quick, does that when another has ended the operation, and dies.
#[test]
fn settings_that_come_late_are_mended() {
    let mut late = 0;
    for at in 1.. {
        let (world, id) = (settled().0, id());
        // The catalog has changed since the instance was made.
        let key = format!("{}/config", keyspace::scope(&id));
        let former = get(&world, &key).unwrap().replace("\"ttl\":30", "\"ttl\":31");
        set(&world, &key, &former);
        let fate = Fate::Once(at, Accident::Freezes { seconds: None });
        let frozen = world.handler(Process::interleaved("frozen", fate));
        let mut told = Box::pin(frozen.update(&id, 4));
        let mut context = Context::from_waker(Waker::noop());
        let mut ended = false;
        while !ended && !frozen.process().is_frozen() {
            ended = told.as_mut().poll(&mut context).is_ready();
        }
        if ended {
            break;
        }
        if !world.log().last().unwrap().contains("configure Patroni") {
            continue;
        }
        late += 1;
        let handler = kind(&world);
        let last = handler.ask(handler.poll_to_the_end(&id)).unwrap().unwrap();
        assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
        settle(&world);
        assert!(get(&world, &key).unwrap().contains("\"loop_wait\":10"));
        frozen.process().thaw();
        assert!(told.as_mut().poll(&mut context).is_pending());
        assert!(get(&world, &key).unwrap().contains("\"loop_wait\":2"));
        assert_mended(&world, 1);
        assert!(get(&world, &key).unwrap().contains("\"loop_wait\":10"));
    }
    assert_eq!(late, 1);
}

#[test]
fn bindings_of_lives_that_are_over_are_removed() {
    let (world, _) = settled();
    let handler = kind(&world);
    let name = tests::simulation::binding("b1");
    handler.ask(handler.bind(&id(), &name)).unwrap().unwrap();
    let ours = get(&world, &keyspace::binding(&id(), &name)).unwrap();
    let mut theirs: serde_json::Value = serde_json::from_str(&ours).unwrap();
    theirs["instance_incarnation"] = another_life().to_string().into();
    let theirs_key = keyspace::binding(&id(), &tests::simulation::binding("b2"));
    set(&world, &theirs_key, &theirs.to_string());
    assert_mended(&world, 1);
    assert_eq!(get(&world, &theirs_key), None);
    assert_eq!(get(&world, &keyspace::binding(&id(), &name)), Some(ours));
}

#[test]
fn what_an_older_broker_left_is_adopted_and_never_removed() {
    let (world, _) = settled();
    let old = instance("old");
    set(&world, &keyspace::allocation(&old), "30077");
    set(&world, "/serviceinstances/old/nodes/4f1c/backend", "10.244.21.6");
    assert_eq!(mend(&world), 1);
    assert_eq!(get(&world, "/routing/ports/30077").unwrap(), "old");
    assert_left_alone(&world);
    // An allocation of another's port, and one that is none: for an operator.
    set(&world, &keyspace::allocation(&instance("older")), "30077");
    set(&world, &keyspace::allocation(&instance("oldest")), "none");
    assert_left_alone(&world);
}

#[test]
fn an_older_routers_allocation_is_never_overwritten() {
    for adopted in [false, true] {
        let world = World::new(Layout::default());
        let handler = kind(&world);
        handler
            .ask(handler.provision(&instance("first"), 1))
            .unwrap()
            .unwrap();
        handler
            .ask(handler.poll_to_the_end(&instance("first")))
            .unwrap()
            .unwrap();
        set(&world, &keyspace::allocation(&id()), "30077");
        if adopted {
            assert_eq!(mend(&world), 1);
        }
        let is_unharmed = || {
            assert_eq!(get(&world, &keyspace::allocation(&id())).unwrap(), "30077");
            assert_eq!(get(&world, "/routing/ports/30077").unwrap(), "f1");
        };
        handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
        is_unharmed();
        let last = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(last.state, OperationState::Failed, "{last:?}");
        settle(&world);
        mend(&world);
        is_unharmed();
        handler.ask(handler.deprovision(&id())).unwrap().unwrap();
        handler.ask(handler.poll_to_the_end(&id())).unwrap();
        settle(&world);
        mend(&world);
        is_unharmed();
        assert_eq!(world.record(&id()), None);
    }
}

#[test]
fn an_operation_without_a_marker_is_found() {
    for story in [Story::Provision, Story::Grow, Story::Deprovision] {
        let world = story.world(Layout::default());
        let handler = kind(&world);
        assert!(!handler.ask(story.request(&handler)).unwrap().unwrap());
        delete(&world, &keyspace::operation(&id()));
        assert_eq!(mend(&world), 1);
        assert_eq!(mend(&world), 0);
        story.carry_on(&world, crate::story::Carrier::Reconcile);
        story.check(&world, true);
    }
}

#[test]
fn a_deprovision_that_ran_out_of_time_is_found() {
    let (world, record) = settled();
    let handler = kind(&world);
    let cell = &record.nodes.values().next().unwrap().cell;
    world.set_up(cell.as_str(), false);
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    world.pass(700);
    handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    assert_eq!(world.record(&id()).unwrap().state, State::Deleting);
    delete(&world, &keyspace::operation(&id()));
    assert_eq!(mend(&world), 1);
    world.set_up(cell.as_str(), true);
    Story::Deprovision.carry_on(&world, crate::story::Carrier::Reconcile);
    settle(&world);
    assert_eq!(world.record(&id()), None);
    audit::assert_in_order(&world);
}

#[test]
fn a_node_that_its_cell_has_lost_is_copied_from_the_leader() {
    let (world, record) = settled();
    let (replica, placed) = record
        .nodes
        .iter()
        .find(|(node, _)| !world.leads(**node))
        .unwrap();
    world.wipe(placed.cell.as_str());
    assert_eq!(mend(&world), 1);
    world.pass(60);
    assert_mended(&world, 0);
    assert_eq!(
        world.record(&id()).unwrap().nodes.keys().max(),
        record.nodes.keys().max(),
        "{replica}"
    );
}

#[test]
fn a_leader_that_its_cell_has_lost_is_copied_once_another_leads() {
    let (world, record) = settled();
    let (_, placed) = record.nodes.iter().find(|(node, _)| world.leads(**node)).unwrap();
    world.wipe(placed.cell.as_str());
    // Its key says for a while that it leads.
    assert_left_alone(&world);
    world.pass(60);
    assert_eq!(mend(&world), 1);
    world.pass(60);
    assert_mended(&world, 0);
    assert_eq!(world.record(&id()).unwrap(), record);
}

#[test]
fn the_last_node_is_never_made_again_empty() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.provision(&id(), 1)).unwrap().unwrap();
    handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
    let record = world.record(&id()).unwrap();
    let placed = record.nodes.values().next().unwrap();
    world.wipe(placed.cell.as_str());
    for _ in 0..5 {
        assert_eq!(mend(&world), 0);
        world.pass(30);
    }
    assert!(world.log().iter().filter(|call| call.contains("start ")).count() == 1);
    assert_eq!(world.record(&id()).unwrap(), record);
}

#[test]
fn a_node_that_no_record_names_goes_only_if_it_is_known_to_be_retired() {
    let (world, record) = settled();
    let stranger = uuid::Uuid::from_u128(5).into();
    world.plant("c1", &instance("f9"), another_life(), stranger);
    world.plant("c2", &id(), another_life(), uuid::Uuid::from_u128(6).into());
    world.pass(20);
    assert_left_alone(&world);
    assert!(world.holds("c1", stranger));
    let (world, last) = gone();
    let retired = *last.nodes.keys().next().unwrap();
    world.plant("c1", &id(), last.incarnation, retired);
    assert_mended(&world, 1);
    assert!(!world.holds("c1", retired));
    assert_ne!(record.incarnation, another_life());
}

/// At each of its calls a handler stands still; meanwhile one looks for drift. Nothing is mended that is not drift, and
/// everything ends as it does undisturbed.
#[test]
fn what_is_under_way_is_left_to_those_who_do_it() {
    for story in crate::story::STORIES {
        for freeze in [
            Accident::Freezes { seconds: None },
            Accident::FreezesAfter { seconds: None },
        ] {
            let mut at = 1;
            loop {
                let world = story.world(Layout::default());
                let handler = world.handler(Process::new("frozen", Fate::Once(at, freeze)));
                let mut told: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> =
                    Box::pin(story.tell(&handler));
                let ended = handler.run(&mut told).is_some();
                let mended = mend(&world);
                assert_eq!(mended, 0, "{story:?} {freeze:?} at {at}: {world:#?}");
                audit::assert_safe(&world);
                if ended {
                    break;
                }
                handler.process().thaw();
                handler.run(&mut told).unwrap();
                story.check(&world, true);
                at += 1;
            }
            assert!(at > 8);
        }
    }
}

/// One that looks for drift stands still at each of its mends; meanwhile the instance goes, or comes again.
#[test]
fn a_mend_that_comes_late_does_no_harm() {
    let plant = |world: &Arc<World>, record: &Record| {
        let mut nodes = record.nodes.keys();
        delete(world, &keyspace::backend(&id(), *nodes.next().unwrap()));
        delete(world, &keyspace::port(port(record)));
        delete(world, &keyspace::allocation(&id()));
        set(
            world,
            &keyspace::port(Port::new(30050).unwrap()),
            &owner_value(&id(), another_life()),
        );
    };
    for again in [false, true] {
        let mut at = 1;
        loop {
            let (world, record) = settled();
            plant(&world, &record);
            let frozen = world.handler(Process::new(
                "frozen",
                Fate::Once(at, Accident::Freezes { seconds: None }),
            ));
            let mut run: std::pin::Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(frozen.mend());
            if frozen.run(&mut run).is_some() {
                break;
            }
            let handler = kind(&world);
            handler.ask(handler.deprovision(&id())).unwrap().unwrap();
            handler.ask(handler.poll_to_the_end(&id())).unwrap();
            if again {
                handler.ask(handler.provision(&id(), 2)).unwrap().unwrap();
                handler.ask(handler.poll_to_the_end(&id())).unwrap();
            }
            frozen.process().thaw();
            // It may find that the world has changed, and end early.
            drop(frozen.run(&mut run).unwrap());
            settle(&world);
            mend(&world);
            audit::assert_in_order(&world);
            at += 1;
        }
        println!("{} mends and other writes", at - 1);
        assert!(at > 4);
    }
}

/// Ten thousand instances: a run costs what its slice costs, and all come round.
#[test]
fn a_run_costs_a_slice_however_many_instances_there_are() {
    let (world, record) = settled();
    let text = get(&world, &keyspace::record(&id())).unwrap();
    let others: Vec<InstanceId> = (0..10_000).map(|n| instance(&format!("n{n}"))).collect();
    for other in &others {
        let mut copy = record.clone();
        copy.instance_id = other.clone();
        copy.nodes.clear();
        copy.port = shared::record::PortClaim::Released;
        set(&world, &keyspace::record(other), &copy.to_json());
        let nobody = uuid::Uuid::from_u128(5).into();
        set(&world, &keyspace::backend(other, nobody), "c1");
    }
    let is_planted = |key: &String| key.ends_with("/backend") && key.starts_with("/serviceinstances/n");
    let planted = || world.store.content().keys().filter(|key| is_planted(key)).count();
    assert_eq!(planted(), 10_000);
    let mut most = 0;
    // One for each slice, and one for the instance that is not among the ten thousand.
    for _ in 0..=10_000 / SLICE {
        let handler = world.handler(Process::new("counted", Fate::Kind));
        let mended = handler.ask(handler.mend()).unwrap().unwrap();
        assert!(mended <= SLICE, "{mended}");
        most = most.max(handler.process().reads());
    }
    println!("at most {most} reads in one run");
    assert_eq!(planted(), 0);
    // Six lists, the cursor, a question to each of six cells; and of each instance its record and its settings.
    assert!(most <= 13 + 2 * SLICE, "{most}");
    assert_eq!(get(&world, &keyspace::record(&id())).unwrap(), text);
}
