//! Rows over HTTP: local-runner with the table's configuration.

use serde_json::Value;
use tests::{
    osb::Osb,
    raw,
    stack::{Options, Stack},
};

use crate::{answer::Answer, openapi::Document, request::Request, stage::CONFIGURATION, table::Row};

/// What does not come out as it says.
pub(crate) async fn failures(rows: &[&Row], document: &Document) -> Vec<String> {
    let stack = stack().await;
    let osb = stack.osb();
    let mut failures = Vec::new();
    for row in rows {
        let before = stack.keys().without_markers_of_nothing();
        let answer = ask(&osb, &row.request).await;
        let changed = !stack
            .keys()
            .without_markers_of_nothing()
            .changes_since(&before)
            .is_empty();
        failures.extend(row.failure(document, &answer, None, changed));
    }
    failures
}

/// A broker with the table's catalog and credentials, and two cells that nothing ever runs on.
pub(crate) async fn stack() -> Stack {
    let configuration: Value = serde_saphyr::from_str(CONFIGURATION).unwrap();
    let services = configuration["catalog"]["services"].to_string();
    Stack::start(Options {
        zones: vec!["z1", "z2"],
        router: false,
        variables: vec![
            ("CATALOG_SERVICES", services),
            (
                "BROKER_CREDENTIALS",
                configuration["broker"]["credentials"].to_string(),
            ),
        ],
        ..Options::default()
    })
    .await
}

async fn ask(osb: &Osb, request: &Request) -> Answer {
    let query: Vec<_> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let target = format!("{}?{}", request.path, query.join("&"));
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let answer = raw::request(osb.address(), &request.method, &target, &headers, &request.body).await;
    let (head, text) = answer.text.split_once("\r\n\r\n").unwrap();
    let headers = head.lines().skip(1).map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        let name: reqwest::header::HeaderName = name.parse().unwrap();
        (name, value.parse().unwrap())
    });
    Answer::new(answer.status, headers.collect(), text.to_owned())
}
