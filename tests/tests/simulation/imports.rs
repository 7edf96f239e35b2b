//! An etcd that has lost everything: an import that is interrupted, while reconcile looks at what there is already.

use std::{collections::BTreeMap, sync::Arc};

use shared::{clock::Clock, export::Export, keyspace, store::Read};
use tests::simulation::{Accident, Fate, Layout, Process, World, audit, binding, now};

use crate::story::{Story, id, kind, settle};

/// What an export holds, but for hints.
fn kept(world: &World) -> BTreeMap<String, Option<String>> {
    let mut content = world.store.content();
    content.retain(|key, value| {
        let is_kept = |directory: &str| key.starts_with(&format!("{directory}/"));
        [keyspace::INSTANCES, keyspace::ROUTING, keyspace::TOMBSTONES]
            .into_iter()
            .any(is_kept)
            && key != keyspace::NEXT_PORT
            && value.is_some()
    });
    content
}

/// Everything but what Patroni and the registrars write again from what they hold.
fn lose_everything(world: &World) {
    for (key, value) in world.store.content() {
        let is_the_cells = key.starts_with("/service/") || key.starts_with(keyspace::REGISTRAR);
        if value.is_some() && !is_the_cells {
            let entry = now(world.store.get(&key, Read::Quorum)).unwrap().unwrap();
            now(world.store.compare_and_delete(&key, entry.index)).unwrap();
        }
    }
}

/// A world with an instance and a binding, whose etcd is empty, and what was exported before.
fn lost() -> (Arc<World>, Export) {
    let world = Story::Grow.world(Layout::default());
    let handler = kind(&world);
    handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
    settle(&world);
    audit::assert_in_order(&world);
    let export = now(Export::take(&*world.store, world.clock.now())).unwrap();
    let export = Export::parse(&export.to_json()).unwrap();
    lose_everything(&world);
    (world, export)
}

#[test]
fn an_import_that_is_interrupted_while_reconcile_runs_completes_when_it_is_repeated() {
    let mut at = 1;
    loop {
        for accident in [
            Accident::DiesBefore,
            Accident::DiesAfter,
            Accident::LosesAnswer,
            Accident::LosesCall,
        ] {
            let (world, export) = lost();
            let unlucky = world.handler(Process::new("import", Fate::Once(at, accident)));
            let interrupted = unlucky.ask(export.import(&*unlucky.broker().store, world.clock.now()));
            if let Some(Ok(_)) = interrupted {
                println!("interrupted at each of {} writes", at - 1);
                assert!(at > 7, "{at}");
                return;
            }
            let handler = kind(&world);
            handler.ask(handler.reconcile()).unwrap().unwrap();
            handler.ask(handler.mend()).unwrap().unwrap();
            let again = now(export.import(&*world.store, world.clock.now()));
            assert!(again.is_ok(), "{accident:?} at {at}: {again:?}");
            let (expected, _) = lost();
            now(export.import(&*expected.store, expected.clock.now())).unwrap();
            assert_eq!(kept(&world), kept(&expected), "{accident:?} at {at}");
            settle(&world);
            audit::assert_in_order(&world);
            let bound = handler.ask(handler.bind(&id(), &binding("b1"))).unwrap().unwrap();
            assert!(bound.existed);
        }
        at += 1;
    }
}

/// Reconcile writes down which cells are missing, in records too.
#[test]
fn a_record_that_says_by_now_which_cells_are_missing_is_the_imports() {
    let (world, export) = lost();
    now(export.import(&*world.store, world.clock.now())).unwrap();
    let mut record = world.record(&id()).unwrap();
    for node in record.nodes.values_mut() {
        node.missing_since = Some(world.clock.now());
    }
    now(world.store.set(&keyspace::record(&id()), &record.to_json(), None)).unwrap();
    assert_eq!(now(export.import(&*world.store, world.clock.now())).unwrap(), 0);
    record.node_count += 1;
    now(world.store.set(&keyspace::record(&id()), &record.to_json(), None)).unwrap();
    assert!(now(export.import(&*world.store, world.clock.now())).is_err());
}
