//! What clients see while all is well.

use std::{sync::atomic::Ordering::SeqCst, time::Instant};

use shared::keyspace;

use super::bench::{Bench, PATIENCE, Server, Session, leads_nowhere, leads_to, port, reached};
use tests::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_follow_the_leader_key() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let mut first = leads_to(port, &a).await;
    let mut second = Session::open(port).await.unwrap();
    assert_eq!(second.server, "a");

    let before = Instant::now();
    bench.keys.lead("i1", &b).await;
    first.ends().await;
    let took = before.elapsed();
    second.ends().await;
    leads_to(port, &b).await;
    println!("sessions of the former leader ended {took:?} after the write began");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_port_of_an_older_router_is_served() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    bench.keys.set(&keyspace::port(port), "i1").await;
    leads_to(port, &a).await;
    bench.keys.lead("i1", &b).await;
    leads_to(port, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_connections_are_closed_at_once_and_sessions_end() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.member("i1", &a, "replica").await;
    bench.keys.member("i1", &b, "replica").await;
    bench.keys.allocate("i1", port).await;
    eventually("the port is listened on", PATIENCE, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port.number()))
            .await
            .ok()
    })
    .await;
    assert_eq!(reached(port).await, None);

    bench.keys.lead("i1", &b).await;
    let mut session = leads_to(port, &b).await;
    bench.keys.remove("/service/i1/leader").await;
    session.ends().await;
    leads_nowhere(port).await;
    bench.keys.lead("i1", &a).await;
    leads_to(port, &a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_served_when_its_promotion_has_ended() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let mut session = leads_to(port, &a).await;
    b.writable.store(false, SeqCst);
    bench.keys.lead("i1", &b).await;
    session.ends().await;
    for _ in 0..50 {
        assert_eq!(reached(port).await, None);
    }
    // Nor by a router that has just been started.
    bench.router.take().unwrap().stop().await;
    bench.start_router().await;
    for _ in 0..50 {
        assert_eq!(reached(port).await, None);
    }
    b.writable.store(true, SeqCst);
    let mut session = leads_to(port, &b).await;

    // What it says of itself a moment later is no news, but that it has become a standby again is.
    bench.keys.member("i1", &b, "primary").await;
    let other = super::bench::port();
    bench.keys.cluster("i2", other, &a, &b).await;
    leads_to(other, &a).await;
    assert!(session.is_open());
    b.writable.store(false, SeqCst);
    bench.keys.member("i1", &b, "replica").await;
    session.ends().await;
    assert_eq!(reached(port).await, None);
    b.writable.store(true, SeqCst);
    leads_to(port, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_patroni_cannot_be_asked_is_served_all_the_same() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    leads_to(port, &a).await;
    let value = format!(
        r#"{{"conn_url":"postgres://{}/postgres","api_url":"http://127.0.0.1:{}/patroni","state":"running","role":"replica"}}"#,
        b.address,
        tests::ports::free_port()
    );
    bench.keys.set("/service/i1/members/b", &value).await;
    bench.keys.lead("i1", &b).await;
    leads_to(port, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_refuses_no_connection_ends_no_session_and_forgets_no_stale_one() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let mut old = leads_to(port, &a).await;
    let workers = bench.directory.haproxies();

    // Connections all the time, while instances come and go.
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let clients = tokio::spawn(async move {
        let mut count = 0;
        while ended.try_recv().is_err() {
            assert_eq!(Session::open(port).await.unwrap().server, "a");
            count += 1;
        }
        count
    });
    for round in 0..3 {
        let (instance, port) = (format!("other-{round}"), super::bench::port());
        bench.keys.cluster(&instance, port, &b, &a).await;
        leads_to(port, &b).await;
        bench.keys.release(&instance, port).await;
        leads_nowhere(port).await;
    }
    end.send(()).unwrap();
    let count = clients.await.unwrap();
    assert!(old.is_open());
    assert_ne!(workers, bench.directory.haproxies(), "there was no reload");
    println!("{count} connections during reloads");

    // The session lives in a worker that was replaced. It ends with the rest.
    bench.keys.lead("i1", &b).await;
    old.ends().await;
    leads_to(port, &b).await;
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_failovers_reload_nothing() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    leads_to(port, &a).await;
    let processes = bench.settled().await;
    for round in 0..20 {
        let leader = if round % 2 == 0 { &b } else { &a };
        bench.keys.member("i1", &a, "replica").await;
        bench.keys.member("i1", &b, "primary").await;
        bench.keys.lead("i1", leader).await;
        leads_to(port, leader).await;
    }
    assert_eq!(processes, bench.directory.haproxies());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_nothing() {
    let mut bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    let mut session = leads_to(port, &a).await;
    bench.router.take().unwrap().stop().await;
    session.ends().await;
    assert_eq!(bench.directory.haproxies(), []);
    assert_eq!(bench.files(), Vec::<String>::new());
    // Another one can begin at once.
    bench.start_router().await;
    leads_to(port, &a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_may_be_host_names_or_have_credentials_in_their_address() {
    let bench = Bench::start().await;
    let (a, b, port) = (Server::start("a").await, Server::start("b").await, port());
    bench.keys.cluster("i1", port, &a, &b).await;
    leads_to(port, &a).await;
    let number = b.address.port();
    let value =
        format!(r#"{{"conn_url":"postgres://user:p%40ss@localhost:{number}/postgres","role":"master"}}"#);
    bench.keys.set("/service/i1/members/b", &value).await;
    bench.keys.lead("i1", &b).await;
    let mut session = leads_to(port, &b).await;
    // A name that is not known leads nowhere, and disturbs no other.
    let value = r#"{"conn_url":"postgres://nobody.invalid:5432/postgres","role":"master"}"#;
    bench.keys.set("/service/i1/members/b", value).await;
    session.ends().await;
    leads_nowhere(port).await;
    bench.keys.lead("i1", &a).await;
    leads_to(port, &a).await;
}
