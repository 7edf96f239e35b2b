//! `cargo lambda watch`, as `make functions` runs it, but in front of the functions as they were built for the tests.

use std::time::Duration;

use handlers::routes;
use serde_json::json;
use tests::{
    binaries::{self, repository_file},
    child::Child,
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes, send},
    ports::free_port,
    runtime_api,
    stack::function_variables,
    wait::eventually,
};
use tokio::net::TcpStream;

/// How long it may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

#[tokio::test]
async fn cargo_lambda_has_the_same_routes() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let (host, port) = address.split_once(':').unwrap();
    let manifest = repository_file("Cargo.toml");
    let arguments = [
        ["lambda", "watch"],
        ["--manifest-path", &manifest],
        ["--package", "handlers"],
        ["--invoke-address", host],
        ["--invoke-port", port],
    ];
    let mut arguments: Vec<_> = arguments
        .iter()
        .flatten()
        .map(|text| (*text).to_owned())
        .collect();
    // It would build them once more before it starts them.
    arguments.push("--only-lambda-apis".to_owned());
    let log = directory.path().join("gateway.log");
    let mut gateway = Child::start(&binaries::cargo_lambda(), &arguments, &log);
    eventually("the gateway", START, async || {
        assert!(gateway.is_running(), "{}", gateway.last_words());
        TcpStream::connect(&address).await.ok()
    })
    .await;

    let variables = function_variables(&format!("http://127.0.0.1:{}", free_port()));
    let mut functions = Vec::new();
    for name in routes::ALL.map(|route| route.name) {
        let environment = runtime_api::environment(name, &format!("http://{address}/.rt/{name}"), &variables);
        let log = directory.path().join(name);
        functions.push(Child::start_in(&environment, &binaries::path(name), &[], &log));
    }
    let osb = Osb::new(&format!("http://{address}"));
    let mut body = nodes(2);
    body["parameters"] = json!({});
    for route in routes::ALL {
        // Encoded as no client needs to, which this gateway leaves to the functions.
        let id = fresh_id().replace('-', "%2D");
        let path = route
            .path
            .replace("{instance_id}", &id)
            .replace("{binding_id}", &id);
        let query = format!("accepts_incomplete=true&service_id={SERVICE}&plan_id={PLAN}");
        let request = osb.request(route.method.parse().unwrap(), &format!("{path}?{query}"));
        let answer = send(request.json(&body)).await;
        // There is no etcd.
        answer.expect(if route.name == "catalog" { 200 } else { 503 });
    }
}
