//! What requests cost in requests to etcd. The functions are counted: beside them nobody moves an instance on, so that this
//! also shows that polls alone finish what was begun.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use handlers::routes;
use serde_json::{Value, json};
use tests::{
    gateway::{Call, Format},
    osb::{Answer, OPERATION, PLAN, SERVICE, fresh_id, nodes},
    psql::Session,
    request_log::RequestLog,
    runtime_api::Function,
    stack::{Options, Stack},
    wait::eventually,
};

/// The functions of an installation, and the way to etcd that all of them take.
struct Functions {
    stack: Stack,
    log: RequestLog,
    running: BTreeMap<&'static str, Function>,
}

impl Functions {
    async fn start(options: Options) -> Self {
        let stack = Stack::start(Options {
            brokers: 0,
            ..options
        })
        .await;
        let log = RequestLog::start(stack.etcd.url()).await;
        let variables = stack.function_variables(log.url());
        let mut running = BTreeMap::new();
        for name in routes::ALL.map(|route| route.name) {
            let file = stack.directory().join(format!("logs/{name}.log"));
            running.insert(name, Function::start(name, &variables, &file).await);
        }
        Self { stack, log, running }
    }

    /// Calls a function; answers also the requests to etcd that it made.
    async fn call(&self, name: &str, instance: &str) -> (Answer, Vec<String>) {
        let route = routes::ALL.into_iter().find(|route| route.name == name).unwrap();
        let body = match name {
            "provision" => nodes(2),
            "bind" => json!({"service_id": SERVICE, "plan_id": PLAN}),
            _ => Value::Null,
        };
        let call = Call::new(route.method, route.path)
            .parameter("instance_id", instance)
            .parameter("binding_id", "b")
            .query("accepts_incomplete", "true")
            .query("service_id", SERVICE)
            .query("plan_id", PLAN)
            .body(&body.to_string());
        let before = self.log.take();
        assert_eq!(before, Vec::<String>::new(), "nothing goes on after an answer");
        let answer = call.to(&self.running[name], Format::Http).await;
        (answer, self.log.take())
    }

    async fn succeeded(&self, instance: &str) {
        eventually("the operation", OPERATION, async || {
            let (answer, _) = self.call("last_operation", instance).await;
            match answer.expect(200).body["state"].as_str() {
                Some("succeeded") => Some(()),
                Some("in progress") => None,
                _ => panic!("{}", answer.text),
            }
        })
        .await;
    }
}

#[track_caller]
fn assert_at_most(most: usize, requests: &[String]) {
    let shown = requests.join("\n");
    assert!(
        requests.len() <= most,
        "{} instead of {most}:\n{shown}",
        requests.len()
    );
}

#[tokio::test]
async fn requests_keep_to_their_budget() {
    let functions = Functions::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let before = functions.stack.keys();
    // The first provision ever looks for the ports of an older router.
    functions.call("provision", "first").await.0.expect(202);
    let instance = fresh_id();

    let (answer, requests) = functions.call("catalog", "").await;
    answer.expect(200);
    assert_at_most(0, &requests);

    let (answer, requests) = functions.call("provision", &instance).await;
    answer.expect(202);
    assert_at_most(9 + 2 * 2, &requests);
    // A repetition joins the operation, and moves it on like a poll.
    let (answer, requests) = functions.call("provision", &instance).await;
    answer.expect(202);
    assert_at_most(3, &requests);

    functions.succeeded(&instance).await;
    let (_, requests) = functions.call("last_operation", &instance).await;
    assert!(!requests.is_empty(), "what counts requests counts nothing");
    assert_at_most(2, &requests);

    let (answer, requests) = functions.call("bind", &instance).await;
    let credentials = &answer.expect(201).body["credentials"];
    assert_at_most(4, &requests);
    let session = Session::open(credentials).await.unwrap();
    session.run("CREATE TABLE t (x int)").await;
    let (answer, requests) = functions.call("bind", &instance).await;
    answer.expect(200);
    assert_at_most(4, &requests);
    let (answer, requests) = functions.call("unbind", &instance).await;
    answer.expect(200);
    assert_at_most(4, &requests);
    session.ended().await;

    for instance in ["first", &instance] {
        let (answer, _) = functions.call("deprovision", instance).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        functions.succeeded(instance).await;
    }
    functions.stack.assert_gone(&before).await;
}
