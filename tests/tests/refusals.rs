//! What a strict broker refuses: each with its status and reason, and with nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tests::{
    gateway::{Format, Gateway},
    keys::Keys,
    osb::{Answer, OTHER_PLAN, Osb, PLAN, SERVICE, USER, fresh_id, nodes, send},
    raw,
    stack::{Options, Stack},
};

/// Two cells, and no router: nothing is ever made here.
async fn stack() -> Stack {
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        router: false,
        ..Options::default()
    })
    .await
}

/// Sends a request that must be refused with this status, with a description that holds this text, leaving nothing.
async fn refused(stack: &Stack, request: RequestBuilder, status: u16, text: &str) -> Answer {
    let before = stack.keys();
    let shown = format!("{request:?}");
    let answer = send(request).await;
    assert_eq!(answer.status, status, "{shown}: {}", answer.text);
    assert!(
        answer.description().contains(text),
        "{text:?} is not in {}",
        answer.text
    );
    stack.assert_unchanged(&before, &shown);
    answer
}

fn put(osb: &Osb, body: &Value) -> RequestBuilder {
    let path = format!("/v2/service_instances/{}?accepts_incomplete=true", fresh_id());
    osb.request(Method::PUT, &path).json(body)
}

/// The body of a good request, with one field replaced; `null` takes it away.
fn body_with(field: &str, value: Value) -> Value {
    let mut body = nodes(2);
    body[field] = value;
    body
}

fn word(answer: &Answer) -> &str {
    answer.body["error"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn requests_that_break_the_rules() {
    let stack = stack().await;
    let osb = &stack.osb();
    what_handlers_refuse(&stack, osb).await;
    refused(&stack, osb.request(Method::GET, "/v2/nothing"), 404, "endpoint").await;
    refused(&stack, osb.request(Method::POST, "/v2/catalog"), 405, "method").await;
}

/// The same of the functions. What is no endpoint is the gateway's to refuse.
#[tokio::test]
async fn functions_refuse_what_breaks_the_rules() {
    let stack = stack().await;
    let variables = stack.function_variables(stack.etcd.url());
    let logs = stack.directory().join("logs");
    for format in Format::ALL {
        let gateway = Gateway::start(format, &variables, &logs).await;
        what_handlers_refuse(&stack, &Osb::new(gateway.url())).await;
    }
}

async fn what_handlers_refuse(stack: &Stack, osb: &Osb) {
    credentials_come_before_the_version(stack, osb).await;
    versions(stack, osb).await;
    bodies(stack, osb).await;
    node_counts(stack, osb).await;
    operations_that_cannot_wait(stack, osb).await;
    ids(stack, osb).await;
    what_is_not_there(stack, osb).await;
}

async fn credentials_come_before_the_version(stack: &Stack, osb: &Osb) {
    let path = &format!("/v2/service_instances/{}?accepts_incomplete=true", fresh_id());
    let bare = || {
        osb.bare(Method::PUT, path)
            .header("X-Broker-API-Version", "nonsense")
    };
    let requests = [
        bare(),
        bare().basic_auth(USER, Some("wrong")),
        bare().basic_auth("wrong", Some(USER)),
        bare().basic_auth(USER, Some("")),
        bare().bearer_auth(USER),
        bare().header("Authorization", "Basic ?"),
        osb.bare(Method::GET, "/v2/catalog"),
    ];
    for request in requests {
        let answer = refused(stack, request, 401, "").await;
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Basic realm="), "{answer:?}");
    }
}

async fn versions(stack: &Stack, osb: &Osb) {
    let request = |path: &str| osb.bare(Method::GET, path).basic_auth(USER, Some(USER));
    refused(stack, request("/v2/catalog"), 412, "is missing").await;
    for version in ["", "2", "1.17", "3.0", "2.x", "2.-1", "two"] {
        let request = request("/v2/catalog").header("X-Broker-API-Version", version);
        refused(stack, request, 412, "2.17").await;
    }
    for version in ["2.0", "2.13", "2.17", "2.99"] {
        let request = request("/v2/catalog").header("X-Broker-API-Version", version);
        send(request).await.expect(200);
    }
}

async fn bodies(stack: &Stack, osb: &Osb) {
    let path = &format!("/v2/service_instances/{}?accepts_incomplete=true", fresh_id());
    let raw = |text: &'static str| {
        let request = osb.request(Method::PUT, path);
        request.header("Content-Type", "application/json").body(text)
    };
    for text in ["", "{", "{\"service_id\": }", "nonsense", "{} {}", "\u{feff}{}"] {
        refused(stack, raw(text), 400, "not valid JSON").await;
    }
    // Values for all fields of a provision, in their order.
    for text in [
        "[]",
        "7",
        "\"text\"",
        "null",
        r#"["s","p","o","s",{},{},{},true]"#,
    ] {
        refused(stack, raw(text), 400, "must be a JSON object").await;
    }
    for text in [r#"{"service_id": 7}"#, r#"{"parameters": "text"}"#] {
        refused(stack, raw(text), 400, "does not fit").await;
    }
    let form = osb.request(Method::PUT, path).body(nodes(2).to_string());
    let form = form.header("Content-Type", "application/x-www-form-urlencoded");
    refused(stack, form, 400, "Content-Type").await;

    for field in ["service_id", "plan_id", "organization_guid", "space_guid"] {
        for value in [Value::Null, json!("")] {
            let answer = refused(stack, put(osb, &body_with(field, value)), 400, field).await;
            assert!(answer.description().contains("missing"), "{}", answer.text);
        }
    }
    refused(
        stack,
        put(osb, &body_with("service_id", json!("x"))),
        400,
        "service",
    )
    .await;
    refused(stack, put(osb, &body_with("plan_id", json!("x"))), 400, "plan").await;
    let unknown = json!({"node-count": 2, "nodes": 2});
    refused(stack, put(osb, &body_with("parameters", unknown)), 400, "'nodes'").await;
    let maintenance = body_with("maintenance_info", json!({"version": "1.0.0"}));
    let answer = refused(stack, put(osb, &maintenance), 422, "maintenance_info").await;
    assert_eq!(word(&answer), "MaintenanceInfoConflict");

    let path = format!("/v2/service_instances/{0}/service_bindings/{0}", fresh_id());
    for missing in ["service_id", "plan_id"] {
        let mut body = json!({"service_id": SERVICE, "plan_id": PLAN});
        body[missing] = Value::Null;
        refused(stack, osb.request(Method::PUT, &path).json(&body), 400, missing).await;
    }
}

async fn node_counts(stack: &Stack, osb: &Osb) {
    // Written as they are: 1e9 is not the same text as 1000000000.
    let counts = [
        ("0", "but is 0"),
        ("-1", "but is -1"),
        ("9", "from 1 to 8"),
        ("1.9", "whole number"),
        ("\"2\"", "whole number"),
        ("1e9", "whole number"),
        ("1e300", "whole number"),
        ("18446744073709551616", "node-count"),
        ("true", "whole number"),
        ("null", "whole number"),
        ("[2]", "whole number"),
        ("{}", "whole number"),
    ];
    let path = &format!("/v2/service_instances/{}?accepts_incomplete=true", fresh_id());
    for (count, reason) in counts {
        let text = nodes(7).to_string().replace(":7", &format!(":{count}"));
        assert!(text.contains(&format!(":{count}}}")), "{text}");
        let request = osb
            .request(Method::PUT, path)
            .header("Content-Type", "application/json");
        let answer = refused(stack, request.body(text), 400, reason).await;
        assert!(answer.description().contains("node-count"), "{}", answer.text);
    }
    let answer = refused(
        stack,
        put(osb, &nodes(3)),
        422,
        "3 nodes need 3 cells, and 2 are there",
    )
    .await;
    assert_eq!(word(&answer), "");
}

async fn operations_that_cannot_wait(stack: &Stack, osb: &Osb) {
    let path = format!("/v2/service_instances/{}", fresh_id());
    let ids = format!("service_id={SERVICE}&plan_id={PLAN}");
    for query in ["", "&accepts_incomplete=false", "&accepts_incomplete="] {
        let put = osb
            .request(Method::PUT, &format!("{path}?{query}"))
            .json(&nodes(2));
        let delete = osb.request(Method::DELETE, &format!("{path}?{ids}{query}"));
        for request in [put, delete] {
            let answer = refused(stack, request, 422, "accepts_incomplete").await;
            assert_eq!(word(&answer), "AsyncRequired");
        }
    }
    // In the body it counts for lenient brokers only.
    let request = osb.request(Method::PUT, &path);
    let request = request.json(&body_with("accepts_incomplete", json!(true)));
    refused(stack, request, 422, "accepts_incomplete").await;
}

async fn ids(stack: &Stack, osb: &Osb) {
    let long = "a".repeat(129);
    let unfit = [
        "a%2Fb", "..%2Fx", "_hidden", ".x", "-x", "a%20b", "a%00", "%C3%A4", "a+b", "a~b", "%25", &long,
    ];
    for id in unfit {
        let instance = format!("/v2/service_instances/{id}");
        let ids = format!("accepts_incomplete=true&service_id={SERVICE}&plan_id={PLAN}");
        let requests = [
            osb.request(Method::PUT, &format!("{instance}?{ids}"))
                .json(&nodes(2)),
            osb.request(Method::DELETE, &format!("{instance}?{ids}")),
            osb.request(Method::GET, &format!("{instance}/last_operation")),
            osb.request(Method::PUT, &format!("{instance}/service_bindings/b"))
                .json(&json!({"service_id": SERVICE, "plan_id": PLAN})),
            osb.request(Method::DELETE, &format!("{instance}/service_bindings/b?{ids}")),
            osb.request(
                Method::DELETE,
                &format!("/v2/service_instances/i/service_bindings/{id}?{ids}"),
            ),
        ];
        for request in requests {
            refused(stack, request, 400, "id").await;
        }
    }
    // What every decent client takes for a way up, sent by one that is not.
    for id in ["..", "%2e%2e", "."] {
        let before = stack.keys();
        let target = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let body = nodes(2).to_string();
        let answer = raw::request(osb.address(), "PUT", &target, &osb.raw_headers(), &body).await;
        assert_eq!(answer.status, 400, "{id}: {}", answer.text);
        stack.assert_unchanged(&before, id);
    }
}

async fn what_is_not_there(stack: &Stack, osb: &Osb) {
    let ids = format!("service_id={SERVICE}&plan_id={PLAN}");
    let instance = &format!("/v2/service_instances/{}", fresh_id());
    let binding = &format!("{instance}/service_bindings/{}", fresh_id());
    let delete = |path: &str, query: &str| osb.request(Method::DELETE, &format!("{path}?{query}"));
    let get = |query: &str| osb.request(Method::GET, &format!("{instance}/last_operation{query}"));

    let bind = osb.request(Method::PUT, binding);
    let bind = bind.json(&json!({"service_id": SERVICE, "plan_id": PLAN}));
    refused(stack, bind, 404, "no such instance").await;
    let gone = [
        delete(instance, &format!("{ids}&accepts_incomplete=true")),
        delete(binding, &ids),
        get("?operation=deprovision-1"),
    ];
    for request in gone {
        let answer = refused(stack, request, 410, "").await;
        assert_eq!(answer.text, "{}\n");
    }
    for query in ["", "?operation=provision-1", "?operation=nonsense"] {
        refused(stack, get(query), 404, "no such instance").await;
    }
    for missing in ["service_id", "plan_id"] {
        let query = format!("{ids}&accepts_incomplete=true").replace(missing, "ignored");
        refused(stack, delete(instance, &query), 400, missing).await;
    }
}

#[tokio::test]
async fn answers_repeat_the_identity_of_the_request() {
    let stack = stack().await;
    let osb = stack.osb();
    let identity = "e26cee84-6b38-4456-b34e-d1a9f002c956";
    let instance = format!("/v2/service_instances/{}", fresh_id());
    let requests = [
        (osb.request(Method::GET, "/v2/catalog"), 200),
        (osb.bare(Method::GET, "/v2/catalog"), 401),
        (
            osb.bare(Method::GET, "/v2/catalog").basic_auth(USER, Some(USER)),
            412,
        ),
        (osb.request(Method::PUT, &instance).body("{"), 400),
        (osb.request(Method::PUT, &instance).json(&nodes(2)), 422),
        (
            osb.request(Method::GET, &format!("{instance}/last_operation")),
            404,
        ),
    ];
    for (request, status) in requests {
        let answer = send(request.header("X-Broker-API-Request-Identity", identity)).await;
        answer.expect(status);
        assert_eq!(
            answer.header("x-broker-api-request-identity"),
            Some(identity),
            "{status}"
        );
    }
    let answer = osb.catalog().await;
    assert_eq!(answer.header("x-broker-api-request-identity"), None);
}

#[tokio::test]
async fn the_catalog_is_the_configured_one() {
    let stack = stack().await;
    let before = Keys::below(&stack.etcd, "");
    let answer = stack.osb().catalog().await;
    answer.expect(200);
    let service = &answer.body["services"][0];
    assert_eq!(service["id"], SERVICE);
    let plans: Vec<_> = service["plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| &plan["id"])
        .collect();
    assert_eq!(plans, [PLAN, OTHER_PLAN]);
    assert!(
        service["plans"][0].get("cluster").is_none(),
        "what is inside is not shown"
    );
    assert_eq!(Keys::below(&stack.etcd, ""), before);
}
