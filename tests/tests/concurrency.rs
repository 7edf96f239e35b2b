//! Many requests at once, to two brokers: one cluster, one login, one end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;

use tests::{
    osb::{Answer, fresh_id, nodes},
    psql::{self, Session},
    stack::{Options, Stack},
};

/// How many requests are sent at once.
const MANY: usize = 20;

/// Sends the same request many times at once, to the brokers in turn.
async fn at_once<F>(stack: &Stack, request: impl Fn(tests::osb::Osb) -> F) -> Vec<Answer>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let brokers = stack.brokers.len();
    let sent: Vec<_> = (0..MANY)
        .map(|number| tokio::spawn(request(stack.osb_of(number % brokers))))
        .collect();
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.unwrap());
    }
    answers
}

fn is_concurrency_error(answer: &Answer) -> bool {
    answer.status == 422 && answer.body["error"] == "ConcurrencyError"
}

#[tokio::test]
async fn many_equal_requests_are_one() {
    let stack = Stack::start(Options {
        brokers: 2,
        ..Options::default()
    })
    .await;
    let before = stack.keys();
    let instance = fresh_id();
    let id = instance.clone();
    let provision = move |osb: tests::osb::Osb| {
        let id = id.clone();
        async move { osb.provision(&id, &nodes(2)).await }
    };
    let answers = at_once(&stack, provision).await;
    let operations: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.expect(202).body["operation"].to_string())
        .collect();
    assert_eq!(operations.len(), 1, "{operations:?}");
    stack.osb_of(1).provision(&instance, &nodes(1)).await.expect(409);
    stack.osb_of(0).succeeded(&instance).await;

    let record = stack.record(&instance).unwrap();
    assert_eq!(record.nodes.len(), 2, "{record:?}");
    assert!(record.retired.is_empty(), "{record:?}");
    assert_eq!(stack.node_directories().len(), 2);
    let patronis = stack.node_processes();
    let patronis = patronis
        .iter()
        .filter(|process| process.command.contains("patroni.yml"));
    assert_eq!(patronis.count(), 2);
    let keys = stack.keys().0;
    let owners = keys
        .iter()
        .filter(|(key, value)| key.starts_with("/routing/ports/") && value.contains(&instance));
    assert_eq!(owners.count(), 1);

    let id = instance.clone();
    let answers = at_once(&stack, move |osb| {
        let id = id.clone();
        async move { osb.bind(&id, "b").await }
    })
    .await;
    // A platform that is told of another request under way asks again.
    let made = answers.iter().filter(|answer| matches!(answer.status, 200 | 201));
    let credentials: BTreeSet<_> = made
        .map(|answer| answer.body["credentials"].to_string())
        .collect();
    assert_eq!(credentials.len(), 1, "{answers:?}");
    let others = answers
        .iter()
        .filter(|answer| !matches!(answer.status, 200 | 201));
    assert!(others.into_iter().all(is_concurrency_error), "{answers:?}");
    let bound = stack.osb().bind(&instance, "b").await;
    let credentials_again = &bound.expect(200).body["credentials"];
    assert!(credentials.contains(&credentials_again.to_string()));
    let session = Session::open(credentials_again).await.unwrap();

    let id = instance.clone();
    let answers = at_once(&stack, move |osb| {
        let id = id.clone();
        async move { osb.unbind(&id, "b").await }
    })
    .await;
    let expected = |answer: &Answer| matches!(answer.status, 200 | 410) || is_concurrency_error(answer);
    assert!(answers.iter().all(expected), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.status == 200), "{answers:?}");
    session.ended().await;
    psql::assert_refused(credentials_again).await;

    let id = instance.clone();
    let answers = at_once(&stack, move |osb| {
        let id = id.clone();
        async move { osb.deprovision(&id).await }
    })
    .await;
    let expected = |answer: &Answer| matches!(answer.status, 200 | 202 | 410);
    assert!(answers.iter().all(expected), "{answers:?}");
    stack.osb().succeeded(&instance).await;
    stack.assert_gone(&before).await;
}

#[tokio::test]
async fn different_requests_for_one_id_have_one_winner() {
    let stack = Stack::start(Options {
        brokers: 2,
        router: false,
        ..Options::default()
    })
    .await;
    let before = stack.keys();
    for _ in 0..3 {
        let instance = fresh_id();
        let (one, two) = (stack.osb_of(0), stack.osb_of(1));
        let (single, pair) = (nodes(1), nodes(2));
        let (first, second) =
            tokio::join!(one.provision(&instance, &single), two.provision(&instance, &pair));
        let statuses = BTreeSet::from([first.status, second.status]);
        assert_eq!(statuses, BTreeSet::from([202, 409]), "{first:?} {second:?}");
        let wanted = if first.status == 202 { 1 } else { 2 };
        assert_eq!(stack.record(&instance).unwrap().node_count, wanted);
        one.unmake(&instance).await;
        stack.assert_gone(&before).await;
    }
}
