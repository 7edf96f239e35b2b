//! `export` and `import`: an etcd that has lost everything, and cells that still hold the data.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use shared::{
    clock::{Clock, SystemClock},
    export::{Export, ImportError},
    store::{Read, Store},
};
use tests::{
    binaries,
    etcd::EtcdServer,
    keys::Keys,
    osb::{OPERATION, fresh_id, nodes},
    psql::Session,
    stack::{Options, Stack},
    wait::eventually,
};

/// Runs a command of `local-runner` to its end.
fn run(etcd: &EtcdServer, arguments: &[&str]) -> Output {
    Command::new(binaries::path("local-runner"))
        .args(arguments)
        .env_clear()
        .env("PATRONI_BROKER_KVSTORE_MACHINES", etcd.url())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Writes what `export` prints into a file.
fn export(etcd: &EtcdServer, file: &Path) -> String {
    let printed = run(etcd, &["export"]);
    assert!(printed.status.success(), "{printed:?}");
    let export = text(printed.stdout);
    fs::write(file, &export).unwrap();
    export
}

/// A cell that is alive, one that was declared destroyed, and one that was, too, and is back.
const ROLL: &str = r#"{"looked": "2026-01-02T00:00:00Z", "cells": {"c1": {}, "c2": {"destroyed": "2026-01-01T00:00:00Z"},
    "c3": {"destroyed": "2026-01-01T00:00:00Z"}}}"#;

/// Some keys of a broker, and others that are not its truth.
async fn filled() -> EtcdServer {
    let etcd = EtcdServer::start().await;
    let client = etcd.client();
    for (key, value, seconds) in [
        ("/serviceinstances/f1/record", r#"{"a": "\"ä"}"#, None),
        ("/serviceinstances/f1/nodes/n/backend", "c1", None),
        ("/routing/allocation/f1", "30000", None),
        ("/routing/ports/30000", "f1 x", None),
        ("/routing/ports/30001", "quarantine", Some(1000)),
        ("/tombstones/f2", "{}", Some(2000)),
        ("/service/f1/leader", "n", None),
        ("/cells/c1", "{}", Some(30)),
        ("/cell-roll", ROLL, None),
    ] {
        let ttl = seconds.map(Duration::from_secs);
        client.create(key, value, ttl).await.unwrap();
    }
    etcd
}

async fn import(export: &Export, etcd: &EtcdServer) -> Result<usize, ImportError> {
    export.import(&etcd.client(), SystemClock.now()).await
}

async fn take(etcd: &EtcdServer) -> Export {
    Export::take(&etcd.client(), jiff::Timestamp::UNIX_EPOCH)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_exported_is_there_again_with_its_time_to_live() {
    let (from, to) = (filled().await, EtcdServer::start().await);
    let taken = take(&from).await;
    let read = Export::parse(&taken.to_json()).unwrap();
    assert_eq!((read.instances(), &read), (1, &taken));
    to.client().create("/cells/c3", "{}", None).await.unwrap();
    assert_eq!(import(&read, &to).await.unwrap(), 6 + 1);
    let tree = to.client().tree("/", Read::Quorum).await.unwrap().unwrap();
    let keys: Vec<_> = tree.leaves.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "/cell-roll",
            "/cells/c3",
            "/routing/allocation/f1",
            "/routing/ports/30000",
            "/routing/ports/30001",
            "/serviceinstances/f1/nodes/n/backend",
            "/serviceinstances/f1/record",
            "/tombstones/f2"
        ]
    );
    let record = &tree.leaves["/serviceinstances/f1/record"];
    assert_eq!((record.value.as_str(), record.ttl), (r#"{"a": "\"ä"}"#, None));
    // Whoever sees anything else sees the record, and an allocation has an owner.
    let index = |key: &str| tree.leaves[key].index;
    let exported = |key: &&&str| !key.starts_with("/cell");
    let first = keys.iter().filter(exported).min_by_key(|key| index(key));
    assert_eq!(first, Some(&"/serviceinstances/f1/record"));
    assert!(index("/routing/ports/30000") < index("/routing/allocation/f1"));
    let roll: Value = serde_json::from_str(&tree.leaves["/cell-roll"].value).unwrap();
    let cells = roll["cells"].as_object().unwrap();
    assert_eq!(cells.keys().collect::<Vec<_>>(), ["c2"], "{roll}");
    assert_eq!(cells["c2"]["destroyed"], json!("2026-01-01T00:00:00Z"));
    for (key, most) in [("/routing/ports/30001", 1000), ("/tombstones/f2", 2000)] {
        let seconds = tree.leaves[key].ttl.unwrap().as_secs();
        assert!((most - 300..=most).contains(&seconds), "{key}: {seconds}");
    }
}

#[tokio::test]
async fn an_import_that_was_interrupted_can_be_repeated_and_nothing_is_overwritten() {
    let (from, to) = (filled().await, EtcdServer::start().await);
    let taken = take(&from).await;
    let client = to.client();
    client
        .create("/routing/allocation/f1", "30000", None)
        .await
        .unwrap();
    assert_eq!(import(&taken, &to).await.unwrap(), 5 + 2);
    assert_eq!(import(&taken, &to).await.unwrap(), 0);

    for (key, value) in [
        ("/serviceinstances/f3/record", "{}"),
        ("/routing/allocation/f1", "30001"),
    ] {
        client.set(key, value, None).await.unwrap();
        let before = Keys::below(&to, "/");
        let refused = import(&taken, &to).await;
        assert!(
            matches!(&refused, Err(ImportError::NotEmpty(other)) if other == key),
            "{refused:?}"
        );
        let changes = Keys::below(&to, "/").changes_since(&before);
        assert_eq!(changes, Vec::<String>::new());
        let entry = client.get(key, Read::Quorum).await.unwrap().unwrap();
        client.compare_and_delete(key, entry.index).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_an_export_is_refused_in_words() {
    let etcd = EtcdServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("export.json");
    let key =
        |key: &str| json!({"schema": 1, "taken": "2026-01-01T00:00:00Z", "keys": {key: {"value": "x"}}});
    for (content, told) in [
        (Value::Null, "this is not an export: "),
        (
            json!({"schema": 3}),
            "this export has schema 3, newer than the 2 that this program knows",
        ),
        (
            key("/service/f1/leader"),
            "this is not an export: it holds /service/f1/leader",
        ),
        (
            key("/routingx/f1"),
            "this is not an export: it holds /routingx/f1",
        ),
    ] {
        fs::write(&file, content.to_string()).unwrap();
        let refused = run(&etcd, &["import", file.to_str().unwrap()]);
        let error = text(refused.stderr);
        assert!(!refused.status.success());
        assert!(error.starts_with(&format!("error: {told}")), "{error}");
    }
    let missing = run(&etcd, &["import", "/nowhere/export.json"]);
    let error = text(missing.stderr);
    assert!(error.starts_with("error: /nowhere/export.json"), "{error}");
    assert!(Keys::below(&etcd, "/").0.is_empty());
}

#[tokio::test]
async fn what_cells_still_hold_comes_back_after_etcd_has_lost_everything() {
    let mut stack = Stack::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let (osb, before) = (stack.osb(), stack.keys());
    let ids = [fresh_id(), fresh_id()];
    let mut bound = Vec::new();
    for (id, count) in ids.iter().zip([2, 1]) {
        osb.make(id, &nodes(count)).await;
        let answer = osb.bind(id, "b").await;
        let credentials = answer.expect(201).body["credentials"].clone();
        let session = Session::open(&credentials).await.unwrap();
        session
            .run("CREATE TABLE rows AS SELECT generate_series(1, 10) AS n")
            .await;
        bound.push(credentials);
    }
    let file = stack.directory().join("export.json");
    let exported = export(&stack.etcd, &file);
    for credentials in &bound {
        let password = credentials["password"].as_str().unwrap();
        assert!(!exported.contains(password), "a password is in the export");
    }

    // As the operator's guide says.
    stack.brokers[0].kill();
    stack.etcd.lose_everything().await;
    let imported = run(&stack.etcd, &["import", file.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
    let told = text(imported.stdout);
    assert!(told.contains(": 2 instances as they were at "), "{told}");
    for cell in &mut stack.cells {
        cell.server.restart().await;
    }
    stack.router.as_mut().unwrap().restart().await;
    stack.brokers[0].restart().await;

    for (id, credentials) in ids.iter().zip(&bound) {
        eventually("the rows through the same port", OPERATION, async || {
            let session = Session::open(credentials).await.ok()?;
            session.try_to("CREATE TABLE IF NOT EXISTS later ()").await.ok()?;
            let rows = session.ask("SELECT count(*) FROM rows").await.ok()?;
            (rows == "10").then_some(())
        })
        .await;
        // That may have been through the HAProxy of the killed router. The new one cuts the port off until Patroni has
        // written its leader key again, up to a loop later.
        eventually("the binding through the same port", OPERATION, async || {
            let answer = osb.bind(id, "b").await;
            if answer.status == 503 {
                return None;
            }
            assert_eq!(answer.expect(200).body["credentials"], *credentials);
            Some(())
        })
        .await;
        osb.last_operation(id).await.expect(200);
    }
    for id in &ids {
        osb.unmake(id).await;
    }
    stack.assert_gone(&before).await;
}
