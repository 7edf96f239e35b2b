//! Reservations that say something else than the records, found and mended; and those that are left alone.

use std::{pin::Pin, sync::Arc};

use shared::{
    clock::Clock,
    ids::{Incarnation, InstanceId, OperationId},
    keyspace,
    quota::Reservation,
    store::Read,
};
use tests::simulation::{Accident, Fate, Handler, Layout, Process, QUOTA, World, audit, instance, now};

use crate::{
    quotas::{end, is_refused, make, others, reservations, tidy, unmake},
    story::{id, kind},
};

fn key(life: Incarnation) -> String {
    keyspace::reservation(&"few".parse().unwrap(), life)
}

fn mend(world: &Arc<World>) -> usize {
    let handler = kind(world);
    handler.ask(handler.mend()).unwrap().unwrap()
}

fn plant(world: &World, id: &InstanceId, life: Incarnation) {
    let reservation = Reservation {
        instance_id: id.clone(),
        operation: OperationId::from(world.clock.random()),
        since: world.clock.now(),
    };
    now(world.store.set(&key(life), &reservation.to_json(), None)).unwrap();
}

#[test]
fn reservations_follow_the_records() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    make(&handler, &id());
    let many = instance("many");
    handler.ask(handler.provision(&many, 1)).unwrap().unwrap();
    end(&handler, &many);
    tidy(&world);
    assert_eq!(mend(&world), 0);
    let life = |id: &InstanceId| world.record(id).unwrap().incarnation;
    let nobody = || Incarnation::from(world.clock.random());
    // Of a life that is over, of an instance that has another plan, of one that nobody ever heard of.
    plant(&world, &id(), nobody());
    plant(&world, &many, life(&many));
    plant(&world, &instance("gone"), nobody());
    // Their requests may be under way.
    assert_eq!(mend(&world), 0);
    world.pass(65);
    assert_eq!((mend(&world), mend(&world)), (3, 0));
    audit::assert_in_order(&world);
    // What is not one is nobody's to remove.
    let strange = [format!("{}/few/x", keyspace::QUOTAS), key(nobody())];
    for key in &strange {
        now(world.store.set(key, "?", None)).unwrap();
    }
    assert_eq!(mend(&world), 0);
    assert!(strange.iter().all(|key| world.store.content().contains_key(key)));
}

/// A plan may get its quota after its instances: all of them count.
#[test]
fn an_instance_that_is_not_counted_gets_a_reservation_however_many_there_are() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    let ids = &others()[..QUOTA];
    for id in ids {
        make(&handler, id);
    }
    tidy(&world);
    for id in ids {
        let key = key(world.record(id).unwrap().incarnation);
        let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
        now(world.store.compare_and_delete(&key, entry.index)).unwrap();
    }
    for _ in 0..QUOTA {
        plant(&world, &instance("gone"), Incarnation::from(world.clock.random()));
    }
    assert_eq!(mend(&world), QUOTA);
    assert_eq!(reservations(&world).len(), 2 * QUOTA);
    assert!(is_refused(&handler.ask(handler.provision_few(&id())).unwrap()));
    tidy(&world);
    audit::assert_in_order(&world);
}

/// One that restores a reservation stands still; meanwhile the instance goes, or comes again, or has another plan.
#[test]
fn a_reservation_that_is_restored_late_does_not_stay() {
    let meanwhile: [fn(&Handler); 3] = [
        |handler| unmake(handler, &id()),
        |handler| {
            unmake(handler, &id());
            make(handler, &id());
        },
        |handler| {
            handler.ask(handler.change_plan(&id(), "p1")).unwrap().unwrap();
            end(handler, &id());
        },
    ];
    for happens in meanwhile {
        for freeze in [
            Accident::Freezes { seconds: None },
            Accident::FreezesAfter { seconds: None },
        ] {
            for at in 1.. {
                let world = World::new(Layout::default());
                let handler = kind(&world);
                make(&handler, &id());
                tidy(&world);
                let key = key(world.record(&id()).unwrap().incarnation);
                let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
                now(world.store.compare_and_delete(&key, entry.index)).unwrap();
                let frozen = world.handler(Process::new("frozen", Fate::Once(at, freeze)));
                let mut run: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(frozen.mend());
                if frozen.run(&mut run).is_some() {
                    assert!(at > 1);
                    break;
                }
                happens(&handler);
                frozen.process().thaw();
                drop(frozen.run(&mut run).unwrap());
                tidy(&world);
                audit::assert_in_order(&world);
            }
        }
    }
}
