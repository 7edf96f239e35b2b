//! A plan that allows so many instances: never has it more, however they race, and whoever dies or stands still; and a place that
//! is free can be had.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
};

use shared::{
    error::Error, ids::InstanceId, keyspace, record::OperationState, service::provision::Provisioned,
};
use tests::simulation::{
    Accident, Bug, Chance, DEATHS, Fate, Handler, Layout, Process, QUOTA, Schedule, World, audit, instance,
};

use crate::story::{id, kind, settle};

/// How many seeds are tried.
const SEEDS: u64 = 200;
/// More seconds than all clients together take.
const LIMIT: usize = 4000;
/// More than as many as the plan allows.
const MANY: usize = 3 * QUOTA;

pub(crate) fn others() -> Vec<InstanceId> {
    (0..MANY).map(|n| instance(&format!("n{n}"))).collect()
}

/// The keys of all reservations, without the plan's.
pub(crate) fn reservations(world: &World) -> BTreeSet<String> {
    let below = format!("{}/few/", keyspace::QUOTAS);
    let content = world.store.content().into_keys();
    content
        .filter_map(|key| Some(key.strip_prefix(&below)?.to_owned()))
        .collect()
}

pub(crate) fn make(handler: &Handler, id: &InstanceId) {
    handler.ask(handler.provision_few(id)).unwrap().unwrap();
    end(handler, id);
}

pub(crate) fn end(handler: &Handler, id: &InstanceId) {
    let last = handler.ask(handler.poll_to_the_end(id)).unwrap();
    assert!(last.is_none_or(|last| last.state == OperationState::Succeeded));
}

pub(crate) fn unmake(handler: &Handler, id: &InstanceId) {
    handler.ask(handler.deprovision(id)).unwrap().unwrap();
    end(handler, id);
}

pub(crate) fn is_refused<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Unprocessable(text)) if text.contains("quota"))
}

/// Rounds of both kinds, for as long as anything may be left that is swept.
pub(crate) fn tidy(world: &Arc<World>) {
    let handler = kind(world);
    settle(world);
    for _ in 0..2 {
        world.pass(65);
        handler.ask(handler.reconcile()).unwrap().unwrap();
        handler.ask(handler.mend()).unwrap().unwrap();
    }
}

/// Everything is in order, but for directories that are left empty: a member that publishes itself while its process ends may
/// make them again, which is not a matter of quotas.
fn assert_in_order(world: &World) {
    let wrong = audit::leavings(world).into_iter();
    let wrong: Vec<_> = wrong.filter(|wrong| !wrong.ends_with("is left empty")).collect();
    assert!(wrong.is_empty(), "{}\n{world:#?}", wrong.join("\n"));
}

/// As many fit as the plan allows, counted anew from what is there.
fn assert_exact(world: &Arc<World>) {
    let handler = kind(world);
    let there = reservations(world).len();
    let free = QUOTA.checked_sub(there).unwrap();
    let fill: Vec<_> = (0..=free).map(|n| instance(&format!("fill{n}"))).collect();
    for id in &fill[..free] {
        make(&handler, id);
    }
    assert!(is_refused(
        &handler.ask(handler.provision_few(&fill[free])).unwrap()
    ));
    for id in &fill[..free] {
        unmake(&handler, id);
    }
    tidy(world);
    assert_in_order(world);
}

#[test]
fn who_comes_too_late_is_refused_and_leaves_nothing() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    let ids = others();
    for id in &ids[..QUOTA] {
        make(&handler, id);
    }
    let before = world.store.content();
    let refused = handler.ask(handler.provision_few(&id())).unwrap();
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(world.store.content(), before);
    // Whoever has a place is not asked for another.
    let again = handler.ask(handler.provision_few(&ids[0])).unwrap().unwrap();
    assert_eq!(again, Provisioned::Exists);
    handler.ask(handler.update(&ids[0], 2)).unwrap().unwrap();
    end(&handler, &ids[0]);
    // A place that is given up can be had at once, also for the same id.
    unmake(&handler, &ids[0]);
    make(&handler, &ids[0]);
    unmake(&handler, &ids[0]);
    make(&handler, &id());
    assert_eq!(reservations(&world).len(), QUOTA);
    tidy(&world);
    audit::assert_in_order(&world);
}

#[test]
fn what_other_plans_cost_is_what_it_was() {
    let world = World::new(Layout::default());
    let calls = |few: bool| {
        let counted = world.handler(Process::new("counted", Fate::Kind));
        let id = instance(if few { "few" } else { "many" });
        let made = if few {
            counted.ask(counted.provision_few(&id))
        } else {
            counted.ask(counted.provision(&id, 1))
        };
        made.unwrap().unwrap();
        (counted.process().calls(), counted.process().reads())
    };
    make(&kind(&world), &id());
    let (calls_of_many, reads_of_many) = calls(false);
    assert_eq!(calls(true), (calls_of_many + 1, reads_of_many + 1));
}

#[test]
fn a_change_to_a_plan_that_is_full_changes_nothing() {
    let world = World::new(Layout::default());
    let handler = kind(&world);
    let ids = others();
    for id in &ids[..QUOTA] {
        make(&handler, id);
    }
    handler.ask(handler.provision(&id(), 1)).unwrap().unwrap();
    end(&handler, &id());
    let before = world.store.content();
    let refused = handler.ask(handler.change_plan(&id(), "few")).unwrap();
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(world.store.content(), before);
    // One goes, and another comes, in turn.
    for (goes, comes) in [(&ids[0], &id()), (&id(), &ids[0])] {
        handler.ask(handler.change_plan(goes, "p1")).unwrap().unwrap();
        end(&handler, goes);
        assert_eq!(reservations(&world).len(), QUOTA - 1);
        handler.ask(handler.change_plan(comes, "few")).unwrap().unwrap();
        end(&handler, comes);
        audit::assert_in_order(&world);
    }
}

#[test]
fn a_change_that_has_failed_counts_in_both_plans() {
    for to in ["p1", "few", "quiet"] {
        let world = World::new(Layout::default());
        let handler = kind(&world);
        handler.ask(handler.provision(&id(), 1)).unwrap().unwrap();
        end(&handler, &id());
        let record = world.record(&id()).unwrap();
        let cell = record.nodes.values().next().unwrap().cell.to_string();
        world.set_up(&cell, false);
        handler.ask(handler.change_plan(&id(), "few")).unwrap().unwrap();
        world.pass(1801);
        let failed = handler.ask(handler.poll_to_the_end(&id())).unwrap().unwrap();
        assert_eq!(failed.state, OperationState::Failed, "{failed:?}");
        assert_eq!(reservations(&world).len(), 1);
        world.set_up(&cell, true);
        world.pass(70);
        handler.ask(handler.mend()).unwrap().unwrap();
        assert_eq!(reservations(&world).len(), 1);
        handler.ask(handler.change_plan(&id(), to)).unwrap().unwrap();
        end(&handler, &id());
        assert_eq!(reservations(&world).len(), usize::from(to == "few"), "{to}");
        audit::assert_in_order(&world);
        assert_exact(&world);
    }
}

/// Exactly as many are let in as there is room for, and the others leave nothing, without anybody who tidies up.
fn race(seed: u64, bug: Option<Bug>) {
    let world = World::new(Layout {
        seed,
        bug,
        ..Layout::default()
    });
    let before = world.store.content();
    let mut schedule = Schedule::new(&world, Chance::new(seed));
    for id in others() {
        let handler = world.handler(Process::interleaved(id.as_str(), Fate::Kind));
        schedule.add(&handler, |handler| async move {
            let answer = handler.provision_few(&id).await;
            assert!(answer.is_ok() || is_refused(&answer), "{answer:?}");
        });
    }
    schedule.run(LIMIT, audit::assert_safe);
    let made: Vec<_> = others()
        .into_iter()
        .filter(|id| world.record(id).is_some())
        .collect();
    assert_eq!((made.len(), reservations(&world).len()), (QUOTA, QUOTA));
    let left: Vec<_> = world
        .store
        .content()
        .into_keys()
        .filter(|key| !before.contains_key(key))
        .collect();
    for refused in others().iter().filter(|id| !made.contains(id)) {
        let name = format!("/{refused}");
        assert!(
            !left
                .iter()
                .any(|key| key.ends_with(&name) || key.contains(&format!("{name}/"))),
            "{left:?}"
        );
    }
}

#[test]
fn of_many_at_once_as_many_are_let_in_as_there_is_room_for() {
    for seed in 0..SEEDS {
        race(seed, None);
    }
    let is_noticed = |seed| catch_unwind(|| race(seed, Some(Bug::CountsBeforeItReserves))).is_err();
    assert!((0..SEEDS).any(is_noticed));
}

/// A client that makes, changes and takes away whatever it comes upon.
async fn client(handler: Handler, mut chance: Chance) {
    for _ in 0..2 + chance.below(4) {
        let id = &others()[chance.below(QUOTA + 2)];
        match chance.below(8) {
            0..=2 => drop(handler.provision_few(id).await),
            3 => drop(handler.provision(id, 1).await),
            4 => drop(handler.change_plan(id, "few").await),
            5 => drop(handler.change_plan(id, "p1").await),
            _ => drop(handler.deprovision(id).await),
        }
        for _ in 0..chance.below(15) {
            handler.wait(1).await;
            match handler.poll(id).await {
                Ok(last) if last.state == OperationState::InProgress => {}
                Err(Error::Store(_)) => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
}

fn storm(seed: u64, foul: bool) {
    let mut chance = Chance::new(seed);
    let world = World::new(Layout {
        seed,
        ..Layout::default()
    });
    let fate = |chance: &mut Chance| match foul {
        false => Fate::Kind,
        true => Fate::Cruel(chance.branch(), 12 + chance.below(60)),
    };
    let mut schedule = Schedule::new(&world, chance.branch());
    for n in 1..=3 + chance.below(3) {
        let process = Process::interleaved(&format!("client {n}"), fate(&mut chance));
        let script = chance.branch();
        schedule.add(&world.handler(process), |handler| client(handler, script));
    }
    for n in 1..=2 {
        let process = Process::interleaved(&format!("reconciler {n}"), fate(&mut chance));
        schedule.add(&world.handler(process), |handler| async move {
            for round in 0..80 {
                drop(handler.reconcile().await);
                if round % 5 == 0 {
                    drop(handler.mend().await);
                }
                handler.wait(2).await;
            }
        });
    }
    schedule.run(LIMIT, audit::assert_safe);
    let handler = kind(&world);
    for _ in 0..LIMIT {
        drop(handler.ask(handler.reconcile()).unwrap());
        world.tick();
        audit::assert_safe(&world);
        if audit::is_at_rest(&world) && !world.has_late_calls() {
            break;
        }
    }
    tidy(&world);
    if audit::all_succeeded(&world) {
        assert_in_order(&world);
    }
    for id in others() {
        drop(handler.ask(handler.deprovision(&id)).unwrap());
        handler.ask(handler.poll_to_the_end(&id)).unwrap();
    }
    tidy(&world);
    assert_eq!(reservations(&world), BTreeSet::new());
    assert_in_order(&world);
    assert_exact(&world);
}

#[test]
fn a_plan_never_has_more_instances_than_it_allows() {
    for (seed, foul) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| storm(seed, foul))) {
            println!("seed {seed}, foul: {foul}");
            resume_unwind(panic);
        }
    }
}

/// What a handler does that dies, or stands still, and how the instance is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Make,
    Unmake,
    Enter,
    Leave,
}

const DEEDS: [Deed; 4] = [Deed::Make, Deed::Unmake, Deed::Enter, Deed::Leave];

impl Deed {
    fn world(self, bug: Option<Bug>) -> Arc<World> {
        let world = World::new(Layout {
            bug,
            ..Layout::default()
        });
        let handler = kind(&world);
        match self {
            Self::Make => {}
            Self::Unmake | Self::Leave => make(&handler, &id()),
            Self::Enter => {
                handler.ask(handler.provision(&id(), 1)).unwrap().unwrap();
                end(&handler, &id());
            }
        }
        world
    }

    async fn tell(self, handler: &Handler) {
        let accepted = match self {
            Self::Make => handler.provision_few(&id()).await.is_ok(),
            Self::Unmake => handler.deprovision(&id()).await.is_ok(),
            Self::Enter => handler.change_plan(&id(), "few").await.is_ok(),
            Self::Leave => handler.change_plan(&id(), "p1").await.is_ok(),
        };
        if accepted {
            handler.poll_to_the_end(&id()).await;
        }
    }
}

#[test]
fn whoever_dies_or_hears_nothing_takes_no_place_for_ever() {
    let mut accidents = DEATHS.to_vec();
    accidents.extend([
        Accident::LosesAnswer,
        Accident::LosesCall,
        Accident::IsRefused,
        Accident::ComesLate { seconds: 40 },
        Accident::Repeats,
    ]);
    for (deed, accident) in DEEDS
        .iter()
        .flat_map(|deed| accidents.iter().map(move |it| (*deed, *it)))
    {
        for at in 1.. {
            let world = deed.world(None);
            let unlucky = world.handler(Process::new("unlucky", Fate::Once(at, accident)));
            let ended = unlucky.ask(deed.tell(&unlucky)).is_some();
            let happened = unlucky.process().calls() >= at;
            while world.has_late_calls() {
                world.tick();
            }
            tidy(&world);
            audit::assert_in_order(&world);
            assert_exact(&world);
            if ended && !happened {
                break;
            }
        }
    }
}

/// A handler stands still for so long at one of its calls, while others take what places they can get. `false`: it makes
/// fewer calls.
fn freezes(deed: Deed, at: usize, freeze: Accident, seconds: u32, bug: Option<Bug>) -> bool {
    let world = deed.world(bug);
    let frozen = world.handler(Process::new("frozen", Fate::Once(at, freeze)));
    let mut told: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(deed.tell(&frozen));
    if frozen.run(&mut told).is_some() {
        return false;
    }
    let handler = kind(&world);
    for _ in 0..seconds {
        world.tick();
        handler.ask(handler.reconcile()).unwrap().unwrap();
        handler.ask(handler.mend()).unwrap().unwrap();
    }
    for other in others() {
        // Who changes its plan twice comes back to it.
        if deed == Deed::Leave {
            let _ = handler.ask(handler.change_plan(&id(), "few")).unwrap();
            handler.ask(handler.poll_to_the_end(&id())).unwrap();
        }
        let _ = handler.ask(handler.provision_few(&other)).unwrap();
        handler.ask(handler.poll_to_the_end(&other)).unwrap();
    }
    audit::assert_safe(&world);
    frozen.process().thaw();
    frozen.run(&mut told).unwrap();
    audit::assert_safe(&world);
    // Whoever has lost its place would let somebody else in.
    for other in others() {
        let _ = handler.ask(handler.provision_few(&other)).unwrap();
        handler.ask(handler.poll_to_the_end(&other)).unwrap();
    }
    audit::assert_safe(&world);
    tidy(&world);
    audit::assert_in_order(&world);
    true
}

/// Whether it goes wrong at any call.
fn goes_wrong(deed: Deed, bug: Option<Bug>) -> bool {
    let freezes_at = [
        Accident::Freezes { seconds: None },
        Accident::FreezesAfter { seconds: None },
        Accident::WaitsForLostAnswer,
    ];
    freezes_at
        .into_iter()
        .flat_map(|it| [(it, 5), (it, 100), (it, 250)])
        .any(|(freeze, seconds)| {
            for at in 1.. {
                match catch_unwind(|| freezes(deed, at, freeze, seconds, bug)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => {
                        println!("{deed:?}: {freeze:?} at {at} for {seconds} s, {bug:?}");
                        return true;
                    }
                }
            }
            false
        })
}

#[test]
fn who_stands_still_keeps_its_place_or_does_not_come_in() {
    for deed in DEEDS {
        assert!(!goes_wrong(deed, None));
    }
}

#[test]
fn planted_bugs_in_quotas_are_found() {
    for (deed, bug) in [
        (Deed::Make, Bug::RemovesFreshReservations),
        (Deed::Enter, Bug::RemovesReservationsUnderAChange),
        (Deed::Leave, Bug::ReleasesLaterReservations),
    ] {
        assert!(goes_wrong(deed, Some(bug)), "{bug:?}");
    }
}
