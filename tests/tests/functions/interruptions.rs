//! Functions that are killed, or frozen and thawed, in the middle of what they do: at a certain request to etcd.

use std::collections::BTreeMap;

use handlers::routes::{self, Route};
use serde_json::{Value, json};
use shared::record::State;
use tests::{
    gateway::{Call, Format, Gateway},
    keys::Keys,
    osb::{OPERATION, Osb, PLAN, SERVICE, fresh_id, nodes},
    psql::Session,
    request_log::RequestLog,
    runtime_api::{Function, Outcome},
    stack::{Options, Stack},
    wait::eventually,
};
use tokio::{sync::oneshot, time::timeout};

/// An installation with two ways to etcd: one that can be held up, and one for everybody else.
struct Scene {
    stack: Stack,
    before: Keys,
    way: RequestLog,
    variables: BTreeMap<String, String>,
    gateway: Gateway,
}

/// A function that waits, in the middle of what it does, for etcd.
struct Interrupted {
    function: Function,
    outcome: oneshot::Receiver<Outcome>,
}

impl Scene {
    async fn start() -> Self {
        let stack = Stack::start(Options {
            brokers: 0,
            ..Options::default()
        })
        .await;
        let way = RequestLog::start(stack.etcd.url()).await;
        let free = stack.function_variables(stack.etcd.url());
        let gateway = Gateway::start(Format::Http, &free, &stack.directory().join("logs")).await;
        Self {
            before: stack.keys(),
            variables: stack.function_variables(way.url()),
            stack,
            way,
            gateway,
        }
    }

    /// A platform, whose requests are answered by functions that nobody disturbs.
    fn osb(&self) -> Osb {
        Osb::new(self.gateway.url())
    }

    /// Has a function begin, and holds it up after so many requests to etcd.
    async fn interrupt(&self, route: &Route, instance: &str, body: &Value, requests: usize) -> Interrupted {
        let log = format!("logs/interrupted-{}-{instance}-{requests}.log", route.name);
        let log = self.stack.directory().join(log);
        let function = Function::start(route.name, &self.variables, &log).await;
        function.ready().await;
        self.way.hold_after(requests);
        let call = Call::new(route.method, route.path)
            .parameter("instance_id", instance)
            .query("accepts_incomplete", "true")
            .query("service_id", SERVICE)
            .query("plan_id", PLAN)
            .body(&body.to_string());
        let mut outcome = function.begin(call.event(Format::Http));
        eventually("a request to hold up", OPERATION, async || {
            if let Ok(answer) = outcome.try_recv() {
                panic!("{} has needed only {:?}: {answer:?}", route.name, self.way.take());
            }
            self.way.is_holding().then_some(())
        })
        .await;
        Interrupted { function, outcome }
    }

    async fn assert_usable(&self, instance: &str) {
        let bound = self.osb().bind(instance, "b").await;
        let session = Session::open(&bound.expect(201).body["credentials"])
            .await
            .unwrap();
        session.run("CREATE TABLE t (x int)").await;
    }

    /// Asserts that there are so many nodes, each once.
    fn assert_nodes(&self, count: usize) {
        let processes = self.stack.node_processes();
        let patronis = processes
            .iter()
            .filter(|process| process.command.contains("patroni.yml"));
        assert_eq!(patronis.count(), count, "{processes:?}");
    }
}

impl Interrupted {
    /// The function never hears from etcd; what it has sent arrives all the same.
    fn kill(self, way: &RequestLog) {
        self.function.kill();
        way.release();
    }

    /// Lets a frozen function go on, and its request to etcd: it must answer, whatever it finds.
    async fn thaw(self, way: &RequestLog) {
        self.function.resume();
        way.release();
        let answer = timeout(OPERATION, self.outcome)
            .await
            .expect("an answer")
            .unwrap();
        let answer = answer.unwrap();
        let status = answer["statusCode"].as_u64().unwrap();
        assert!(matches!(status, 200 | 202 | 409 | 422 | 503), "{answer}");
    }
}

fn grown() -> Value {
    json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": {"node-count": 2}})
}

#[tokio::test]
async fn functions_that_are_killed_lose_nothing() {
    let scene = Scene::start().await;
    let osb = scene.osb();
    let mut instances = Vec::new();
    for requests in [1, 4, 8] {
        let instance = fresh_id();
        let provision = scene
            .interrupt(&routes::PROVISION, &instance, &nodes(1), requests)
            .await;
        provision.kill(&scene.way);
        // The platform has no answer, and asks again.
        osb.provision(&instance, &nodes(1)).await.expect(202);
        instances.push(instance);
    }
    for instance in &instances {
        osb.succeeded(instance).await;
        scene.assert_usable(instance).await;
    }
    scene.assert_nodes(instances.len());

    let update = scene.interrupt(&routes::UPDATE, &instances[0], &grown(), 4).await;
    update.kill(&scene.way);
    osb.update(&instances[0], &grown()).await.expect(202);
    osb.succeeded(&instances[0]).await;
    scene.assert_nodes(instances.len() + 1);

    for (instance, requests) in instances.iter().zip([1, 4, 8]) {
        let deprovision = scene
            .interrupt(&routes::DEPROVISION, instance, &Value::Null, requests)
            .await;
        deprovision.kill(&scene.way);
        let answer = osb.deprovision(instance).await;
        assert!(matches!(answer.status, 200 | 202 | 410), "{answer:?}");
        osb.succeeded(instance).await;
    }
    scene.stack.assert_gone(&scene.before).await;
}

/// A function that is thawed only when others have done its work, and more.
#[tokio::test]
async fn functions_that_are_frozen_lose_nothing() {
    let scene = Scene::start().await;
    let osb = scene.osb();
    let mut lives = Vec::new();
    for requests in [2, 6] {
        let instance = fresh_id();
        let provision = scene
            .interrupt(&routes::PROVISION, &instance, &nodes(1), requests)
            .await;
        provision.function.pause();
        osb.provision(&instance, &nodes(1)).await.expect(202);
        osb.unmake(&instance).await;
        osb.make(&instance, &nodes(1)).await;
        let life = scene.stack.record(&instance).unwrap().incarnation;
        provision.thaw(&scene.way).await;
        lives.push((instance, life));
    }
    let (instance, _) = &lives[0];
    let update = scene.interrupt(&routes::UPDATE, instance, &grown(), 4).await;
    update.function.pause();
    osb.update(instance, &grown()).await.expect(202);
    osb.succeeded(instance).await;
    update.thaw(&scene.way).await;

    for (instance, life) in &lives {
        osb.succeeded(instance).await;
        scene.assert_usable(instance).await;
        let record = scene.stack.record(instance).unwrap();
        assert_eq!((record.incarnation, record.state), (*life, State::Active));
        assert!(record.operation.is_none(), "{record:?}");
        let port = record.port.owned().unwrap();
        let keys = scene.stack.keys().0;
        assert_eq!(
            keys[&format!("/routing/ports/{port}")],
            format!("{instance} {life}")
        );
        assert_eq!(keys[&format!("/routing/allocation/{instance}")], port.to_string());
    }
    // A node that the thawed function may have asked for is refused, or ended, by its cell.
    eventually("the nodes of the records, and no others", OPERATION, async || {
        let processes = scene.stack.node_processes();
        let patronis = processes
            .iter()
            .filter(|process| process.command.contains("patroni.yml"));
        (patronis.count() == 3).then_some(())
    })
    .await;
    for (instance, _) in &lives {
        osb.unmake(instance).await;
    }
    scene.stack.assert_gone(&scene.before).await;
}
