//! What stands in etcd.

use jiff::Timestamp;
use serde_json::Value;
use shared::export::Export;
use tests::{fuzz::fuzz, simulation::now};

use super::{assert_unharmed, borrowed, leaves, runtime, samples, text};
use crate::{request::Request, stage::Stage, table::Table};

const LONGER_THAN_A_HEARTBEAT: u32 = 60;

/// Asks everything that can be asked of a broker in whose store a value is changed.
async fn ask_all(table: &Table, situation: &str, key: &str, value: &str) -> bool {
    let mut stage = Stage::new(table, situation).await;
    now(stage.world().store.set(key, value, None)).unwrap();
    let mut unharmed = true;
    for request in [
        "poll",
        "fetch",
        "fetch-binding",
        "poll-binding",
        "bind",
        "bind binding=b2",
        "provision async instance=i2",
        "unbind",
        "update async parameters={\"node-count\":3}",
        "poll",
        "deprovision async",
        "poll",
        "provision async",
    ] {
        let answer = stage.ask(&Request::parse(request)).await;
        assert_unharmed(&answer, request);
        unharmed &= answer.status < 500;
    }
    drop(stage.handler().reconcile().await);
    drop(stage.handler().mend().await);
    drop(Export::take(&*stage.handler().broker().store, Timestamp::UNIX_EPOCH).await);
    unharmed
}

/// The values at all keys that hold `part`, as they are and changed, in a store that the broker works with.
fn stored(part: &str, situation: &str, more: &[&str]) {
    let leaves = leaves(situation);
    let key = leaves
        .keys()
        .find(|key| key.contains(part))
        .unwrap_or_else(|| panic!("{part}: {leaves:?}"));
    let mut samples = samples(&leaves, part);
    samples.extend(more.iter().copied().map(str::to_owned));
    let (runtime, table) = (runtime(), Table::load());
    fuzz(&format!("{part} ({situation})"), &borrowed(&samples), |input| {
        let value = text(input);
        let unharmed = runtime.block_on(ask_all(&table, situation, key, &value));
        // For what is known to be valid the broker does all that it is asked.
        let valid = samples[0] == value;
        assert!(unharmed || !valid, "{value}");
        valid
    });
}

#[test]
fn records() {
    stored("i1/record", "bound", &[]);
}

#[test]
fn records_of_updates() {
    stored("i1/record", "bound and updating", &[]);
}

#[test]
fn records_of_deprovisions() {
    stored("i1/record", "deprovisioning", &[]);
}

#[test]
fn bindings() {
    stored("/bindings/b1", "bound", &[]);
}

#[test]
fn markers() {
    stored("/operations/i1", "bound and updating", &[]);
}

#[test]
fn tombstones() {
    stored("/tombstones/i1", "gone", &[]);
}

#[test]
fn heartbeats() {
    stored("/cells/c1", "bound", &[]);
}

#[test]
fn backends() {
    stored("/backend", "bound", &[]);
}

#[test]
fn allocations() {
    stored("/routing/allocation/i1", "bound", &["0", "65536"]);
}

#[test]
fn owners_of_ports() {
    stored(
        "/routing/ports/",
        "bound",
        &["quarantine", "i1", "i2 0f5c1670-6dc3-11e5-bc08-6c4008a663f0"],
    );
}

#[test]
fn next_port() {
    stored("/routing/nextport", "bound", &["0", "65535"]);
}

#[test]
fn members() {
    let patroni_4 = r#"{"conn_url":"postgres://127.0.0.2:15000/postgres","api_url":"http://127.0.0.2:15100/patroni","state":"running","role":"primary","version":"4.1.5","xlog_location":83886336,"timeline":1}"#;
    let replica = r#"{"conn_url":"postgres://127.0.0.3:15000/postgres","api_url":"http://127.0.0.3:15100/patroni","state":"running","role":"replica","tags":{"nofailover":true},"replication_state":"streaming","timeline":1}"#;
    let original = r#"{"role": "master", "state": "running", "conn_url": "postgres://replicator:replicator@10.244.21.8:32768/postgres", "api_url": "http://127.0.0.1:8008/patroni", "xlog_location": 83886336}"#;
    stored("/service/i1/members/", "bound", &[patroni_4, replica, original]);
}

#[test]
fn leader() {
    stored("/service/i1/leader", "bound", &[]);
}

#[test]
fn initialize() {
    stored("/service/i1/initialize", "bound", &["7300000000000000001", ""]);
}

#[test]
fn dynamic_configuration() {
    let patroni = r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"maximum_lag_on_failover":1048576,"synchronous_mode":true,"postgresql":{"use_pg_rewind":true,"use_slots":true,"parameters":{"max_connections":100,"wal_level":"replica"}}}"#;
    stored("/service/i1/config", "bound", &[patroni]);
}

/// Keys of Patroni that the simulated one does not write.
#[test]
fn other_keys_of_patroni() {
    let (runtime, table) = (runtime(), Table::load());
    let samples = [
        r#"{"leader":"a","sync_standby":"b,c","quorum":1}"#,
        r#"{"optime":83886336,"slots":{"b":83886336},"retain_slots":["b"]}"#,
        r#"{"leader":"a","candidate":"b","scheduled_at":"2026-11-23T00:00:00+00:00"}"#,
        r#"[[1,83886336,"no recovery target specified","2026-11-23T00:00:00+00:00","b"]]"#,
        "{}",
    ];
    fuzz("sync, status, failover, history", &samples, |input| {
        let value = text(input);
        for name in ["sync", "status", "failover", "history", "optime/leader"] {
            runtime.block_on(ask_all(&table, "bound", &format!("/service/i1/{name}"), &value));
        }
        serde_json::from_str::<Value>(&value).is_ok()
    });
}

#[test]
fn cell_roll() {
    let (runtime, table) = (runtime(), Table::load());
    let stage = runtime.block_on(async {
        let stage = Stage::new(&table, "bound").await;
        stage.handler().mend().await.unwrap();
        stage.world().set_up("c3", false);
        stage.world().pass(LONGER_THAN_A_HEARTBEAT);
        stage.handler().mend().await.unwrap();
        stage.handler().declare_destroyed("c3").await.unwrap();
        stage
    });
    let roll = stage
        .world()
        .store
        .content()
        .remove("/cell-roll")
        .flatten()
        .unwrap();
    fuzz("cell roll", &[&roll], |input| {
        let value = text(input);
        runtime.block_on(ask_all(&table, "bound", "/cell-roll", &value));
        value == roll
    });
}
