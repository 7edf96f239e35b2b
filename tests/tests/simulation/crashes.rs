//! A handler that is stopped dead before, and right after, each of its writes and calls; and one whose call, or its answer,
//! is lost.

use tests::simulation::{
    Accident, DEATHS, Layout, World, each_step,
    story::{CARRIERS, Carrier, STORIES, Story},
};

fn each(story: Story, layout: Layout, accidents: &[Accident], carriers: &[Carrier]) {
    let tally = each_step(story, || World::new(layout), accidents, carriers);
    assert_eq!(tally.orphans, 0);
}

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
fn a_moving_instance_survives_a_crash_at_every_step() {
    each(Story::Move, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_change_to_larger_settings_survives_a_crash_at_every_step() {
    each(Story::Widen, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_change_to_smaller_settings_survives_a_crash_at_every_step() {
    each(Story::Narrow, Layout::default(), &DEATHS, &CARRIERS);
}

#[test]
fn a_change_of_passwords_survives_a_crash_at_every_step() {
    each(Story::Rotate, Layout::default(), &DEATHS, &CARRIERS);
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
