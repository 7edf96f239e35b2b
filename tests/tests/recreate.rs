//! `local-runner recreate`: an instance whose every copy is lost, on real cells.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tests::{
    binaries,
    osb::{OPERATION, fresh_id, nodes},
    processes,
    psql::{self, Session},
    stack::{Options, Stack},
    wait::eventually,
};

/// Gives a command of `local-runner`, configured as the stack's brokers are.
async fn give(stack: &Stack, arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries::path("local-runner"));
    command
        .args(arguments)
        .env_clear()
        .envs(stack.command_variables())
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Asserts that a command is refused in words that hold this, and that the record is as it was.
async fn assert_refused(stack: &Stack, id: &str, why: &str) {
    let before = stack.record(id);
    let refused = give(stack, &["recreate", id]).await;
    let error = text(&refused.stderr);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(error.starts_with("error: ") && error.contains(why), "{error}");
    assert_eq!(stack.record(id), before);
}

/// Kills a cell with all that runs on it; its disk is lost, too.
fn burn_down(stack: &mut Stack, guid: &str) {
    let cell = stack.cells.iter_mut().find(|cell| cell.guid == guid).unwrap();
    cell.cut_power();
    let nodes = cell.nodes_directory();
    let data = nodes.parent().unwrap();
    processes::kill_below(data).unwrap();
    fs::remove_dir_all(data).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_every_copy_is_lost_comes_back_empty() {
    let mut stack = Stack::start(Options {
        zones: vec!["z1", "z2", "z3"],
        heartbeat_ttl: 5,
        ..Options::default()
    })
    .await;
    let (osb, id, before) = (stack.osb(), fresh_id(), stack.keys());
    assert_refused(&stack, &id, "there is no such instance").await;
    osb.make(&id, &nodes(2)).await;
    let mut bound: Vec<Value> = Vec::new();
    for name in ["b1", "b2", "gone"] {
        let answer = osb.bind(&id, name).await;
        bound.push(answer.expect(201).body["credentials"].clone());
    }
    let session = Session::open(&bound[0]).await.unwrap();
    session.run("CREATE TABLE rows AS SELECT 1 AS n").await;
    drop(session);
    osb.unbind(&id, "gone").await.expect(200);
    assert_refused(&stack, &id, "leads").await;

    // One machine burns down and is set up again, empty. The other one is lost from sight, and then comes back without its
    // data, too, which it has set aside.
    let record = stack.record(&id).unwrap();
    let places: Vec<String> = record.nodes.values().map(|node| node.cell.to_string()).collect();
    for guid in &places {
        let cell = stack.cells.iter_mut().find(|cell| cell.guid == *guid).unwrap();
        cell.cut_power();
    }
    eventually("nobody reports", OPERATION, async || {
        let keys = stack.keys().0;
        let left =
            |key: &String| key.starts_with("/service/") && key.contains("/members/") && !key.ends_with('/');
        let beats = |guid: &String| keys.contains_key(&format!("/cells/{guid}"));
        (!keys.keys().any(left) && !places.iter().any(beats)).then_some(())
    })
    .await;
    eventually("the leader key has run out", OPERATION, async || {
        (!stack.keys().0.contains_key(&format!("/service/{id}/leader"))).then_some(())
    })
    .await;
    assert_refused(&stack, &id, &format!("cell {} is missing", places[0])).await;
    burn_down(&mut stack, &places[0]);
    stack.server_of(&places[0]).restart().await;
    assert_refused(&stack, &id, &format!("cell {} is missing", places[1])).await;
    let declared = give(&stack, &["declare-cell-destroyed", &places[1]]).await;
    let told = format!("cell {} is declared destroyed\n", places[1]);
    assert_eq!(text(&declared.stdout), told, "{declared:?}");
    burn_down(&mut stack, &places[1]);

    let made = give(&stack, &["recreate", &id]).await;
    assert!(made.status.success(), "{made:?}");
    let told: Vec<&str> = text(&made.stdout).lines().collect();
    assert_eq!(
        told.first().copied(),
        Some(format!("instance {id} is being made anew").as_str())
    );
    assert_eq!(
        told.last().copied(),
        Some(format!("instance {id} stands again, empty").as_str())
    );
    assert!(told.contains(&"members stopped, stopped"), "{told:?}");

    for credentials in &bound[..2] {
        let session = Session::open(credentials).await.unwrap();
        let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'rows'";
        assert_eq!(session.ask(tables).await.unwrap(), "0");
        session.run("CREATE TABLE IF NOT EXISTS later ()").await;
    }
    psql::assert_refused(&bound[2]).await;
    for (name, credentials) in ["b1", "b2"].iter().zip(&bound) {
        let answer = osb.bind(&id, name).await;
        assert_eq!(answer.expect(200).body["credentials"], *credentials);
    }
    let last = osb.last_operation(&id).await;
    assert_eq!(last.expect(200).body["state"], "succeeded");
    let after = stack.record(&id).unwrap();
    assert_eq!(
        (after.incarnation, &after.port),
        (record.incarnation, &record.port)
    );
    assert!(after.nodes.keys().all(|node| !record.nodes.contains_key(node)));
    assert_refused(&stack, &id, "leads").await;
    osb.unmake(&id).await;
    // The machine that was declared destroyed is in nobody's way.
    stack.server_of(&places[1]).restart().await;
    stack.assert_gone(&before).await;
}
