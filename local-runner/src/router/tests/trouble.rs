//! What clients see while something else goes wrong.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use shared::{ids::Port, keyspace};
use tests::wait::eventually;
use tokio::net::TcpListener;

use super::bench::{Bench, PATIENCE, Server, Session, leads_nowhere, leads_to, port, reached};
use crate::router::{Router, Settings, error::RouterError};

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
    eventually("one HAProxy is left", PATIENCE, async || {
        (bench.directory.haproxies().len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_router_takes_over_the_haproxy_of_one_that_crashed() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let kept = leads_to(port, &a).await;
    let second = super::bench::port();
    bench.keys.cluster("i2", second, &a, &b).await;
    let mut stale = leads_to(second, &a).await;
    let master = bench.directory.master();

    bench.router.take().unwrap().crash().await;
    assert_eq!(reached(port).await.as_deref(), Some("a"));
    // What nobody has seen.
    bench.keys.lead("i2", &b).await;
    let third = super::bench::port();
    bench.keys.cluster("i3", third, &b, &a).await;

    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let clients = tokio::spawn(async move {
        while ended.try_recv().is_err() {
            assert_eq!(Session::open(port).await.unwrap().server, "a");
        }
    });
    bench.start_router().await;
    stale.ends().await;
    assert_eq!(reached(second).await.as_deref(), Some("b"));
    leads_to(third, &b).await;
    end.send(()).unwrap();
    clients.await.unwrap();
    assert!(kept.is_open());
    assert_eq!(bench.directory.master(), master);

    // And it looks after a process that is not its child.
    kill_process(master, Signal::KILL).unwrap();
    leads_to(port, &a).await;
    bench.router.take().unwrap().stop().await;
    assert_eq!(bench.directory.haproxies(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_haproxy_that_does_not_answer_is_replaced() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    leads_to(port, &a).await;
    bench.router.take().unwrap().crash().await;
    let master = bench.directory.master();
    for process in bench.directory.haproxies() {
        kill_process(process.pid, Signal::STOP).unwrap();
    }
    bench.start_router().await;
    leads_to(port, &a).await;
    assert_ne!(bench.directory.master(), master);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_second_router_does_not_start_in_the_same_directory() {
    let bench = Bench::start().await;
    let settings = Settings {
        bind_address: "127.0.0.1".parse().unwrap(),
        haproxy: "/usr/sbin/haproxy".into(),
        state_directory: bench.directory.path(),
        max_connections: 500,
    };
    let second = Router::start(settings, bench.keys.0.clone()).await;
    assert!(matches!(second, Err(RouterError::Busy { .. })));
    assert_eq!(bench.directory.haproxies().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_haproxy_no_router_starts() {
    let bench = Bench::without_router().await;
    let settings = Settings {
        bind_address: "127.0.0.1".parse().unwrap(),
        haproxy: "/nonexistent/haproxy".into(),
        state_directory: bench.directory.path(),
        max_connections: 500,
    };
    let router = Router::start(settings, bench.keys.0.clone()).await;
    assert!(matches!(router, Err(RouterError::Haproxy { .. })));
}
