//! The handlers as they are deployed: each a binary behind the Lambda runtime API and a gateway, configured by its
//! environment alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use tempfile::TempDir;
use tests::{
    gateway::{Call, Format},
    osb::{Answer, SERVICE, fresh_id, nodes},
    ports::free_port,
    runtime_api::Function,
    stack::function_variables,
};

const FORMATS: [Format; 3] = [Format::Rest, Format::Http, Format::HttpInBase64];

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
    for format in FORMATS {
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
    for format in FORMATS {
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

#[tokio::test]
async fn every_endpoint_is_a_function() {
    let instance = "/v2/service_instances/{instance_id}";
    let binding = "/v2/service_instances/{instance_id}/service_bindings/{binding_id}";
    let last_operation = "/v2/service_instances/{instance_id}/last_operation";
    let last_binding_operation =
        "/v2/service_instances/{instance_id}/service_bindings/{binding_id}/last_operation";
    let endpoints = [
        ("fetch_instance", "GET", instance),
        ("deprovision", "DELETE", instance),
        ("last_operation", "GET", last_operation),
        ("bind", "PUT", binding),
        ("fetch_binding", "GET", binding),
        ("unbind", "DELETE", binding),
        ("last_binding_operation", "GET", last_binding_operation),
    ];
    for (name, method, route) in endpoints {
        let (function, _directory) = lonely(name).await;
        let call = Call::new(method, route)
            .parameter("instance_id", &fresh_id())
            .parameter("binding_id", &fresh_id())
            .query("accepts_incomplete", "true")
            .query("service_id", SERVICE)
            .query("plan_id", tests::osb::PLAN)
            .body(&json!({"service_id": SERVICE, "plan_id": tests::osb::PLAN}).to_string());
        assert_try_again(&call.to(&function, Format::Http).await);
        let unauthorized = call.header("authorization", "");
        unauthorized.to(&function, Format::Rest).await.expect(401);
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
