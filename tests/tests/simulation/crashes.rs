//! A handler that is stopped dead before, and right after, each of its writes and calls; and one whose call, or its answer,
//! is lost.

use tests::simulation::{Accident, Fate, Layout, Process};

use crate::story::{CARRIERS, Carrier, STORIES, Story, kind};

/// How many writes and calls an undisturbed run makes.
fn calls(story: Story, layout: Layout) -> usize {
    let world = story.world(layout);
    let handler = kind(&world);
    handler.ask(story.tell(&handler)).unwrap();
    let calls = handler.process().calls();
    assert!(calls > 0);
    calls
}

/// Runs a story in which this befalls its handler at its n-th call, and lets another carry on.
fn run(story: Story, layout: Layout, at: usize, accident: Accident, carrier: Carrier) {
    let world = story.world(layout);
    let handler = world.handler(Process::new("unlucky", Fate::Once(at, accident)));
    let ended = handler.ask(story.tell(&handler)).is_some();
    let dies = matches!(accident, Accident::DiesBefore | Accident::DiesAfter);
    assert_eq!(ended, !dies);
    while world.has_late_calls() {
        world.tick();
    }
    // What was never written down was never asked for, unless it is asked for again.
    let begun = story.has_begun(&world) || carrier == Carrier::Requests;
    story.carry_on(&world, carrier);
    story.check(&world, begun);
}

fn each(story: Story, layout: Layout, accidents: &[Accident], carriers: &[Carrier]) {
    let calls = calls(story, layout);
    println!("{story:?}: {calls} writes and calls");
    for at in 1..=calls {
        for accident in accidents {
            for carrier in carriers {
                let told = format!("{story:?}: {accident:?} at {at}, then {carrier:?}");
                let run = || run(story, layout, at, *accident, *carrier);
                if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    println!("{told}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

const DEATHS: [Accident; 2] = [Accident::DiesBefore, Accident::DiesAfter];
const LOSSES: [Accident; 4] = [
    Accident::LosesAnswer,
    Accident::LosesCall,
    Accident::IsRefused,
    Accident::ComesLate { seconds: 3 },
];

#[test]
fn a_provision_survives_a_crash_at_every_step() {
    each(Story::Provision, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_growing_instance_survives_a_crash_at_every_step() {
    each(Story::Grow, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_shrinking_instance_survives_a_crash_at_every_step() {
    each(Story::Shrink, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_deprovision_survives_a_crash_at_every_step() {
    each(Story::Deprovision, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_deprovision_of_what_is_half_made_survives_a_crash_at_every_step() {
    each(Story::DeprovisionHalfMade, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn lost_calls_and_lost_answers_lose_nothing() {
    for story in STORIES {
        each(
            story,
            Layout::default(),
            &LOSSES,
            &[Carrier::Reconcile, Carrier::Requests],
        );
    }
}

#[test]
fn crashes_with_patroni_3_and_slow_cells() {
    let layout = Layout {
        patroni_3: true,
        stopping_takes: 2,
        ..Layout::default()
    };
    for story in STORIES {
        each(story, layout, &[Accident::DiesAfter], &[Carrier::Reconcile]);
    }
}
