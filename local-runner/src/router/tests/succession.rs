//! One router after the other: what the next one finds, and what a stop leaves.

use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::bench::{Bench, Running, Server, Session, leads_to, port, reached, settings};
use crate::router::{Router, Settings, error::RouterError};

#[tokio::test(flavor = "multi_thread")]
async fn the_next_router_takes_over_the_haproxy_of_one_that_crashed() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    // As after a failover: its member key does not say yet that it is the primary.
    bench.keys.member("i1", &a, "replica").await;
    bench.keys.lead("i1", &a).await;
    bench.keys.allocate("i1", port).await;
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
async fn a_router_that_starts_while_etcd_is_away_leaves_haproxy_alone_and_can_be_stopped() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let session = leads_to(port, &a).await;
    bench.router.take().unwrap().crash().await;
    bench.etcd.kill();

    let waiting = Running::start(&bench.directory.path(), &bench.keys).await;
    assert!(!waiting.is_ready());
    assert_eq!(reached(port).await.as_deref(), Some("a"));
    assert!(session.is_open());
    waiting.crash().await;

    let waiting = Running::start(&bench.directory.path(), &bench.keys).await;
    waiting.stop().await;
    assert_eq!(bench.directory.haproxies(), []);
    assert_eq!(bench.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_anything_leaves_nothing() {
    let mut bench = Bench::without_router().await;
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    for round in 0..6 {
        let router = Running::start(&bench.directory.path(), &bench.keys).await;
        bench.keys.cluster(&format!("i{round}"), port(), &a, &b).await;
        // In the middle of the start, of the gathering, or of the reload.
        tokio::time::sleep(Duration::from_millis(25 * round)).await;
        router.stop().await;
        assert_eq!(bench.directory.haproxies(), [], "{round}");
        assert_eq!(bench.files(), Vec::<String>::new(), "{round}");
    }
    bench.start_router().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_router_does_not_start_in_the_same_directory() {
    let bench = Bench::start().await;
    let second = Router::start(settings(&bench.directory.path()), bench.keys.0.clone()).await;
    assert!(matches!(second, Err(RouterError::Busy { .. })));
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_haproxy_no_router_starts() {
    let bench = Bench::without_router().await;
    let settings = Settings {
        haproxy: "/nonexistent/haproxy".into(),
        ..settings(&bench.directory.path())
    };
    let router = Router::start(settings, bench.keys.0.clone()).await;
    assert!(matches!(router, Err(RouterError::Haproxy { .. })));
}
