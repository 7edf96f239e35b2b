//! Whose turn it is when there is not time enough for all.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use shared::ids::InstanceId;
use tests::simulation::{Accident, Fate, Handler, Layout, Process, World, audit, instance};

use crate::story::{Story, id, kind, settle};

/// How long a run of the schedule may take (template.yaml).
const RUN: u32 = 60;

/// Lets time pass while something is under way. `None`: it was cut off after so many seconds.
fn within<T>(world: &World, seconds: u32, task: impl Future<Output = T>) -> Option<T> {
    let mut task = pin!(task);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..seconds {
        if let Poll::Ready(answer) = task.as_mut().poll(&mut context) {
            return Some(answer);
        }
        world.tick();
    }
    None
}

/// So many instances of one node, on two cells.
fn crowd(count: usize) -> (Arc<World>, Handler, Vec<InstanceId>) {
    let world = World::new(Layout {
        cells: 2,
        capacity: 100,
        ports: 200,
        ..Layout::default()
    });
    let handler = kind(&world);
    let ids: Vec<InstanceId> = (0..count).map(|n| instance(&format!("n{n:03}"))).collect();
    for id in &ids {
        handler.ask(handler.provision(id, 1)).unwrap().unwrap();
    }
    settle(&world);
    audit::assert_in_order(&world);
    (world, handler, ids)
}

#[test]
fn instances_that_wait_for_a_cell_that_hangs_do_not_starve_the_others() {
    let (world, handler, ids) = crowd(140);
    let cell = |id: &InstanceId| {
        let record = world.record(id).unwrap();
        record.nodes.values().next().unwrap().cell.to_string()
    };
    let (waiting, others): (Vec<_>, Vec<_>) = ids.iter().partition(|id| cell(id) == "c1");
    let last = others.last().unwrap();
    for cell in ["c1", "c2"] {
        world.set_up(cell, false);
    }
    for id in waiting.iter().chain([last]) {
        handler.ask(handler.deprovision(id)).unwrap().unwrap();
    }
    world.hang("c1");
    for cell in ["c1", "c2"] {
        world.set_up(cell, true);
    }
    world.pass(10);
    let mut runs = 0;
    while world.record(last).is_some() {
        runs += 1;
        assert!(runs <= 30, "{last} never had its turn");
        let ended = within(&world, RUN, handler.reconcile());
        assert!(ended.is_none(), "there was time enough for all");
    }
    assert!(waiting.iter().all(|id| world.record(id).is_some()));
}

/// How many writes and calls one pass makes over an instance that is to be taken away.
fn calls_of_a_pass(fate: Fate) -> usize {
    let world = Story::Deprovision.world(Layout::default());
    let handler = kind(&world);
    let cells = ["c1", "c2", "c3", "c4", "c5", "c6"];
    cells.iter().for_each(|cell| world.set_up(cell, false));
    handler.ask(handler.deprovision(&id())).unwrap().unwrap();
    cells.iter().for_each(|cell| world.set_up(cell, true));
    let slow = world.handler(Process::new("slow", fate));
    within(&world, 1000, slow.advance(&id())).unwrap().unwrap();
    settle(&world);
    assert_eq!(world.record(&id()), None);
    audit::assert_in_order(&world);
    slow.process().calls()
}

#[test]
fn a_pass_that_takes_long_leaves_the_rest_to_the_next() {
    let all = calls_of_a_pass(Fate::Kind);
    let slow = Accident::FreezesAfter { seconds: Some(10) };
    let some = calls_of_a_pass(Fate::Always(slow));
    println!("{some} calls instead of {all}");
    // It asks both cells, writes their answers down, and tidies up after itself.
    assert!((2..all).contains(&some), "{some} instead of {all}");
}
