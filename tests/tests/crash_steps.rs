//! A handler that is stopped dead before, and right after, each of its writes to a real etcd and each of its calls, and another
//! that carries on. Cells, Patroni and PostgreSQL are those of the simulation; their keys are in etcd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use serde_json::Value;
use tests::{
    etcd::{EtcdServer, Options},
    simulation::{
        DEATHS, EtcdGround, Layout, World, each_step,
        story::{Carrier, Story},
    },
};
use tokio::runtime::Runtime;

/// Enough for every story.
const LAYOUT: Layout = Layout {
    beat: 10,
    cells: 4,
    capacity: 20,
    ports: 100,
    patroni_3: false,
    stopping_takes: 0,
    http: None,
    bug: None,
    seed: 0,
};

/// Removes everything.
fn clear(server: &EtcdServer) {
    let (status, body) = server.raw("GET", "/v2/keys/", None);
    assert_eq!(status, 200, "{body}");
    let root: Value = serde_json::from_str(&body).unwrap();
    for child in root["node"]["nodes"].as_array().into_iter().flatten() {
        let target = format!("/v2/keys{}?recursive=true", child["key"].as_str().unwrap());
        let (status, body) = server.raw("DELETE", &target, None);
        assert_eq!(status, 200, "{body}");
    }
}

/// Tries a story in an etcd of its own.
fn survives(story: Story, carrier: Carrier, row: &str) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(EtcdServer::start_with(Options::default()));
    let ground = Arc::new(EtcdGround::new(server.client(), runtime.handle().clone()));
    let world = || {
        clear(&server);
        World::on(Arc::<EtcdGround>::clone(&ground), LAYOUT)
    };
    let tally = each_step(story, world, &DEATHS, &[carrier]);
    tally.print(row);
    assert_eq!(tally.orphans, 0);
}

#[test]
fn killed_at_each_step_of_a_provision() {
    let row = "real etcd: killed at each step of a provision";
    survives(Story::Provision, Carrier::Reconcile, row);
}

#[test]
fn killed_at_each_step_of_an_update_to_more_nodes() {
    let row = "real etcd: killed at each step of an update to more nodes";
    survives(Story::Grow, Carrier::Polls, row);
}

#[test]
fn killed_at_each_step_of_an_update_to_fewer_nodes() {
    let row = "real etcd: killed at each step of an update to fewer nodes";
    survives(Story::Shrink, Carrier::Reconcile, row);
}

#[test]
fn killed_at_each_step_of_a_move_to_other_cells() {
    let row = "real etcd: killed at each step of a move to other cells";
    survives(Story::Move, Carrier::Polls, row);
}

#[test]
fn killed_at_each_step_of_a_change_to_a_plan_with_larger_settings() {
    let row = "real etcd: killed at each step of a change to a plan with larger settings";
    survives(Story::Widen, Carrier::Reconcile, row);
}

#[test]
fn killed_at_each_step_of_a_change_to_a_plan_with_smaller_settings() {
    let row = "real etcd: killed at each step of a change to a plan with smaller settings";
    survives(Story::Narrow, Carrier::Polls, row);
}

#[test]
fn killed_at_each_step_of_a_change_of_passwords() {
    let row = "real etcd: killed at each step of a change of passwords";
    survives(Story::Rotate, Carrier::Reconcile, row);
}

#[test]
fn killed_at_each_step_of_a_deprovision() {
    let row = "real etcd: killed at each step of a deprovision";
    survives(Story::Deprovision, Carrier::Reconcile, row);
}

#[test]
fn killed_at_each_step_of_a_bind() {
    let row = "real etcd: killed at each step of a bind";
    survives(Story::Bind, Carrier::Requests, row);
}

#[test]
fn killed_at_each_step_of_an_unbind() {
    let row = "real etcd: killed at each step of an unbind";
    survives(Story::Unbind, Carrier::Requests, row);
}
