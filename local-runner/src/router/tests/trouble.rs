//! What clients see while something else goes wrong.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use shared::{ids::Port, keyspace};
use tests::wait::eventually;
use tokio::net::TcpListener;

use super::bench::{
    Bench, PATIENCE, Running, Server, Session, leads_nowhere, leads_to, port, reached, settings,
};
use crate::router::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_has_harms_no_other_and_is_taken_up_when_it_is_free() {
    let bench = Bench::start().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let (taken, free) = (port(), port());
    let intruder = TcpListener::bind(("127.0.0.1", taken.number())).await.unwrap();
    bench.keys.cluster("i1", taken, &a, &b).await;
    bench.keys.cluster("i2", free, &b, &a).await;
    let session = leads_to(free, &b).await;
    // Also after a restart of everything.
    kill_process(bench.directory.master(), Signal::KILL).unwrap();
    leads_to(free, &b).await;
    drop(session);
    drop(intruder);
    leads_to(taken, &a).await;
    leads_to(free, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_away_all_goes_on() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let session = leads_to(port, &a).await;

    bench.etcd.kill();
    for _ in 0..20 {
        assert_eq!(reached(port).await.as_deref(), Some("a"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.etcd.restart().await;
    bench.keys.lead("i1", &b).await;
    leads_to(port, &b).await;
    assert!(!session.is_open());

    bench.etcd.pause();
    assert_eq!(reached(port).await.as_deref(), Some("b"));
    bench.etcd.resume();
    bench.keys.lead("i1", &a).await;
    leads_to(port, &a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_key_that_expires_during_an_outage_cuts_nobody_off_and_a_new_leader_counts() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let key = "/service/i1/leader";
    let ttl = Some(Duration::from_secs(1));
    shared::store::Store::set(&*bench.keys.0, key, "a", ttl)
        .await
        .unwrap();
    let mut session = leads_to(port, &a).await;
    bench.etcd.kill();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    bench.etcd.restart().await;
    eventually("the leader key has expired", PATIENCE, async || {
        let entry = shared::store::Store::get(&*bench.keys.0, key, shared::store::Read::Quorum).await;
        entry.unwrap().is_none().then_some(())
    })
    .await;
    // Another instance shows that the router has caught up.
    let other = super::bench::port();
    bench.keys.cluster("i2", other, &b, &a).await;
    leads_to(other, &b).await;
    assert!(session.is_open());
    assert_eq!(reached(port).await.as_deref(), Some("a"));
    // It says that it is not the primary any more.
    bench.keys.member("i1", &a, "replica").await;
    session.ends().await;
    leads_nowhere(port).await;
    bench.keys.lead("i1", &b).await;
    leads_to(port, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_is_started_again_when_it_is_killed() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    for master in [true, false] {
        let mut session = leads_to(port, &a).await;
        let processes = bench.directory.haproxies();
        let victim = processes.iter().find(|process| process.master == master).unwrap();
        let before = std::time::Instant::now();
        kill_process(victim.pid, Signal::KILL).unwrap();
        session.ends().await;
        leads_to(port, &a).await;
        println!(
            "served again {:?} after the kill (master: {master})",
            before.elapsed()
        );
    }
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_is_replaced() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    leads_to(port, &a).await;
    let processes = bench.directory.haproxies();
    let worker = processes.iter().find(|process| !process.master).unwrap();
    kill_process(worker.pid, Signal::STOP).unwrap();
    bench.keys.lead("i1", &b).await;
    eventually("the port leads to b", PATIENCE, async || {
        let session = tokio::time::timeout(Duration::from_millis(200), Session::open(port)).await;
        (session.ok()?.ok()?.server == "b").then_some(())
    })
    .await;
    kill_process(worker.pid, Signal::CONT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_values_harm_nobody_else() {
    let bench = Bench::without_router().await;
    let (a, b, fine) = (Server::start("a").await, Server::start("b").await, port());
    let (unowned, foreign, garbled) = (port(), port(), port());
    let keys = &bench.keys;
    for (key, value) in [
        ("/routing/allocation/c1", "not a port"),
        ("/routing/allocation/c2", "0"),
        ("/routing/allocation/c3", "99999"),
        ("/routing/allocation/-c4", "31000"),
        ("/routing/ports/x", "y"),
        ("/routing/nextport", "?"),
        ("/service/c5/members/a", "{"),
        ("/service/c5/leader", "a"),
        ("/service/-c6/leader", "a"),
        ("/service/lonely", "a"),
    ] {
        keys.set(key, value).await;
    }
    keys.allocate("c5", garbled).await;
    keys.set("/routing/allocation/c7", &unowned.to_string()).await;
    keys.allocate("c8", foreign).await;
    keys.set(
        &keyspace::port(foreign),
        &format!("other {}", super::bench::INCARNATION),
    )
    .await;
    keys.cluster("i1", fine, &a, &b).await;
    let mut bench = bench;
    bench.start_router().await;
    leads_to(fine, &a).await;
    let listens = async |port: Port| {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", port.number())).await;
        connected.is_ok()
    };
    assert!(!listens(unowned).await);
    assert!(!listens(foreign).await);
    assert!(listens(garbled).await);
    assert_eq!(reached(garbled).await, None);
    // What is set right is served.
    let keys = &bench.keys;
    keys.member("c5", &a, "primary").await;
    leads_to(garbled, &a).await;
    keys.cluster("c7", unowned, &b, &a).await;
    leads_to(unowned, &b).await;
}

/// Takes a port just before HAProxy starts or reloads, when it is known to be free.
const INTRUDER: &str = r#"#!/bin/bash
if [ -f ../intrude ]; then
    exec 250< <(exec /usr/bin/python3 -c '
import os, socket, sys, time
os.closerange(3, 1000)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
time.sleep(4)' "$(cat ../intrude)")
    read -u 250; exec 250<&-
fi
exec -a "$0" /usr/sbin/haproxy "$@"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_in_the_last_moment_harms_no_other() {
    let mut bench = Bench::without_router().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let (before, taken, after) = (port(), port(), port());
    bench.keys.cluster("i1", before, &a, &b).await;
    let outside = bench.directory.path().parent().unwrap().to_owned();
    std::fs::create_dir_all(&outside).unwrap();
    let wrapper = outside.join("haproxy");
    std::fs::write(&wrapper, INTRUDER).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = Settings {
        haproxy: wrapper,
        ..settings(&bench.directory.path())
    };
    let router = Running::start_with(settings, &bench.keys).await.ready().await;
    bench.router = Some(router);
    let session = leads_to(before, &a).await;

    std::fs::write(outside.join("intrude"), taken.to_string()).unwrap();
    bench.keys.cluster("i2", taken, &a, &b).await;
    bench.keys.cluster("i3", after, &b, &a).await;
    leads_to(after, &b).await;
    leads_to(before, &a).await;
    assert!(session.is_open());
    assert_eq!(reached(taken).await, None);
    // The same at a start.
    kill_process(bench.directory.master(), Signal::KILL).unwrap();
    leads_to(after, &b).await;
    leads_to(before, &a).await;
}
