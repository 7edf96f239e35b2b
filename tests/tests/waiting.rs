//! Clients that wait, as people with curl do: a lenient broker, on a busy machine, with PostgreSQL's durable settings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use reqwest::Method;
use serde_json::{Value, json};
use tests::{
    load::Load,
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes, send},
    psql::Session,
    stack::{Options, Stack},
};
use tokio::task::JoinSet;

/// How many instances are made; more of them with this variable.
const TIMES: u32 = 5;
/// How many of them are under way at once: most of the time is spent in waiting.
const AT_ONCE: usize = 5;
const VARIABLE: &str = "SYNCHRONOUS_PROVISIONS";

#[expect(clippy::disallowed_methods, reason = "it configures the test, not the broker")]
fn times() -> u32 {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => TIMES,
    }
}

async fn stack() -> Stack {
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        lenient: true,
        durable: true,
        ..Options::default()
    })
    .await
}

/// What curl sends: the type of a form, and nothing that a person would leave out.
fn curl(osb: &Osb, method: Method, path: &str, body: &Value) -> reqwest::RequestBuilder {
    let request = osb
        .bare(method, path)
        .basic_auth(tests::osb::USER, Some(tests::osb::USER));
    request
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(body.to_string())
}

/// Makes an instance, binds it and connects to it: all of this at once, one after the other, and each only once.
async fn make_and_use(osb: Osb, instance: String) {
    let ids = json!({"service_id": SERVICE, "plan_id": PLAN});
    let path = format!("/v2/service_instances/{instance}");
    let put = curl(&osb, Method::PUT, &path, &ids);
    let bind = curl(&osb, Method::PUT, &format!("{path}/service_bindings/b"), &ids);
    let query = format!("service_id={SERVICE}&plan_id={PLAN}");
    let delete = curl(&osb, Method::DELETE, &format!("{path}?{query}"), &json!({}));

    send(put).await.expect(201);
    let bound = send(bind).await;
    let session = Session::open(&bound.expect(201).body["credentials"]).await;
    let session = session.unwrap_or_else(|error| panic!("no connection: {error:?}"));
    session
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
        .await;

    osb.provision_and_wait(&instance, &worded_otherwise(&ids))
        .await
        .expect(200);
    assert_eq!(send(delete).await.expect(200).text, "{}\n");
}

#[tokio::test]
async fn a_cluster_takes_connections_once_its_put_is_answered() {
    let stack = stack().await;
    let before = stack.keys();
    let load = Load::start(stack.directory());
    let mut under_way = JoinSet::new();
    for _ in 0..times() {
        if under_way.len() == AT_ONCE {
            under_way.join_next().await.unwrap().unwrap();
        }
        under_way.spawn(make_and_use(stack.osb(), fresh_id()));
    }
    under_way.join_all().await;
    drop(load);
    stack.assert_gone(&before).await;
}

/// The same request, as another client words it.
fn worded_otherwise(ids: &Value) -> Value {
    let mut body = ids.clone();
    body["parameters"] = json!({});
    body
}

#[tokio::test]
async fn requests_that_wait_for_the_same_instance_end_together() {
    let stack = stack().await;
    let (one, two, three) = (stack.osb(), stack.osb(), stack.osb());
    let (instance, single) = (fresh_id(), nodes(1));
    let (first, second) = tokio::join!(
        one.provision_and_wait(&instance, &single),
        two.provision_and_wait(&instance, &single)
    );
    assert_eq!((first.status, second.status), (201, 201), "{first:?} {second:?}");
    let bound = three.bind(&instance, "b").await;
    Session::open(&bound.expect(201).body["credentials"])
        .await
        .unwrap();
    one.unmake(&instance).await;

    // What cannot be done at all is refused at once, to those who wait as well.
    two.provision_and_wait(&fresh_id(), &nodes(3)).await.expect(422);
    two.provision_and_wait(&fresh_id(), &nodes(9)).await.expect(400);
}
