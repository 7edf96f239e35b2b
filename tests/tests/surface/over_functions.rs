//! Rows on the functions' binaries: each gets the events that a gateway sends.

use std::collections::BTreeMap;

use handlers::routes;
use tests::{
    gateway::{Call, Format},
    runtime_api::Function,
};

use crate::{answer::Answer, openapi::Document, over_http, request::Request, table::Row};

/// Those that leave ids as they are in the URL. Of the others, `%2566` cannot be told from `%66`.
const FORMATS: [Format; 2] = [Format::Rest, Format::HttpInStage];

/// What does not come out as it says.
pub(crate) async fn failures(rows: &[&Row], document: &Document) -> Vec<String> {
    let stack = over_http::stack().await;
    let variables = stack.function_variables(stack.etcd.url());
    let logs = tempfile::tempdir().unwrap();
    let mut functions = BTreeMap::new();
    for route in routes::ALL {
        let log = logs.path().join(route.name);
        let function = Function::start(route.name, &variables, &log).await;
        functions.insert((route.method, route.path), function);
    }
    let mut failures = Vec::new();
    for row in rows {
        let Some(function) = row.request.route.and_then(|route| functions.get(&route)) else {
            continue;
        };
        for format in FORMATS {
            let before = stack.keys().without_markers_of_nothing();
            let (status, headers, text) = call(&row.request).response(function, format).await;
            let changed = !stack
                .keys()
                .without_markers_of_nothing()
                .changes_since(&before)
                .is_empty();
            let failure = row.failure(document, &Answer::new(status, headers, text), None, changed);
            failures.extend(failure.map(|text| format!("{format:?}: {text}")));
        }
    }
    failures
}

fn call(request: &Request) -> Call {
    let (method, route) = request.route.unwrap();
    let pairs = |map: &BTreeMap<String, String>| {
        let pairs = map.iter().map(|(name, value)| (name.clone(), value.clone()));
        pairs.collect()
    };
    let parameters = request.parameters.iter();
    Call {
        method: method.to_owned(),
        route: route.to_owned(),
        parameters: parameters
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        query: pairs(&request.query),
        headers: pairs(&request.headers),
        body: request.body.clone(),
    }
}
