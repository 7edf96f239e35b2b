//! What Schemathesis makes of `config/openapi.yaml` is sent to a whole installation: no answer of 5xx, none that the document
//! does not know, and nothing without credentials. Some of it makes real instances, and some of it takes them away.
//!
//! `make test` installs the tool and runs this.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use tests::{
    binaries::{repository_file, tool},
    osb::{USER, nodes},
    stack::{Options, Stack},
};
use tokio::process::Command;

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,ignored_auth,unsupported_method,allow_header_conformance";

#[tokio::test]
#[ignore = "needs Schemathesis: make test"]
async fn no_request_leads_to_an_answer_that_is_not_documented() {
    let stack = Stack::start(Options {
        zones: vec!["z1", "z2"],
        capacity: 2,
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    // The ids of the document's examples.
    osb.make("example", &nodes(1)).await;
    osb.bind("example", "example").await.expect(201);
    let url = format!("http://{}", osb.address());
    let output = Command::new(tool("schemathesis"))
        .arg("run")
        .arg(repository_file("config/openapi.yaml"))
        .args(["--url", &url])
        .args(["--auth", &format!("{USER}:{USER}")])
        // Other versions are refused before anything else is looked at.
        .args(["--header", "X-Broker-API-Version: 2.17"])
        .args(["--checks", CHECKS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "20", "--seed", "1", "--no-color"])
        .args(["--request-timeout", "60"])
        .args(["--continue-on-failure", "--suppress-health-check", "all"])
        // It leaves notes for its next run where it is started.
        .current_dir(stack.directory())
        .env("NO_PROXY", "*")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{complaints}");
}
