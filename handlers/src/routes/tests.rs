//! A handler that panics, as its client and the next one see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lambda_http::{Body, Response, http};
use serde_json::{Value, json};
use shared::config::Config;

use super::{App, Request, Route, Success};
use crate::front_door;

const EXAMPLE: &str = include_str!("../../../config/bosh-lite.example.yml");

/// Panics, unless the request has a body.
static FRAGILE: Route = Route {
    name: "fragile",
    method: "PUT",
    path: "/v2/fragile",
    handler: |_, request| {
        Box::pin(async move {
            if request.body().is_empty() {
                panic!("no {}", "body");
            }
            Ok(Success::ok(json!({})))
        })
    },
};

fn request(body: &str) -> Request {
    http::Request::put("/v2/fragile")
        // starkandwayne:starkandwayne
        .header("Authorization", "Basic c3RhcmthbmR3YXluZTpzdGFya2FuZHdheW5l")
        .header("X-Broker-API-Version", "2.17")
        .header("X-Broker-API-Request-Identity", "one")
        .body(Body::from(body))
        .unwrap()
}

fn assert_answer(response: &Response<Body>, status: u16) -> Value {
    assert_eq!(response.status(), status, "{response:?}");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-broker-api-request-identity"], "one");
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_next_request_is_handled() {
    let config = Config::parse("the example", EXAMPLE, []).unwrap();
    let app = App::new(config).unwrap();
    for _ in 0..2 {
        let answer = front_door::pass(&app, &FRAGILE, request("")).await;
        let body = assert_answer(&answer, 500);
        let description = body["description"].as_str().unwrap();
        assert!(description.contains("broker failed"), "{description}");
        assert!(!description.contains("no body"), "what it said is for the log");

        let answer = front_door::pass(&app, &FRAGILE, request("{}")).await;
        assert_eq!(assert_answer(&answer, 200), json!({}));
    }
}
