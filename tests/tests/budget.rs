//! What requests cost in requests to etcd. The functions are counted: beside them nobody moves an instance on, so that this
//! also shows that polls alone finish what was begun.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use tests::{functions::Functions, osb::fresh_id, psql::Session, stack::Options};

/// What a pass over an instance reads that took longer than a second, to see that it is still there (shared/src/advance.rs, `LATE`).
const LOOKS_BACK: usize = 3;

/// The same as [`assert_at_most`], for a call that makes a pass.
#[track_caller]
fn assert_pass_at_most(most: usize, requests: &[String], took: Duration) {
    let is_late = took > Duration::from_secs(1);
    assert_at_most(most + if is_late { LOOKS_BACK } else { 0 }, requests);
}

#[track_caller]
fn assert_at_most(most: usize, requests: &[String]) {
    let shown = requests.join("\n");
    assert!(
        requests.len() <= most,
        "{} instead of {most}:\n{shown}",
        requests.len()
    );
}

#[tokio::test]
async fn requests_keep_to_their_budget() {
    let functions = Functions::start(Options {
        zones: vec!["z1", "z2"],
        ..Options::default()
    })
    .await;
    let before = functions.stack.keys();
    // The first provision ever looks for the ports of an older router.
    functions.call("provision", "first").await.0.expect(202);
    let instance = fresh_id();

    let (answer, requests) = functions.call("catalog", "").await;
    answer.expect(200);
    assert_at_most(0, &requests);

    let begun = Instant::now();
    let (answer, requests) = functions.call("provision", &instance).await;
    let took = begun.elapsed();
    answer.expect(202);
    assert_pass_at_most(9 + 2 * 2, &requests, took);
    // A repetition joins the operation, and moves it on like a poll.
    let begun = Instant::now();
    let (answer, requests) = functions.call("provision", &instance).await;
    let took = begun.elapsed();
    answer.expect(202);
    assert_pass_at_most(3, &requests, took);

    functions.succeeded(&instance).await;
    let begun = Instant::now();
    let (_, requests) = functions.call("last_operation", &instance).await;
    let took = begun.elapsed();
    assert!(!requests.is_empty(), "what counts requests counts nothing");
    assert_pass_at_most(2, &requests, took);

    let (answer, requests) = functions.call("bind", &instance).await;
    let credentials = &answer.expect(201).body["credentials"];
    assert_at_most(4, &requests);
    let session = Session::open(credentials).await.unwrap();
    session.run("CREATE TABLE t (x int)").await;
    let (answer, requests) = functions.call("bind", &instance).await;
    answer.expect(200);
    assert_at_most(4, &requests);
    let (answer, requests) = functions.call("unbind", &instance).await;
    answer.expect(200);
    assert_at_most(4, &requests);
    session.ended().await;

    for instance in ["first", &instance] {
        let (answer, _) = functions.call("deprovision", instance).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        functions.succeeded(instance).await;
    }
    functions.stack.assert_gone(&before).await;
}
