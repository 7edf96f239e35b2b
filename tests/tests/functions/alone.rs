//! Functions with nothing behind them, or with an etcd that is empty.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use handlers::routes;
use serde_json::json;
use tempfile::TempDir;
use tests::{
    etcd::EtcdServer,
    gateway::{Call, Format},
    osb::{Answer, PLAN, SERVICE, fresh_id, nodes},
    ports::free_port,
    request_log::RequestLog,
    runtime_api::Function,
    stack::function_variables,
};

/// A function without anything behind it, and the directory that its log is in.
async fn lonely(name: &str) -> (Function, TempDir) {
    let nothing = format!("http://127.0.0.1:{}", free_port());
    start(name, &function_variables(&nothing)).await
}

async fn start(name: &str, variables: &BTreeMap<String, String>) -> (Function, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("function.log");
    (Function::start(name, variables, &log).await, directory)
}

fn catalog() -> Call {
    Call::new("GET", "/v2/catalog")
}

fn provision(instance: &str, body: &str) -> Call {
    Call::new("PUT", "/v2/service_instances/{instance_id}")
        .parameter("instance_id", instance)
        .query("accepts_incomplete", "true")
        .body(body)
}

fn assert_try_again(answer: &Answer) {
    answer.expect(503);
    assert!(
        answer.description().contains("cannot reach its store"),
        "{}",
        answer.text
    );
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

#[tokio::test]
async fn the_catalog_needs_nothing_behind_it() {
    let (function, _directory) = lonely("catalog").await;
    for format in Format::ALL {
        let answer = catalog().to(&function, format).await;
        answer.expect(200);
        assert_eq!(answer.body["services"][0]["id"], SERVICE);

        let wrong = BASE64_STANDARD.encode("starkandwayne:wrong");
        let wrong = catalog().header("authorization", &format!("Basic {wrong}"));
        let answer = wrong.to(&function, format).await;
        answer.expect(401);
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");

        let old = catalog().header("x-broker-api-version", "1.0");
        old.to(&function, format).await.expect(412);

        let identity = catalog().header("x-broker-api-request-identity", "one");
        let answer = identity.to(&function, format).await;
        assert_eq!(answer.header("x-broker-api-request-identity"), Some("one"));
    }
}

#[tokio::test]
async fn a_provision_is_refused_and_told_to_try_again() {
    let (function, _directory) = lonely("provision").await;
    for format in Format::ALL {
        provision(&fresh_id(), "{")
            .to(&function, format)
            .await
            .expect(400);
        let unfit = provision("a%2Fb", &nodes(2).to_string());
        unfit.to(&function, format).await.expect(400);
        let nine = nodes(9).to_string();
        let answer = provision(&fresh_id(), &nine).to(&function, format).await;
        answer.expect(400);
        assert!(answer.description().contains("from 1 to 8"), "{}", answer.text);
        let good = nodes(2).to_string();
        assert_try_again(&provision(&fresh_id(), &good).to(&function, format).await);
    }
    // A function serves on after whatever it was asked.
    provision(&fresh_id(), "")
        .to(&function, Format::Http)
        .await
        .expect(400);
}

/// A good request of any endpoint: what one does not need does not disturb it.
fn of(route: &routes::Route) -> Call {
    let mut body = nodes(2);
    body["parameters"] = json!({});
    Call::new(route.method, route.path)
        .parameter("instance_id", &fresh_id())
        .parameter("binding_id", &fresh_id())
        .query("accepts_incomplete", "true")
        .query("service_id", SERVICE)
        .query("plan_id", PLAN)
        .body(&body.to_string())
}

#[tokio::test]
async fn every_endpoint_is_a_function() {
    for route in routes::ALL.into_iter().filter(|route| route.name != "catalog") {
        let (function, _directory) = lonely(route.name).await;
        let call = of(route);
        assert_try_again(&call.to(&function, Format::Http).await);
        let unauthorized = call.header("authorization", "");
        unauthorized.to(&function, Format::Rest).await.expect(401);
    }
}

#[tokio::test]
async fn functions_start_without_asking_anybody() {
    let etcd = EtcdServer::start().await;
    for name in routes::ALL
        .map(|route| route.name)
        .into_iter()
        .chain(["reconcile"])
    {
        let log = RequestLog::start(etcd.url()).await;
        let (function, _directory) = start(name, &function_variables(log.url())).await;
        function.ready().await;
        assert_eq!(log.connections(), 0, "{name} has connected to etcd");
    }
}

#[tokio::test]
async fn a_cold_function_reaches_etcd_with_one_connection() {
    let etcd = EtcdServer::start().await;
    for route in routes::ALL.into_iter().filter(|route| route.name != "catalog") {
        let log = RequestLog::start(etcd.url()).await;
        let (function, _directory) = start(route.name, &function_variables(log.url())).await;
        of(route).to(&function, Format::Http).await;
        let requests = log.take();
        assert_eq!(log.connections(), 1, "{}:\n{}", route.name, requests.join("\n"));
    }
}

#[tokio::test]
async fn a_function_that_lacks_something_says_what() {
    let whole = function_variables("http://127.0.0.1:1");
    for missing in ["BROKER_PASSWORD", "MASTER_KEY", "CATALOG_SERVICES"] {
        let mut variables = whole.clone();
        variables.remove(&format!("PATRONI_BROKER_{missing}"));
        let (function, _directory) = start("catalog", &variables).await;
        let said = function.ended().await;
        let named = [missing.to_owned(), missing.to_lowercase().replacen('_', ".", 1)];
        assert!(
            named.iter().any(|name| said.contains(name)),
            "{missing} is not in {said:?}"
        );
    }
}
