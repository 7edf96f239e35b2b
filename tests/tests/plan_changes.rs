//! Running clusters that change their plan while a client writes through their public port.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it measured"
)]

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Value, json};
use tests::{
    instance::Instance,
    osb::{Answer, OTHER_PLAN, PLAN, SERVICE},
    psql::Session,
    stack::{Options, Stack},
    writer::Writer,
};

/// Two plans whose commits wait for a replica; a restart lies between them. And one that differs from the first in what takes
/// none, and one that nobody may leave.
const CATALOG: &str = r#"[{
    "id": "0f5c1670-6dc3-11e5-bc08-6c4008a663f0", "name": "postgresql", "description": "PostgreSQL",
    "bindable": true, "instances_retrievable": true, "plan_updateable": true,
    "plans": [
        {"id": "1545e30e-6dc3-11e5-826a-6c4008a663f0", "name": "small", "description": "few connections",
         "cluster": {"synchronous": true,
                     "postgresql": {"parameters": {"max_connections": 60, "work_mem": "5MB", "random_page_cost": 1.1}}}},
        {"id": "4209767d-c2cb-41de-988b-2970e80d5f3e", "name": "large", "description": "more connections",
         "cluster": {"synchronous": true, "failover": "restart",
                     "postgresql": {"parameters": {"max_connections": 120, "max_worker_processes": 12, "work_mem": "7MB"}}}},
        {"id": "quiet", "name": "quiet", "description": "more memory", "plan_updateable": false,
         "cluster": {"nodes": {"default": 3},
                     "postgresql": {"parameters": {"max_connections": 60, "work_mem": "9MB"}}}}
    ]
}]"#;

async fn stack() -> Stack {
    Stack::start(Options {
        zones: vec!["z1", "z2", "z3"],
        durable: true,
        variables: vec![("CATALOG_SERVICES", CATALOG.to_owned())],
        ..Options::default()
    })
    .await
}

async fn change(instance: &Instance<'_>, plan: &str) -> Answer {
    let body = json!({"service_id": SERVICE, "plan_id": plan});
    instance.stack.osb().update(&instance.id, &body).await
}

/// What every node says at its own port.
async fn shown(instance: &Instance<'_>, setting: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for member in instance.cluster().await.members.values() {
        let mut credentials = instance.credentials.clone();
        let (user, password) = (&credentials["username"], &credentials["password"]);
        let login = format!("{}:{}", user.as_str().unwrap(), password.as_str().unwrap());
        let address = member.address.as_deref().unwrap();
        credentials["uri"] = format!("postgres://{login}@{address}/app").into();
        let session = Session::open(&credentials).await.unwrap();
        shown.push(
            session
                .ask(&format!("current_setting('{setting}')"))
                .await
                .unwrap(),
        );
    }
    shown
}

async fn assert_shown(instance: &Instance<'_>, nodes: usize, expected: &[(&str, &str)]) {
    for (setting, value) in expected {
        assert_eq!(shown(instance, setting).await, vec![*value; nodes], "{setting}");
    }
}

/// When each node's PostgreSQL was started.
async fn starts(instance: &Instance<'_>) -> BTreeMap<String, Value> {
    let mut starts = BTreeMap::new();
    for (name, member) in instance.cluster().await.members {
        let url = format!("{}/patroni", member.api.unwrap());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer: Value = client.get(url).send().await.unwrap().json().await.unwrap();
        starts.insert(name, answer["postmaster_start_time"].clone());
    }
    starts
}

async fn fetched_plan(instance: &Instance<'_>) -> Answer {
    let path = format!("/v2/service_instances/{}", instance.id);
    let osb = instance.stack.osb();
    tests::osb::send(osb.request(reqwest::Method::GET, &path)).await
}

/// Changes to a plan whose settings take a restart of every node, and prints how long the client waited.
async fn restarts_into(instance: &Instance<'_>, writer: &Writer, plan: &str, why: &str) -> Vec<String> {
    writer.goes_on(20).await;
    let (before, begun) = (starts(instance).await, Instant::now());
    change(instance, plan).await.expect(202);
    fetched_plan(instance).await.expect(422);
    let told = instance.stack.osb().succeeded(&instance.id).await;
    let took = begun.elapsed();
    assert_eq!(fetched_plan(instance).await.expect(200).body["plan_id"], plan);
    writer.goes_on(20).await;
    println!(
        "{why}: took {took:?}, without writes for {:?}",
        writer.account().outage_since(begun)
    );
    println!("{told:#?}");
    for (name, start) in starts(instance).await {
        assert_ne!(before[&name], start, "{name} was not restarted");
    }
    told
}

#[tokio::test]
async fn a_plan_that_takes_a_restart_comes_into_force_node_by_node_under_a_client_that_writes() {
    let mut stack = stack().await;
    let instance = Instance::make(&mut stack, PLAN, 3).await;
    assert_shown(&instance, 3, &[("max_connections", "60"), ("work_mem", "5MB")]).await;
    let writer = Writer::start(&instance.credentials).await;
    let leader = instance.stands(2, true).await;

    restarts_into(&instance, &writer, OTHER_PLAN, "larger").await;
    // What the first plan named, and the second does not, is PostgreSQL's again.
    let large = [
        ("max_connections", "120"),
        ("max_worker_processes", "12"),
        ("work_mem", "7MB"),
        ("random_page_cost", "4"),
    ];
    assert_shown(&instance, 3, &large).await;
    let next = instance.stands(2, true).await;
    assert_ne!(
        leader.name, next.name,
        "the leader hands over before it is restarted"
    );

    // Back: a replica that were restarted first would keep what its leader has.
    restarts_into(&instance, &writer, PLAN, "smaller").await;
    let small = [
        ("max_connections", "60"),
        ("max_worker_processes", "8"),
        ("random_page_cost", "1.1"),
    ];
    assert_shown(&instance, 3, &small).await;
    let last = instance.stands(2, true).await;
    assert_eq!((&last.name, last.timeline), (&next.name, next.timeline));

    let (account, lost) = writer.end().await;
    println!(
        "{} rows in {} sessions; failures: {:?}",
        account.acknowledged.len(),
        account.sessions,
        account.failures
    );
    assert_eq!(lost, Vec::<i64>::new());
}

#[tokio::test]
async fn a_plan_that_takes_no_restart_comes_into_force_without_one() {
    let mut stack = stack().await;
    let instance = Instance::make(&mut stack, PLAN, 2).await;
    let writer = Writer::start(&instance.credentials).await;
    let (leader, before) = (instance.stands(1, true).await, starts(&instance).await);
    writer.goes_on(20).await;
    change(&instance, "quiet").await.expect(202);
    instance.stack.osb().succeeded(&instance.id).await;
    assert_shown(
        &instance,
        2,
        &[
            ("max_connections", "60"),
            ("work_mem", "9MB"),
            ("random_page_cost", "4"),
        ],
    )
    .await;
    assert_eq!(starts(&instance).await, before);
    assert_eq!(instance.stands(1, false).await, leader);
    // Commits wait for nobody any more.
    assert!(!instance.is_synchronous_under(&leader.name));
    let (account, lost) = writer.end().await;
    println!(
        "without writes for {:?}; failures: {:?}",
        account.outage(),
        account.failures
    );
    assert_eq!((lost, account.sessions), (Vec::<i64>::new(), 1));

    let refused = change(&instance, PLAN).await;
    assert_eq!(refused.expect(422).body["error"], "PlanChangeNotSupported");
    assert_eq!(refused.body["update_repeatable"], false, "{}", refused.text);
    let unknown = change(&instance, "no such plan").await;
    unknown.expect(400);
}
