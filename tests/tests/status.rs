//! `service-status` and `show-cells` against a real etcd: what they print, whatever stands in there, and at what cost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use shared::{
    keyspace,
    store::{Read, Store},
};
use tests::{binaries, child::Child, etcd::EtcdServer, request_log::RequestLog, wait::eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// An etcd, the way to it that the commands take, and what they are configured with.
struct Scene {
    etcd: EtcdServer,
    log: RequestLog,
    backends: String,
}

impl Scene {
    async fn start() -> Self {
        let etcd = EtcdServer::start().await;
        let log = RequestLog::start(etcd.url()).await;
        Self {
            etcd,
            log,
            backends: "[]".to_owned(),
        }
    }

    async fn set(&self, key: &str, value: &str) {
        self.etcd.client().set(key, value, None).await.unwrap();
    }

    /// A member as Patroni writes it.
    async fn member(&self, id: &str, node: &str, value: &Value) {
        let key = format!("/service/{id}/members/{node}");
        self.set(&key, &value.to_string()).await;
    }

    fn variables(&self) -> [(String, String); 2] {
        let named = |name: &str, value: &str| (format!("PATRONI_BROKER_{name}"), value.to_owned());
        [
            named("KVSTORE_MACHINES", self.log.url()),
            named("BACKENDS", &self.backends),
        ]
    }

    /// Runs a command; answers what it printed. It takes two requests at most, whatever there is.
    async fn told(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binaries::path("local-runner"));
        command.args(arguments).env_clear().envs(self.variables());
        command.stdin(Stdio::null());
        let before = self.log.take();
        assert_eq!(before, Vec::<String>::new());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {error}");
        let requests = self.log.take();
        assert!(matches!(requests.len(), 1..=2), "{arguments:?}: {requests:#?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, command: &str) -> Vec<Value> {
        let told = self.told(&[command, "--output", "json"]).await;
        serde_json::from_str(&told).unwrap()
    }
}

fn running(address: &str, role: &str) -> Value {
    json!({"conn_url": format!("postgres://{address}/postgres"), "role": role, "state": "running",
           "xlog_location": 83_886_336, "timeline": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_etcd_has_nothing_to_show() {
    let scene = Scene::start().await;
    for command in ["service-status", "show-cells"] {
        assert_eq!(scene.told(&[command]).await, "");
        assert_eq!(scene.json(command).await, Vec::<Value>::new());
        let table = scene.told(&[command, "--output", "table"]).await;
        assert!(table.lines().count() >= 2, "the headings at least: {table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_line_by_line_in_order() {
    let scene = Scene::start().await;
    // As the original wrote it, Patroni 4 and Patroni 3.
    let original = json!({"role": "master", "state": "running", "xlog_location": 83_886_336,
        "conn_url": "postgres://replicator:replicator@10.244.21.8:32768/postgres",
        "api_url": "http://127.0.0.1:8008/patroni"});
    scene.member("f2", "a", &original).await;
    scene
        .member("f1", "b", &running("10.244.21.7:20000", "primary"))
        .await;
    scene.set("/service/f1/leader", "b").await;
    let behind = json!({"conn_url": "postgres://10.244.21.6:20000/postgres", "role": "replica",
        "state": "creating replica", "xlog_location": 83_886_000});
    scene.member("f1", "c", &behind).await;
    assert_eq!(
        scene.told(&["service-status"]).await,
        "f1 10.244.21.6:20000 replica creating replica\n\
         f1 10.244.21.7:20000 master running\n\
         f2 10.244.21.8:32768 master running\n"
    );
    let rows = scene.json("service-status").await;
    let all = json!({"instance": "f1", "member": "b", "address": "10.244.21.7:20000", "role": "master",
        "state": "running", "leader": true, "timeline": 1, "lag": 0, "port": null});
    assert_eq!(rows[1], all);
    assert_eq!(
        (&rows[0]["lag"], &rows[0]["leader"]),
        (&json!(336), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_does_no_harm() {
    let scene = Scene::start().await;
    scene.set("/service/f1/members/a", "{").await;
    scene.set("/service/f1/members/b/deeper", "x").await;
    scene.set("/service/leaf", "x").await;
    scene.set("/serviceinstances/leaf", "x").await;
    scene.set("/serviceinstances/f2/record", "{").await;
    scene
        .set("/serviceinstances/f3/nodes/n/backend", "10.244.21.6")
        .await;
    // A directory where there should be a heartbeat, and no heartbeat.
    scene.set("/cells/10.244.21.7/deeper", "x").await;
    scene.set("/cells/10.244.21.8", "beats").await;
    let told = scene.told(&["service-status"]).await;
    assert!(told.starts_with("f1 unknown unknown unknown\n"), "{told}");
    let rows = scene.json("service-status").await;
    let shown = |row: &Value| (row["instance"].clone(), row["state"].clone());
    let without: Vec<_> = rows
        .iter()
        .filter(|row| row["member"].is_null())
        .map(shown)
        .collect();
    let wanted = ["f2", "f3"].map(|id| (json!(id), json!("no members")));
    assert_eq!(without, wanted, "instances without members are there: {rows:?}");
    assert_eq!(
        scene.told(&["show-cells"]).await,
        "1 10.244.21.6\n0 10.244.21.7\n0 10.244.21.8\n"
    );
    for command in ["service-status", "show-cells"] {
        scene.told(&[command, "--output", "table"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_without_nodes_are_there() {
    let mut scene = Scene::start().await;
    let backend = |guid: &str| {
        json!({"guid": guid, "availability_zone": "z9", "uri": format!("http://{guid}:8889"),
               "username": "c", "password": "c"})
    };
    // Of the configuration one is silent; another cell announces itself; a third is known by a node only.
    scene.backends = json!([backend("10.244.21.6"), backend("10.244.21.7")]).to_string();
    for (guid, ttl) in [("10.244.21.7", Some(30)), ("10.244.21.8", None)] {
        let beat = json!({"guid": guid, "availability_zone": "z1", "uri": format!("http://{guid}:9999"),
            "capacity": 20, "load": 0, "version": "0.1.0", "ttl": ttl});
        let key = keyspace::cell(&guid.parse().unwrap());
        let lasts = Some(Duration::from_secs(30));
        scene
            .etcd
            .client()
            .set(&key, &beat.to_string(), lasts)
            .await
            .unwrap();
    }
    for (id, node) in [("f1", "a"), ("f1", "b"), ("f2", "c")] {
        let key = format!("/serviceinstances/{id}/nodes/{node}/backend");
        scene
            .set(&key, if node == "b" { "10.244.21.9" } else { "10.244.21.8" })
            .await;
    }
    assert_eq!(
        scene.told(&["show-cells"]).await,
        "0 10.244.21.6\n0 10.244.21.7\n2 10.244.21.8\n1 10.244.21.9\n"
    );
    let rows = scene.json("show-cells").await;
    assert_eq!(
        (&rows[0]["availability_zone"], &rows[0]["capacity"]),
        (&json!("z9"), &Value::Null)
    );
    assert_eq!(
        (&rows[1]["availability_zone"], &rows[1]["capacity"]),
        (&json!("z9"), &json!(20))
    );
    assert_eq!(rows[1]["uri"], "http://10.244.21.7:9999");
    let age = rows[1]["heartbeat_age_seconds"].as_u64();
    assert!(age.is_some_and(|age| age <= 30), "{rows:?}");
    assert_eq!(rows[2]["heartbeat_age_seconds"], Value::Null);
    assert_eq!(rows[3]["uri"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_cost_no_more_requests_than_one() {
    let scene = Scene::start().await;
    for number in 0..300 {
        let id = format!("i{number:03}");
        scene
            .member(&id, "a", &running("10.244.21.6:20000", "master"))
            .await;
        let key = format!("/serviceinstances/{id}/nodes/a/backend");
        scene.set(&key, "10.244.21.6").await;
    }
    // `told` counts the requests.
    let told = scene.told(&["service-status"]).await;
    assert_eq!(told.lines().count(), 300);
    assert!(told.lines().is_sorted());
    assert_eq!(scene.told(&["show-cells"]).await, "300 10.244.21.6\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_etcd_comes_back() {
    let mut scene = Scene::start().await;
    let kept = tempfile::tempdir().unwrap();
    let log = kept.path().join("log");
    let arguments = ["show-cells".to_owned(), "--watch".to_owned()];
    let variables = scene.variables().into_iter().collect();
    scene.set("/serviceinstances/f1/nodes/a/backend", "c1").await;
    let mut watch = Child::start_in(&variables, &binaries::path("local-runner"), &arguments, &log);
    let looks = |line: &str| fs::read_to_string(&log).unwrap().matches(line).count();
    eventually("two looks", LIMIT, async || (looks("1 c1\n") >= 2).then_some(())).await;
    scene.etcd.kill();
    eventually("a warning", LIMIT, async || {
        (looks("looking again") >= 1).then_some(())
    })
    .await;
    scene.etcd.restart().await;
    // It comes back with what it had.
    let client = scene.etcd.client();
    client
        .set("/serviceinstances/f1/nodes/b/backend", "c2", None)
        .await
        .unwrap();
    assert!(
        client
            .tree("/serviceinstances", Read::Quorum)
            .await
            .unwrap()
            .is_some()
    );
    eventually("the other cell", LIMIT, async || {
        (looks("1 c2\n") >= 1).then_some(())
    })
    .await;
    watch.terminate();
}
