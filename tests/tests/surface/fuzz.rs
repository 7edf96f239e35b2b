//! Nothing from outside makes a handler panic: no request, nothing that stands in etcd, no answer of a cell, of Patroni or of
//! etcd. `make fuzz` takes longer.

mod answers;
mod documents;
mod stored;

use std::collections::BTreeMap;

use lambda_http::http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use shared::{
    ids::{BindingId, CellGuid, InstanceId, NodeId, Port},
    ports::Owner,
};
use tests::fuzz::fuzz;
use tokio::runtime::{Builder, Runtime};

use crate::{answer::Answer, request::Request, stage::Stage, table::Table};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Text, as far as bytes are.
fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// All leaves of a world in this situation.
fn leaves(situation: &str) -> BTreeMap<String, String> {
    let stage = runtime().block_on(Stage::new(&Table::load(), situation));
    let content = stage.world().store.content().into_iter();
    content.filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The values of the keys that hold this text.
fn samples(leaves: &BTreeMap<String, String>, part: &str) -> Vec<String> {
    let fits = leaves.iter().filter(|(key, _)| key.contains(part));
    let samples: Vec<String> = fits.map(|(_, value)| value.clone()).collect();
    assert!(!samples.is_empty(), "nothing at {part}: {:?}", leaves.keys());
    samples
}

fn borrowed(samples: &[String]) -> Vec<&str> {
    samples.iter().map(String::as_str).collect()
}

/// What no answer may be: that of a handler that has panicked.
fn assert_unharmed(answer: &Answer, why: &str) {
    assert!(!answer.text.contains("the broker failed"), "{why}: {answer:?}");
    assert!(
        answer.status == 304 || answer.text.ends_with('\n'),
        "{why}: {answer:?}"
    );
}

#[test]
fn ids() {
    let samples = [
        "f1",
        "10.244.21.8",
        "A_b-c.d",
        "30001",
        "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
        "f1 0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
    ];
    fuzz("ids", &samples, |input| {
        let text = text(input);
        let id: Option<InstanceId> = text.parse().ok();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=128).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(plain);
        assert_eq!(id.is_some(), fits, "{text:?}");
        assert_eq!(text.parse::<BindingId>().is_ok(), fits);
        assert_eq!(text.parse::<CellGuid>().is_ok(), fits);
        if let Ok(port) = text.parse::<Port>() {
            assert_ne!(port.number(), 0);
        }
        drop(text.parse::<NodeId>());
        drop(Owner::parse(&text));
        fits
    });
}

/// A request as a document, so that each of its parts is changed.
fn sample(request: &str) -> String {
    let request = Request::parse(request);
    let body = serde_json::from_str(&request.body).unwrap_or(Value::Null);
    json!({
        "route": request.route.unwrap(),
        "parameters": request.parameters,
        "query": request.query,
        "headers": request.headers,
        "body": body,
    })
    .to_string()
}

/// The request of such a document. What is none is sent as the body of a provision.
fn request(input: &[u8]) -> Request {
    let mut request = Request::parse("provision async");
    let Ok(document) = serde_json::from_slice::<Value>(input) else {
        request.body = text(input);
        return request;
    };
    let known = |route: &&handlers::routes::Route| json!([route.method, route.path]) == document["route"];
    if let Some(route) = handlers::routes::ALL.into_iter().find(known) {
        request.route = Some((route.method, route.path));
        route.method.clone_into(&mut request.method);
    }
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for name in ["instance_id", "binding_id"] {
        if let Some(value) = document["parameters"].get(name) {
            request.parameters.insert(name, shown(value));
        }
    }
    let fields = |name: &str| document[name].as_object().into_iter().flatten();
    request.query = fields("query")
        .map(|(name, value)| (name.clone(), shown(value)))
        .collect();
    let headers = fields("headers").map(|(name, value)| (name.clone(), shown(value)));
    // Others never come through HTTP.
    let sendable = |(name, value): &(String, String)| {
        name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok()
    };
    request.headers = headers.filter(sendable).collect();
    request.body = match &document["body"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    request
}

#[test]
fn requests() {
    let samples = [
        "catalog @if-none-match=\"x\"",
        "provision async context={\"platform\":\"x\"} maintenance_info={\"version\":\"1.0.0\"} accepts_incomplete=true",
        "provision async instance=i2 parameters={\"node-count\":2,\"cells\":[\"c1\",\"c2\"]}",
        "fetch",
        "update async parameters={\"node-count\":3} context={} previous_values={\"plan_id\":\"x\"}",
        "deprovision async",
        "poll ?operation=provision-1",
        "bind binding=b2 parameters={\"read_only\":true} bind_resource={\"app_guid\":\"a\"} context={}",
        "bind binding=b2 predecessor_binding_id=\"b1\"",
        "fetch-binding",
        "unbind",
        "poll-binding ?operation=unbind",
    ]
    .map(sample);
    let (runtime, table) = (runtime(), Table::load());
    fuzz("requests", &borrowed(&samples), |input| {
        let request = request(input);
        runtime.block_on(async {
            let mut stage = Stage::new(&table, "bound").await;
            let answer = stage.ask(&request).await;
            assert_unharmed(&answer, "a request");
            assert!(answer.status < 500, "{answer:?}");
            // Whatever it was, the next client is served.
            let next = stage.ask(&Request::parse("poll")).await;
            assert_eq!(next.status, 200, "{next:?}");
            answer.status < 300
        })
    });
}
