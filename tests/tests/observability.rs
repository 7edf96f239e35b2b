//! What an operator sees of a broker: probes, metrics and the log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use tests::{
    binaries::repository_file,
    exposition::Exposition,
    log_lines,
    osb::{Answer, OPERATION, Osb, USER, fresh_id, nodes, send},
    stack::{Options, Stack},
    wait::eventually,
};

/// A probe's answer, and how long it took; nobody says who they are.
async fn probe(osb: &Osb, path: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = send(osb.bare(Method::GET, path)).await;
    (answer, began.elapsed())
}

async fn get_metrics(osb: &Osb) -> Response {
    // As Prometheus sends it: without a version of the broker's API.
    let request = osb.bare(Method::GET, "/metrics").basic_auth(USER, Some(USER));
    request.send().await.unwrap()
}

async fn scrape(osb: &Osb) -> Exposition {
    let response = get_metrics(osb).await;
    assert_eq!(response.status(), 200);
    let content = response.headers()["content-type"].to_str().unwrap();
    assert!(content.starts_with("text/plain; version=0.0.4"), "{content}");
    Exposition::parse(&response.text().await.unwrap())
}

/// How much larger something is than it was. What is not there yet is zero.
fn growth(before: &Exposition, after: &Exposition, name: &str, labels: &[(&str, &str)]) -> f64 {
    after.of(name, labels) - before.get(name, labels).unwrap_or_default()
}

/// Waits for the answer of `/readyz` to have this status; answers what it says.
async fn becomes(osb: &Osb, status: u16) -> Answer {
    eventually(&format!("/readyz says {status}"), OPERATION, async || {
        let (answer, _) = probe(osb, "/readyz").await;
        (answer.status == status).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_broker_is_ready_while_etcd_answers_and_a_cell_is_alive() {
    let mut stack = Stack::start(Options {
        zones: vec!["z1"],
        router: false,
        heartbeat_ttl: 5,
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    becomes(&osb, 200).await;

    stack.etcd.pause();
    let hidden = becomes(&osb, 503).await;
    assert_eq!(hidden.description(), "etcd does not answer");
    // Whoever asks, and however often: a hanging etcd holds up neither probes nor what needs no etcd.
    let began = Instant::now();
    let probes: Vec<_> = (0..40)
        .map(|_| {
            let osb = osb.clone();
            tokio::spawn(async move { probe(&osb, "/readyz").await })
        })
        .collect();
    for asked in probes {
        let (answer, took) = asked.await.unwrap();
        answer.expect(503);
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    probe(&osb, "/healthz").await.0.expect(200);
    osb.catalog().await.expect(200);
    let blind = scrape(&osb).await;
    assert_eq!(blind.of("patroni_broker_etcd_up", &[]), 0.0);
    assert_eq!(blind.get("patroni_broker_cell_capacity_nodes", &[]), None);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stack.etcd.resume();
    becomes(&osb, 200).await;

    stack.etcd.kill();
    becomes(&osb, 503).await;
    probe(&osb, "/healthz").await.0.expect(200);
    stack.etcd.restart().await;
    becomes(&osb, 200).await;

    stack.cells[0].server.kill();
    let lonely = becomes(&osb, 503).await;
    assert_eq!(lonely.description(), "no cell is alive");
    assert_eq!(scrape(&osb).await.of("patroni_broker_etcd_up", &[]), 1.0);
    stack.cells[0].server.restart().await;
    becomes(&osb, 200).await;
}

#[tokio::test]
async fn what_a_broker_does_is_in_its_metrics_and_in_its_log() {
    let stack = Stack::start(Options {
        zones: vec!["z1"],
        capacity: 7,
        ..Options::default()
    })
    .await;
    let (osb, instance) = (stack.osb(), &fresh_id());
    let of_catalog = |status| [("route", "/v2/catalog"), ("method", "GET"), ("status", status)];
    const REQUESTS: &str = "patroni_broker_http_requests_total";

    let start = scrape(&osb).await;
    for _ in 0..3 {
        osb.catalog().await.expect(200);
    }
    send(osb.bare(Method::GET, "/v2/catalog")).await.expect(401);
    send(osb.request(Method::GET, "/v2/nothing")).await.expect(404);
    send(osb.bare(Method::GET, "/metrics")).await.expect(401);
    let asked = scrape(&osb).await;
    assert_eq!(growth(&start, &asked, REQUESTS, &of_catalog("200")), 3.0);
    assert_eq!(growth(&start, &asked, REQUESTS, &of_catalog("401")), 1.0);
    let unknown = |status| [("route", "unknown"), ("method", "other"), ("status", status)];
    assert_eq!(growth(&start, &asked, REQUESTS, &unknown("404")), 1.0);
    assert_eq!(growth(&start, &asked, REQUESTS, &unknown("401")), 1.0);
    let count = "patroni_broker_http_request_duration_seconds_count";
    assert_eq!(growth(&start, &asked, count, &[("route", "/v2/catalog")]), 4.0);
    assert_eq!(asked.of("patroni_broker_cell_capacity_nodes", &[]), 7.0);
    assert_eq!(
        asked.of("patroni_broker_cell_load_nodes", &[("availability_zone", "z1")]),
        0.0
    );

    let accepted = osb.provision(instance, &nodes(1)).await;
    let operation = accepted.expect(202).body["operation"]
        .as_str()
        .unwrap()
        .to_owned();
    eventually("a provision under way in the metrics", OPERATION, async || {
        let under_way = scrape(&osb)
            .await
            .of("patroni_broker_operations_in_progress", &[("kind", "provision")]);
        (under_way == 1.0).then_some(())
    })
    .await;
    osb.succeeded(instance).await;
    let made = scrape(&osb).await;
    let operations = |kind, state| {
        let labels = [("kind", kind), ("state", state)];
        growth(&start, &made, "patroni_broker_operations_total", &labels)
    };
    assert_eq!(operations("provision", "started"), 1.0);
    assert_eq!(operations("provision", "succeeded"), 1.0);
    assert_eq!(operations("provision", "failed"), 0.0);
    for phase in ["port", "leader", "nodes", "whole"] {
        let reached = made.of(
            "patroni_broker_provision_phase_seconds_count",
            &[("phase", phase)],
        );
        assert_eq!(reached, 1.0, "{phase}");
    }
    let seconds = |phase| made.of("patroni_broker_provision_phase_seconds_sum", &[("phase", phase)]);
    assert!(
        seconds("port") < seconds("leader") && seconds("leader") <= seconds("whole"),
        "{made:?}"
    );
    assert!(growth(&start, &made, "patroni_broker_etcd_requests_total", &[]) >= 10.0);
    assert!(growth(&start, &made, "patroni_broker_etcd_received_bytes_total", &[]) >= 1000.0);

    // Whoever takes a key away finds it counted when it is back. Whoever ended the provision may be tidying up still, and
    // write it again, which is no drift.
    let allocation = format!("/v2/keys/routing/allocation/{instance}");
    eventually("a mended allocation in the metrics", OPERATION, async || {
        let mended = scrape(&osb)
            .await
            .of("patroni_broker_drift_mended_total", &[("kind", "allocation")]);
        if mended == 0.0 {
            let (status, body) = stack.etcd.raw("DELETE", &allocation, None);
            assert!(matches!(status, 200 | 404), "{status} {body}");
        }
        (mended > 0.0).then_some(())
    })
    .await;
    osb.unmake(instance).await;

    let lines = log_lines::of(&stack.directory().join("logs/broker-1.log"));
    log_lines::assert_told(&lines, instance, &["provision", "deprovision"]);
    let told = log_lines::operations(&lines, instance);
    assert!(
        told.iter()
            .any(|line| line["state"] == "in progress" && line["kind"] == "provision")
    );
    let request = |method: &str| {
        let mut lines = lines.iter();
        let is = |line: &&serde_json::Value| {
            line["message"] == "request" && line["method"] == method && line["instance"] == *instance.as_str()
        };
        lines
            .find(is)
            .unwrap_or_else(|| panic!("no line of the {method}"))
    };
    let put = request("PUT");
    assert_eq!(
        (&put["status"], &put["operation"]),
        (&202.into(), &operation.as_str().into())
    );
    assert_eq!(put["path"], "/v2/service_instances/{instance_id}");
    assert!(put["duration_ms"].is_u64(), "{put}");
    assert!(
        operation.ends_with(told[0]["operation"].as_str().unwrap()),
        "{operation}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line["target"] == "drift" && line["kind"] == "allocation")
    );

    let shown = get_metrics(&osb).await.text().await.unwrap();
    let example = std::fs::read_to_string(repository_file("config/bosh-lite.example.yml")).unwrap();
    let (_, key) = example.split_once("value_for_development: ").unwrap();
    for secret in [USER, "containers", key.lines().next().unwrap(), instance] {
        assert!(!shown.contains(secret), "{secret}");
    }
}
