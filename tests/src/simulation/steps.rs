//! An operation that is disturbed at each of its steps in turn: a step is a write to the store, or a call to a cell, Patroni
//! or PostgreSQL.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use super::{
    Accident, Fate, Process, World, audit,
    story::{Carrier, Story, kind},
};
use crate::faults::Tally;

/// A handler that is stopped dead before a step, and right after it.
pub const DEATHS: [Accident; 2] = [Accident::DiesBefore, Accident::DiesAfter];

/// How many steps of each kind an undisturbed run makes.
fn steps(story: Story, world: &Arc<World>) -> BTreeMap<&'static str, usize> {
    story.set_in(world);
    let before = world.log().len();
    let handler = kind(world);
    handler.ask(story.tell(&handler)).unwrap();
    let mut steps = BTreeMap::new();
    let name = format!(" {}: ", handler.process().name());
    for line in &world.log()[before..] {
        let Some((_, call)) = line.split_once(&name) else {
            continue;
        };
        let to = match call.split(' ').next().unwrap_or_default() {
            "create" | "set" | "swap" | "delete" | "rmdir" if call.contains(" /") => "etcd",
            "start" | "remove" => "cells",
            _ => "Patroni and PostgreSQL",
        };
        *steps.entry(to).or_default() += 1;
    }
    assert_eq!(steps.values().sum::<usize>(), handler.process().calls());
    steps
}

/// Runs a story in a fresh world for each of its steps, of these accidents and of these who carry on when the handler has
/// died, and asserts that it ends as asked, and that nothing else is left.
///
/// # Panics
/// When that is not so, or when there are no steps.
pub fn each_step(
    story: Story,
    world: impl Fn() -> Arc<World>,
    accidents: &[Accident],
    carriers: &[Carrier],
) -> Tally {
    let steps = steps(story, &world());
    println!("{story:?}: steps {steps:?}");
    let steps = steps.values().sum();
    assert!(steps > 0);
    let mut tally = Tally::default();
    for at in 1..=steps {
        for accident in accidents {
            for carrier in carriers {
                let run = || run(story, &world(), at, *accident, *carrier);
                match catch_unwind(AssertUnwindSafe(run)) {
                    Ok(left) => tally.add(1, 1, left),
                    Err(panic) => {
                        println!("{story:?}: {accident:?} at {at}, then {carrier:?}");
                        resume_unwind(panic);
                    }
                }
            }
        }
    }
    tally
}

/// Answers how many things are there in the end that should not be.
fn run(story: Story, world: &Arc<World>, at: usize, accident: Accident, carrier: Carrier) -> usize {
    story.set_in(world);
    let handler = world.handler(Process::new("unlucky", Fate::Once(at, accident)));
    let ended = handler.ask(story.tell(&handler)).is_some();
    assert_eq!(ended, !DEATHS.contains(&accident));
    while world.has_late_calls() {
        world.tick();
    }
    // What was never written down was never asked for, unless it is asked for again.
    let begun = story.has_begun(world) || carrier == Carrier::Requests;
    story.carry_on(world, carrier);
    story.check(world, begun);
    audit::leavings(world).len()
}
