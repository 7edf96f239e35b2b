//! `local-runner rotate-credentials`: another master key, and other passwords on real nodes.

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
};

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use shared::master_keys::Kind;
use tests::{
    binaries,
    instance::Instance,
    osb::{OPERATION, OTHER_PLAN, PLAN, SERVICE, nodes},
    patroni::Patroni,
    processes::Process,
    psql::{self, Session},
    stack::{Options, Stack},
    wait::eventually,
    writer::Writer,
};

/// The variable that names the master keys, without its prefix.
const KEYS: &str = "SECRETS_MASTER_KEYS";

/// Keys by their ids; the first is for everything new.
fn keys(ids: &[&str]) -> String {
    let key = |id: &&str| {
        let value = if *id == "old" {
            "nPVFZvwyr4NmTxQ7E/u3vCylvHb6xn8NWzoqN3RiVlo="
        } else {
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        };
        json!({"id": id, "value_for_development": value})
    };
    Value::from_iter(ids.iter().map(key)).to_string()
}

async fn stack(zones: Vec<&'static str>, patroni: Patroni) -> Stack {
    Stack::start(Options {
        zones,
        durable: true,
        heartbeat_ttl: 5,
        patroni,
        variables: vec![(KEYS, keys(&["old"])), ("OPERATIONS_UPDATE", "30".to_owned())],
        ..Options::default()
    })
    .await
}

/// Restarts the brokers with these master keys.
async fn with_keys(stack: &mut Stack, ids: &[&str]) {
    stack.set_variable(KEYS, &keys(ids));
    for broker in &mut stack.brokers {
        broker.restart().await;
    }
}

/// Gives the command, configured as the stack's brokers are.
async fn rotate(stack: &Stack, which: &str) -> Output {
    let mut command = Command::new(binaries::path("local-runner"));
    command
        .args(["rotate-credentials", which])
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

/// The passwords of an instance, by the role that each belongs to.
fn passwords(stack: &Stack, instance: &str) -> [(&'static str, String); 4] {
    let (broker, record) = (stack.broker(), stack.record(instance).unwrap());
    let password = |kind| broker.password(&record, kind).unwrap().expose_secret().to_owned();
    [
        ("postgres", password(Kind::Superuser)),
        ("replicator", password(Kind::Replication)),
        ("rewind", password(Kind::Rewind)),
        ("patroni", password(Kind::Rest)),
    ]
}

/// How a role logs in to the node at this address.
fn login(address: &str, role: &str, password: &str) -> Value {
    json!({"uri": format!("postgres://{role}:{password}@{address}/postgres")})
}

/// Asserts that every node has these passwords, and none of those.
async fn have_changed(instance: &Instance<'_>, from: &[(&str, String); 4], to: &[(&str, String); 4]) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for member in instance.cluster().await.members.values() {
        let address = member.address.as_deref().unwrap();
        for ((role, old), (_, new)) in from[..3].iter().zip(to) {
            psql::assert_refused(&login(address, role, old)).await;
            Session::open(&login(address, role, new)).await.unwrap();
        }
        // An empty change is refused, but only to whoever might make another one.
        let url = format!("{}/config", member.api.as_deref().unwrap());
        for (password, status) in [(&from[3].1, 401), (&to[3].1, 400)] {
            let asked = client.patch(&url).basic_auth("patroni", Some(password));
            let answer = asked.json(&json!({})).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
        }
    }
}

/// The files below a directory that hold one of these texts, PostgreSQL's data aside, and the file that Patroni writes anew when it
/// follows somebody else.
fn files_with(directory: &Path, texts: &[(&str, String); 4]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("home/data") {
            found.extend(files_with(&path, texts));
        } else if path.is_file() && !path.ends_with("home/pgpass") {
            let content = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            if texts.iter().any(|(_, text)| content.contains(text)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// A master key takes the place of another one under a client that writes; the leader is killed afterwards.
async fn another_master_key(patroni: Patroni) {
    let mut stack = stack(vec!["z1", "z2", "z3"], patroni).await;
    let before = stack.keys();
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let id = instance.id.clone();
    let writer = Writer::start(&instance.credentials).await;
    instance.stands(1, true).await;
    let old = passwords(instance.stack, &id);

    with_keys(instance.stack, &["new", "old"]).await;
    let done = rotate(instance.stack, "--all").await;
    assert!(done.status.success(), "{done:?}");
    let told: Vec<&str> = text(&done.stdout).lines().collect();
    assert_eq!(
        told,
        [
            format!("instance {id}: nodes and broker have other passwords now"),
            format!("instance {id}: binding b depends on the master key 'old' until it is unbound"),
        ]
    );
    let record = instance.stack.record(&id).unwrap();
    assert_eq!(
        (record.master_key.as_str(), record.credential_generation),
        ("new", 2)
    );
    assert_eq!(record.former_credentials, None);
    let new = passwords(instance.stack, &id);
    have_changed(&instance, &old, &new).await;
    // Who has it done already has it done.
    let again = rotate(instance.stack, "--all").await;
    assert!(again.status.success(), "{again:?}");
    assert_eq!(instance.stack.record(&id).unwrap(), record);
    writer.goes_on(10).await;

    // The other node takes over, and the one that was killed follows it, with pg_rewind if need be.
    let leader = instance.stands(1, true).await;
    instance.kill(&leader.name);
    let next = instance.leader(Some(&leader)).await;
    writer.goes_on(20).await;
    assert_eq!(instance.stands(1, true).await.name, next.name);
    let cells = instance.stack.cells.iter();
    let left: Vec<String> = cells
        .flat_map(|cell| files_with(&cell.nodes_directory(), &old))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "former passwords");

    // A Patroni that dies again and again is no reason to touch a PostgreSQL that lets it in.
    let replica = other_than(&instance, &next.name);
    let postmaster = process_of(&instance, &replica, "bin/postgres ").unwrap();
    for _ in 0..3 {
        let patroni = process_of(&instance, &replica, "patroni.yml").unwrap();
        patroni.kill();
        eventually("another Patroni", OPERATION, async || {
            process_of(&instance, &replica, "patroni.yml").filter(|next| *next != patroni)
        })
        .await;
    }
    assert_eq!(process_of(&instance, &replica, "bin/postgres "), Some(postmaster));

    // The other binding replaces the one that depends on the former key, which then can go.
    let osb = instance.stack.osb();
    let body = json!({"service_id": SERVICE, "plan_id": OTHER_PLAN});
    osb.bind_with(&id, "b2", &body).await.expect(201);
    let (_, lost) = writer.end().await;
    assert_eq!(lost, Vec::<i64>::new());
    with_keys(instance.stack, &["new"]).await;
    osb.bind_with(&id, "b2", &body).await.expect(200);
    osb.unbind(&id, "b").await.expect(200);
    psql::assert_refused(&instance.credentials).await;
    let done = rotate(instance.stack, "--all").await;
    assert_eq!(text(&done.stdout), "", "{done:?}");
    let mut third = nodes(3);
    third["plan_id"] = json!(OTHER_PLAN);
    osb.update(&id, &third).await.expect(202);
    osb.succeeded(&id).await;
    osb.unmake(&id).await;
    stack.assert_gone(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_with_patroni_3() {
    another_master_key(Patroni::Distribution).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_with_patroni_4() {
    another_master_key(Patroni::Four).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_off_meanwhile_comes_back_and_takes_them_over() {
    let mut stack = stack(vec!["z1", "z2"], Patroni::Distribution).await;
    let before = stack.keys();
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let id = instance.id.clone();
    let leader = instance.stands(1, true).await;
    let old = passwords(instance.stack, &id);
    let replica = 1 - instance.cell_of(&leader.name);
    instance.stack.cells[replica].cut_power();

    let refused = rotate(instance.stack, "no-such-instance").await;
    assert!(
        text(&refused.stdout).contains("there is no such instance"),
        "{refused:?}"
    );
    let failed = rotate(instance.stack, &id).await;
    assert!(!failed.status.success());
    let told = text(&failed.stdout);
    assert!(told.contains("not finished in time"), "{told}");
    let last = instance.stack.osb().last_operation(&id).await;
    assert_eq!(last.expect(200).body["state"], "failed");
    // It still works: the broker knows both.
    let osb = instance.stack.osb();
    let body = json!({"service_id": SERVICE, "plan_id": OTHER_PLAN});
    osb.bind_with(&id, "b", &body).await.expect(200);

    instance.stack.cells[replica].server.restart().await;
    eventually("former passwords are given up", OPERATION, async || {
        let record = instance.stack.record(&id).unwrap();
        record.former_credentials.is_none().then_some(())
    })
    .await;
    instance.stands(1, true).await;
    let new = passwords(instance.stack, &id);
    have_changed(&instance, &old, &new).await;
    osb.unmake(&id).await;
    stack.assert_gone(&before).await;
}

/// The node of a cluster of two that is not this one.
fn other_than(instance: &Instance<'_>, node: &str) -> String {
    let record = instance.stack.record(&instance.id).unwrap();
    let mut nodes = record.nodes.keys().map(ToString::to_string);
    nodes.find(|other| other != node).unwrap()
}

/// One of a node's processes, by a part of its command line.
fn process_of(instance: &Instance<'_>, node: &str, command: &str) -> Option<Process> {
    let processes = instance.processes_of(node).into_iter();
    processes
        .into_iter()
        .find(|process| process.command.contains(command))
}

/// A replica's Patroni has the new passwords, its PostgreSQL has not received them, and neither lets the other in: only
/// a PostgreSQL that is started anew can follow the leader, from where they come.
async fn locked_out(patroni: Patroni) {
    let mut stack = stack(vec!["z1", "z2"], patroni).await;
    let before = stack.keys();
    let instance = Instance::make(&mut stack, PLAN, 2).await;
    let id = instance.id.clone();
    let leader = instance.stands(1, false).await;
    let old = passwords(instance.stack, &id);
    let replica = other_than(&instance, &leader.name);
    process_of(&instance, &replica, "walreceiver").unwrap().freeze();

    let failed = rotate(instance.stack, &id).await;
    let told = text(&failed.stdout);
    assert!(told.contains("not every replica has received them"), "{failed:?}");
    process_of(&instance, &replica, "patroni.yml").unwrap().kill();
    eventually("former passwords are given up", OPERATION, async || {
        let record = instance.stack.record(&id).unwrap();
        record.former_credentials.is_none().then_some(())
    })
    .await;
    assert_eq!(instance.stands(1, false).await.name, leader.name);
    let new = passwords(instance.stack, &id);
    have_changed(&instance, &old, &new).await;
    instance.stack.osb().unmake(&id).await;
    stack.assert_gone(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_locked_out_is_started_anew_with_patroni_3() {
    locked_out(Patroni::Distribution).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_locked_out_is_started_anew_with_patroni_4() {
    locked_out(Patroni::Four).await;
}
