//! The functions of an installation, and what they ask of etcd.

use std::collections::BTreeMap;

use handlers::routes;
use serde_json::{Value, json};

use crate::{
    gateway::{Call, Format},
    osb::{Answer, OPERATION, PLAN, SERVICE, nodes},
    request_log::RequestLog,
    runtime_api::Function,
    stack::{Options, Stack},
    wait::eventually,
};

/// The functions of an installation, and the way to etcd that all of them take. Nobody else moves an instance on: there is
/// no broker.
#[derive(Debug)]
pub struct Functions {
    /// The rest of the installation.
    pub stack: Stack,
    /// What the functions ask of etcd.
    pub log: RequestLog,
    running: BTreeMap<&'static str, Function>,
}

impl Functions {
    /// Starts an installation, and all its functions.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(options: Options) -> Self {
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
    ///
    /// # Panics
    /// When there is no such function, when it does not answer, or when there were requests before this.
    pub async fn call(&self, name: &str, instance: &str) -> (Answer, Vec<String>) {
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

    /// Polls until the operation has succeeded.
    ///
    /// # Panics
    /// When it fails, or does not end.
    pub async fn succeeded(&self, instance: &str) {
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
