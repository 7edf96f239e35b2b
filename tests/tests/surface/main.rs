//! The Open Service Broker API, row by row: `table.md` says what is answered to which request in which situation.
//!
//! Every row is run on the handlers in the simulated world, and those that need nothing to be there also over HTTP and on the
//! functions' binaries. What a
//! row does not say holds for all of them: the rules that `rules.rs` checks, and the schemas of `config/openapi.yaml`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod answer;
mod fuzz;
mod model;
mod openapi;
mod over_functions;
mod over_http;
mod request;
mod rules;
mod sequences;
mod stage;
mod table;

use std::{collections::BTreeSet, fmt::Write};

use handlers::routes;

use crate::{
    openapi::Document,
    stage::Stage,
    table::{Row, Table},
};

/// Fails with all rows that did not come out as they say.
fn report(failures: &[String], rows: usize) {
    let mut text = String::new();
    for failure in failures {
        writeln!(text, "{failure}\n").unwrap();
    }
    assert!(
        failures.is_empty(),
        "{} of {rows} rows:\n\n{text}",
        failures.len()
    );
}

#[tokio::test]
async fn every_row_comes_out_as_it_says() {
    let (table, document) = (Table::load(), Document::load());
    let mut failures = Vec::new();
    for row in &table.rows {
        let mut stage = Stage::new(&table, &row.situation).await;
        let (before, operation) = (stage.content(), stage.operation.clone());
        let answer = stage.ask(&row.request).await;
        let changed = stage.content() != before;
        failures.extend(row.failure(&document, &answer, operation.as_deref(), changed));
    }
    report(&failures, table.rows.len());
}

/// Those that need nothing to be there, and leave nothing.
fn lone(table: &Table) -> Vec<&Row> {
    let lone = |row: &&Row| row.situation == "nothing" && !row.request.lenient && row.expected.status != 202;
    table.rows.iter().filter(lone).collect()
}

#[tokio::test]
async fn rows_that_need_nothing_come_out_the_same_over_http() {
    let (table, document) = (Table::load(), Document::load());
    let rows = lone(&table);
    let failures = over_http::failures(&rows, &document).await;
    report(&failures, rows.len());
}

#[tokio::test]
async fn rows_that_need_nothing_come_out_the_same_on_functions() {
    let (table, document) = (Table::load(), Document::load());
    let rows = lone(&table);
    let failures = over_functions::failures(&rows, &document).await;
    report(&failures, rows.len());
}

#[test]
fn every_endpoint_has_rows_and_each_row_is_of_its_own() {
    let table = Table::load();
    let asked: BTreeSet<_> = table.rows.iter().filter_map(|row| row.request.route).collect();
    let endpoints: BTreeSet<_> = routes::ALL
        .iter()
        .map(|route| (route.method, route.path))
        .collect();
    assert_eq!(asked, endpoints);
    let mut seen = BTreeSet::new();
    for row in &table.rows {
        assert!(seen.insert(row.to_string()), "twice: {row}");
    }
    assert!(seen.len() >= 150, "{} rows", seen.len());
}

#[test]
fn every_documented_status_has_a_row() {
    let table = Table::load();
    let shown: BTreeSet<_> = table
        .rows
        .iter()
        .filter_map(|row| Some((row.request.route?, row.expected.status)))
        .collect();
    // What a client that is too slow or sends too much is answered, and what only mistakes of the broker lead to.
    let elsewhere = [408, 413, 500, 504];
    for (route, status) in Document::load().statuses() {
        let known = shown
            .iter()
            .any(|(other, with)| *other == (route.0.as_str(), route.1.as_str()) && *with == status);
        // It takes a storm of other requests.
        let storm = route.0 == "DELETE" && route.1.ends_with("{binding_id}") && status == 422;
        assert!(
            known || storm || elsewhere.contains(&status),
            "no row: {route:?} {status}"
        );
    }
}

#[test]
fn the_document_has_the_routes_of_the_handlers() {
    let routes: BTreeSet<_> = routes::ALL
        .iter()
        .map(|route| (route.method.to_owned(), route.path.to_owned()))
        .collect();
    let document = Document::load();
    assert_eq!(document.routes(), routes);
    // tests/observability.rs asks for these.
    let own = ["/healthz", "/metrics", "/readyz"].map(str::to_owned);
    assert_eq!(document.of_local_runner, own.into());
}
