//! The whole life of an instance, without any process of a broker: each request comes by another kind of gateway, and every
//! function is frozen as soon as it has answered.

use serde_json::json;
use tests::{
    gateway::{Format, Gateway},
    log_lines,
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes},
    psql::{self, Session},
    stack::{Options, Stack},
};

/// The same id, with every character as `%XX`.
fn encoded(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn an_instance_lives_by_functions_alone() {
    let stack = Stack::start(Options {
        brokers: 0,
        ..Options::default()
    })
    .await;
    let variables = stack.function_variables(stack.etcd.url());
    let logs = stack.directory().join("logs");
    let mut gateways = Vec::new();
    for format in Format::ALL {
        gateways.push(Gateway::start(format, &variables, &logs).await);
    }
    let through = |format| {
        let place = Format::ALL.iter().position(|other| *other == format).unwrap();
        Osb::new(gateways[place].url())
    };
    let (rest, http) = (through(Format::Rest), through(Format::Http));
    let (in_base64, in_stage) = (through(Format::HttpInBase64), through(Format::HttpInStage));
    let before = stack.keys();
    let instance = &fresh_id();

    rest.provision(&encoded(instance), &nodes(1)).await.expect(202);
    in_stage.succeeded(&encoded(instance)).await;
    let made = stack.record(instance).unwrap();
    in_base64
        .provision(&encoded(instance), &nodes(1))
        .await
        .expect(200);

    let bound = in_stage.bind(&encoded(instance), &encoded("b")).await;
    let again = in_base64.bind(instance, "b").await;
    assert_eq!(again.expect(200).body, bound.expect(201).body);
    let credentials = &bound.body["credentials"];
    let session = Session::open(credentials).await.unwrap();
    session
        .run("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('written')")
        .await;

    let grown = json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": {"node-count": 2}});
    in_base64.update(&encoded(instance), &grown).await.expect(202);
    let shown = http.succeeded(instance).await;
    assert_eq!(shown.last().unwrap(), "master running; replicas running");
    let record = stack.record(instance).unwrap();
    assert_eq!(record.staying().count(), 2);
    assert_eq!(
        (record.incarnation, record.port),
        (made.incarnation, made.port),
        "another life"
    );
    assert_eq!(session.ask("SELECT note FROM notes").await.unwrap(), "written");

    rest.unbind(&encoded(instance), &encoded("b")).await.expect(200);
    session.ended().await;
    psql::assert_refused(credentials).await;
    in_stage.unbind(instance, "b").await.expect(410);

    let answer = http.deprovision(&encoded(instance)).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    rest.succeeded(instance).await;
    stack.assert_gone(&before).await;
    let told = log_lines::of_all(&logs, "");
    log_lines::assert_told(&told, instance, &["provision", "update", "deprovision"]);
    // Last, since it leaves a marker for the schedule to take away.
    in_base64.deprovision(instance).await.expect(410);
}
