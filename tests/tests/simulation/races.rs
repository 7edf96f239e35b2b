//! Many handlers at once, in an order, and with accidents, that a seed decides on.
//!
//! A seed that fails is printed. Paste it into [`one_seed`] to see the run call by call. `SIMULATION_SEEDS` says how many
//! seeds are tried, of each kind.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use shared::{error::Error, ids::InstanceId, record::OperationState};
use tests::{
    faults::Tally,
    simulation::{
        BUGS, Bug, Chance, Fate, Handler, Layout, Process, Schedule, World, audit, binding, instance,
    },
};

/// How many seeds `make test` tries, of each kind.
const SEEDS: u64 = 1000;
/// Within how many seeds each bug must be found.
const SEEDS_FOR_A_BUG: u64 = 300;
/// More seconds than all clients together take, frozen ones included.
const LIMIT: usize = 4000;

/// How hard a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Nothing but the order of things.
    Fair,
    /// Processes die and freeze, calls and answers are lost, late, and repeated; cells are cut off for a while.
    Foul,
}

/// The id of a run's n-th instance.
fn id(n: usize) -> InstanceId {
    instance(["f1", "f2"][n % 2])
}

/// A client that makes requests, polls as long as it likes, and makes others.
async fn client(handler: Handler, mut chance: Chance, cells: usize) {
    for _ in 0..2 + chance.below(4) {
        let id = id(chance.below(2));
        let nodes = u32::try_from(1 + chance.below(3)).unwrap();
        let name = binding(["b1", "b2"][chance.below(2)]);
        match chance.below(10) {
            0..=2 => drop(handler.provision(&id, nodes).await),
            8 | 9 => {
                let wanted = some_cells(&mut chance, cells);
                drop(handler.relocate(&id, nodes, &wanted).await);
            }
            3 => drop(handler.update(&id, nodes).await),
            4 | 5 => drop(handler.deprovision(&id).await),
            6 => drop(handler.bind(&id, &name).await),
            _ => {
                drop(handler.bind(&id, &name).await);
                drop(handler.unbind(&id, &name).await);
            }
        }
        for _ in 0..chance.below(25) {
            handler.wait(1).await;
            match handler.poll(&id).await {
                Ok(last) if last.state == OperationState::InProgress => {}
                Err(Error::Store(_)) => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
}

fn some_cells(chance: &mut Chance, cells: usize) -> Vec<String> {
    (1..=cells)
        .filter(|_| chance.below(3) > 0)
        .map(|n| format!("c{n}"))
        .collect()
}

/// The schedule: a round every other second. Every fifth looks at an instance at rest, and for drift.
async fn reconciler(handler: Handler, rounds: usize, mends: bool) {
    for round in 0..rounds {
        drop(handler.reconcile().await);
        if round % 5 == 0 {
            drop(handler.advance(&id(round / 5)).await);
            if mends {
                drop(handler.mend().await);
            }
        }
        handler.wait(2).await;
    }
}

/// Cuts cells off, one at a time or many at once, and brings them back.
async fn cutter(handler: Handler, world: &World, mut chance: Chance, cells: usize) {
    for _ in 0..2 {
        handler.wait(i64::try_from(chance.below(40)).unwrap()).await;
        let cut = if chance.once_in(4) {
            some_cells(&mut chance, cells)
        } else {
            vec![format!("c{}", 1 + chance.below(cells))]
        };
        for cell in &cut {
            world.set_up(cell, false);
        }
        let longest = if chance.once_in(2) { 40 } else { 300 };
        handler.wait(i64::try_from(chance.below(longest)).unwrap()).await;
        for cell in &cut {
            world.set_up(cell, true);
        }
    }
}

/// Whether drift is mended. It would cover up what a planted bug leaves behind.
fn mends(world: &World) -> bool {
    world.bug().is_none()
}

fn layout(chance: &mut Chance) -> Layout {
    Layout {
        beat: 10,
        cells: 3 + chance.below(4),
        bug: None,
        capacity: u32::try_from(2 + chance.below(4)).unwrap(),
        ports: u16::try_from(2 + chance.below(10)).unwrap(),
        patroni_3: chance.once_in(2),
        stopping_takes: u32::try_from(chance.below(3)).unwrap(),
        http: None,
        seed: chance.draw(),
    }
}

fn run(seed: u64, weather: Weather, world: &Arc<World>, chance: &mut Chance, cells: usize) {
    let fate = |chance: &mut Chance| match weather {
        Weather::Fair => Fate::Kind,
        Weather::Foul => Fate::Cruel(chance.branch(), 12 + chance.below(60)),
    };
    let mut schedule = Schedule::new(world, chance.branch());
    for n in 1..=2 + chance.below(4) {
        let process = Process::interleaved(&format!("client {n}"), fate(chance));
        let script = chance.branch();
        schedule.add(&world.handler(process), |handler| client(handler, script, cells));
    }
    let rounds = match weather {
        Weather::Fair => 30,
        Weather::Foul => 150,
    };
    for n in 1..=2 {
        let process = Process::interleaved(&format!("reconciler {n}"), fate(chance));
        schedule.add(&world.handler(process), |handler| {
            reconciler(handler, rounds, mends(world))
        });
    }
    if weather == Weather::Foul {
        let process = Process::interleaved("cutter", Fate::Kind);
        let times = chance.branch();
        schedule.add(&world.handler(process), |handler| {
            cutter(handler, world, times, cells)
        });
    }
    schedule.run(LIMIT, audit::assert_safe);
    for cell in 1..=cells {
        world.set_up(&format!("c{cell}"), true);
    }
    finish(seed, world);
}

/// Everything that was begun ends, and what is there then is as it should be; and it can be taken away.
fn finish(seed: u64, world: &Arc<World>) {
    let handler = world.handler(Process::new("kind", Fate::Kind));
    let rest = || {
        for second in 1..=LIMIT {
            drop(handler.ask(handler.reconcile()).unwrap());
            if second % 30 == 0 && mends(world) {
                drop(handler.ask(handler.mend()).unwrap());
            }
            world.tick();
            audit::assert_safe(world);
            if audit::is_at_rest(world) && !world.has_late_calls() {
                return;
            }
        }
        panic!("seed {seed} does not come to rest: {world:#?}");
    };
    let audit = || {
        world.pass(65);
        handler.ask(handler.reconcile()).unwrap().unwrap();
        // What a handler leaves behind that stands still between two calls, and dies, is drift.
        if mends(world) {
            handler.ask(handler.mend()).unwrap().unwrap();
        }
        audit::assert_in_order(world);
    };
    rest();
    if audit::all_succeeded(world) {
        audit();
    }
    for n in 0..2 {
        drop(handler.ask(handler.deprovision(&id(n))).unwrap());
    }
    rest();
    audit();
    assert!((0..2).all(|n| world.record(&id(n)).is_none()));
}

/// Runs a seed, and says which one it was if it fails. Answers every call that was made, and how many things were left in
/// the end that should not have been there.
fn try_seed(seed: u64, weather: Weather, bug: Option<Bug>, aloud: bool) -> (Vec<String>, usize) {
    let mut chance = Chance::new(seed);
    let layout = Layout {
        bug,
        ..layout(&mut chance)
    };
    let world = World::new(layout);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        run(seed, weather, &world, &mut chance, layout.cells);
    }));
    if aloud {
        println!("{}", world.log().join("\n"));
    }
    if let Err(panic) = outcome {
        println!("seed {seed} of {weather:?} failed, in {layout:?}");
        resume_unwind(panic);
    }
    (world.log(), audit::leavings(&world).len())
}

#[allow(clippy::disallowed_methods, reason = "a person says how long to look")]
fn seeds() -> u64 {
    std::env::var("SIMULATION_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap())
}

/// Runs all seeds, and asserts that all this came up in their calls. Answers what came of each of it.
fn try_seeds<'w>(weather: Weather, what: &[&'w str]) -> BTreeMap<&'w str, Tally> {
    let seeds = seeds();
    let mut tallies = BTreeMap::new();
    let mut events = 0;
    for seed in 0..seeds {
        let (calls, orphans) = try_seed(seed, weather, None, false);
        events += calls.len();
        let times = |what: &str| calls.iter().filter(|call| call.contains(what)).count();
        let finished = times(" operation: ");
        for what in what {
            let tally: &mut Tally = tallies.entry(*what).or_default();
            match times(what) {
                0 => {}
                tried => tally.add(tried, finished, orphans),
            }
        }
    }
    println!("{weather:?}: {seeds} seeds, {events} events");
    for (what, tally) in &tallies {
        println!("{:6} x {what}", tally.tried);
        assert!(tally.tried > 0, "{what} never happened");
        assert_eq!(tally.orphans, 0, "{what}");
    }
    tallies
}

/// What operations call for.
const CALLS: [&str; 13] = [
    "create /serviceinstances/f1/record",
    "create /serviceinstances/f2/record",
    "delete /serviceinstances/f1/record",
    "delete /serviceinstances/f1/bindings",
    "create /routing/ports",
    "create /routing/allocation",
    "start ",
    "remove ",
    "prepare",
    "create login",
    "withdraw login",
    "configure Patroni",
    "switch over from",
];

/// What happens to instances, their nodes and operations.
const TRANSITIONS: [&str; 12] = [
    "instance: made",
    "instance: gone",
    "instance: moves",
    "node: placed",
    "node: runs",
    "node: leaves",
    "node: retired",
    "operation: Provision Succeeded",
    "operation: Update Succeeded",
    "operation: Deprovision Succeeded",
    "operation: Provision Failed",
    "instance: bootstrap started over",
];

/// What cells that are cut off lead to.
const ABSENCES: [&str; 4] = [
    "a cell is back",
    "node: cell missing",
    "node: cell back",
    "node: replacement placed",
];

/// What befalls processes and cells, and the row of the table that tells of it.
const FAULTS: [(&str, &str); 10] = [
    ("DiesBefore", "simulation: killed before a step"),
    ("DiesAfter", "simulation: killed after a step"),
    ("Freezes", "simulation: a process stands still"),
    ("LosesAnswer", "simulation: an answer is lost"),
    ("LosesCall", "simulation: a call is lost"),
    ("ComesLate", "simulation: a call comes late"),
    ("IsRefused", "simulation: a call is refused"),
    ("Repeats", "simulation: a call is done twice"),
    ("a read fails", "simulation: a read fails"),
    ("a cell is cut off", "simulation: a cell is cut off"),
];

#[test]
fn handlers_race() {
    let all_but_failures = &TRANSITIONS[..10];
    try_seeds(Weather::Fair, &[&CALLS[..], all_but_failures].concat());
}

#[test]
fn handlers_race_while_processes_die_and_calls_are_lost() {
    let faults = FAULTS.map(|(fault, _)| fault);
    let what = [&CALLS[..], &faults, &TRANSITIONS, &ABSENCES].concat();
    let tallies = try_seeds(Weather::Foul, &what);
    for (fault, row) in FAULTS {
        tallies[fault].print(row);
    }
}

/// Paste a seed that has failed here.
#[test]
fn one_seed() {
    let (seed, weather) = (0, Weather::Foul);
    try_seed(seed, weather, None, true);
}

/// Every safety rule that is broken on purpose is noticed.
#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for bug in BUGS {
        let fails = |seed: &u64| {
            let run = |weather| catch_unwind(|| try_seed(*seed, weather, Some(bug), false)).is_err();
            run(Weather::Foul) || run(Weather::Fair)
        };
        match (0..SEEDS_FOR_A_BUG).find(fails) {
            Some(seed) => eprintln!("{bug:?} is found by seed {seed}"),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, [], "not found within {SEEDS_FOR_A_BUG} seeds");
}
