//! What functions print: JSON, with a line for each request and one with its metrics, which CloudWatch takes out of the log.

use std::{fs, path::Path};

use jsonschema::Validator;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    etcd::EtcdServer,
    gateway::{Call, Format},
    log_lines,
    osb::{fresh_id, nodes},
    ports::free_port,
    runtime_api::Function,
    stack::function_variables,
};

/// The embedded metric format, as far as it is used:
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
fn format() -> Validator {
    let name = |longest: u16| json!({"type": "string", "minLength": 1, "maxLength": longest});
    let metric = json!({
        "type": "object", "required": ["Name"], "additionalProperties": false,
        "properties": {"Name": name(1024), "Unit": {"enum": ["Count", "Milliseconds"]}},
    });
    let directive = json!({
        "type": "object", "required": ["Namespace", "Dimensions", "Metrics"], "additionalProperties": false,
        "properties": {
            "Namespace": name(1024),
            "Dimensions": {"type": "array", "minItems": 1, "items": {"type": "array", "maxItems": 30, "items": name(250)}},
            "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": metric},
        },
    });
    let metadata = json!({
        "type": "object", "required": ["Timestamp", "CloudWatchMetrics"], "additionalProperties": false,
        "properties": {
            "Timestamp": {"type": "integer", "minimum": 1_600_000_000_000_u64},
            "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": directive},
        },
    });
    let schema = json!({"type": "object", "required": ["_aws"], "properties": {"_aws": metadata}});
    jsonschema::draft202012::new(&schema).unwrap()
}

/// The lines with metrics, each checked.
fn metrics(log: &Path) -> Vec<Value> {
    let format = format();
    let lines = log_lines::of(log).into_iter();
    let lines: Vec<Value> = lines.filter(|line| line.get("_aws").is_some()).collect();
    for line in &lines {
        let errors: Vec<_> = format.iter_errors(line).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{line}: {errors:?}");
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap();
                assert!(line[name].is_number(), "{name} is no number in {line}");
            }
            for dimension in directive["Dimensions"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|set| set.as_array().unwrap())
            {
                let name = dimension.as_str().unwrap();
                assert!(line[name].is_string(), "{name} is no text in {line}");
            }
        }
    }
    lines
}

async fn start(name: &str, kvstore: &str) -> (Function, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("function.log");
    (
        Function::start(name, &function_variables(kvstore), &log).await,
        directory,
    )
}

#[tokio::test]
async fn each_request_has_a_line_and_its_metrics() {
    let nothing = format!("http://127.0.0.1:{}", free_port());
    let (catalog, directory) = start("catalog", &nothing).await;
    let log = directory.path().join("function.log");
    let call = || Call::new("GET", "/v2/catalog");
    call().to(&catalog, Format::Http).await.expect(200);
    call()
        .header("authorization", "")
        .to(&catalog, Format::Rest)
        .await
        .expect(401);
    let told: Vec<_> = metrics(&log)
        .into_iter()
        .map(|line| {
            (
                line["function"].clone(),
                line["status"].clone(),
                line["errors"].clone(),
                line["etcd_requests"].clone(),
            )
        })
        .collect();
    let expected = |status: u16| ("catalog".into(), status.into(), 0.into(), 0.into());
    assert_eq!(told, [expected(200), expected(401)]);
    let lines = log_lines::of(&log);
    let requests: Vec<_> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 2, "{lines:#?}");
    for (line, status) in requests.iter().zip([200, 401]) {
        assert_eq!(
            (&line["method"], &line["path"]),
            (&"GET".into(), &"/v2/catalog".into())
        );
        assert_eq!(line["status"], status);
        assert!(line["duration_ms"].is_u64(), "{line}");
        assert!(line["request_id"].is_string(), "{line}");
    }

    // Without etcd.
    let (provision, directory) = start("provision", &nothing).await;
    let call = Call::new("PUT", "/v2/service_instances/{instance_id}")
        .parameter("instance_id", &fresh_id())
        .query("accepts_incomplete", "true")
        .body(&nodes(1).to_string());
    call.to(&provision, Format::Http).await.expect(503);
    let told = metrics(&directory.path().join("function.log"));
    let [line] = told.as_slice() else {
        panic!("{told:#?}")
    };
    assert_eq!(
        (&line["status"], &line["errors"], &line["requests"]),
        (&503.into(), &1.into(), &1.into())
    );
    let (asked, failed) = (
        line["etcd_requests"].as_u64().unwrap(),
        line["etcd_failures"].as_u64().unwrap(),
    );
    assert!(asked >= 1 && failed == asked, "{line}");
    assert!(line["duration"].as_f64().unwrap() > 0.0, "{line}");
    let whole = fs::read_to_string(directory.path().join("function.log")).unwrap();
    assert!(!whole.contains("containers"), "a password is in {whole}");
}

#[tokio::test]
async fn a_schedule_has_its_metrics() {
    let etcd = EtcdServer::start().await;
    let (reconcile, directory) = start("reconcile", etcd.url()).await;
    let found = reconcile.invoke(json!({})).await.unwrap();
    assert_eq!(
        found,
        json!({"in_progress": 0, "waiting": 0, "checked": 0, "mended": 0})
    );
    let told = metrics(&directory.path().join("function.log"));
    let [line] = told.as_slice() else {
        panic!("{told:#?}")
    };
    assert_eq!(
        (&line["function"], &line["errors"], &line["mended"]),
        (&"reconcile".into(), &0.into(), &0.into())
    );
    assert!(line["etcd_requests"].as_u64().unwrap() >= 5, "{line}");
}
