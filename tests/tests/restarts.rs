//! Each part is killed and started again under load, one at a time: everything is as before, and no session is cut.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tests::{
    keys::Keys,
    osb::{Answer, OPERATION, Osb, PLAN, SERVICE, fresh_id, nodes},
    psql::Session,
    stack::{Options, Stack},
    wait::eventually,
    writer::Writer,
};
use tokio::{task::JoinHandle, time::sleep};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes instances and takes them away, one after the other, and asks again when it gets no answer.
struct Platform {
    rounds: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Platform {
    fn start(osb: Osb) -> Self {
        let (rounds, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stopped.load(SeqCst) {
                round(&osb).await;
                counted.fetch_add(1, SeqCst);
            }
        });
        Self { rounds, stop, task }
    }

    /// Waits until the instance of this moment has come and gone.
    async fn completes_a_round(&self) {
        let before = self.rounds.load(SeqCst);
        eventually("an instance that comes and goes", OPERATION, async || {
            assert!(!self.task.is_finished(), "the platform has panicked");
            (self.rounds.load(SeqCst) > before).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, SeqCst);
        self.task.await.unwrap();
    }
}

async fn round(osb: &Osb) {
    let path = format!("/v2/service_instances/{}", fresh_id());
    let query = format!("?accepts_incomplete=true&service_id={SERVICE}&plan_id={PLAN}");
    let answer = insist(osb, Method::PUT, &format!("{path}{query}"), &nodes(1)).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    ends(osb, &path).await;
    let answer = insist(osb, Method::DELETE, &format!("{path}{query}"), &Value::Null).await;
    assert!(matches!(answer.status, 200 | 202 | 410), "{answer:?}");
    ends(osb, &path).await;
}

/// Polls until the operation under way has succeeded.
async fn ends(osb: &Osb, path: &str) {
    let path = format!("{path}/last_operation");
    loop {
        let answer = insist(osb, Method::GET, &path, &Value::Null).await;
        match answer.expect(200).body["state"].as_str() {
            Some("succeeded") => return,
            Some("in progress") => sleep(PAUSE).await,
            _ => panic!("{}", answer.text),
        }
    }
}

/// Sends a request until there is an answer that says more than "try again later".
async fn insist(osb: &Osb, method: Method, path: &str, body: &Value) -> Answer {
    loop {
        let request = osb.request(method.clone(), path).json(body);
        // A broker that is killed does not answer, or in the middle of its answer no more.
        if let Some(answer) = answered(request).await
            && answer.status != 503
        {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

async fn answered(request: RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.ok()?;
    Some(Answer::new(status, headers, text))
}

/// What stands in etcd about instances; what Patroni writes there all the time does not belong to it.
fn contracts(stack: &Stack) -> Keys {
    let mut keys = stack.keys().without_remains();
    keys.0
        .retain(|key, _| !key.starts_with("/service/") && !key.starts_with("/cells/"));
    keys
}

/// The processes of the nodes that are there: Patroni's, and PostgreSQL's first ones.
fn node_processes(stack: &Stack) -> BTreeSet<i32> {
    let lasting = |command: &str| command.contains("patroni.yml") || command.contains("bin/postgres -D");
    let processes = stack.node_processes().into_iter();
    processes
        .filter(|process| lasting(&process.command))
        .map(|process| process.id)
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Broker,
    Router,
    Cell(usize),
    Etcd,
}

impl Part {
    fn kill(self, stack: &mut Stack) {
        match self {
            Self::Broker => stack.brokers[0].kill(),
            Self::Router => stack.router.as_mut().unwrap().kill(),
            Self::Cell(number) => stack.cells[number].server.kill(),
            Self::Etcd => stack.etcd.kill(),
        }
    }

    async fn restart(self, stack: &mut Stack) {
        match self {
            Self::Broker => stack.brokers[0].restart().await,
            Self::Router => stack.router.as_mut().unwrap().restart().await,
            Self::Cell(number) => stack.cells[number].server.restart().await,
            Self::Etcd => stack.etcd.restart().await,
        }
    }
}

#[tokio::test]
async fn every_part_is_killed_and_started_again_under_load() {
    let mut stack = Stack::start(Options {
        durable: true,
        ..Options::default()
    })
    .await;
    let osb = stack.osb();
    let empty = stack.keys();
    let (busy, quiet) = (fresh_id(), fresh_id());
    osb.make(&busy, &nodes(2)).await;
    osb.make(&quiet, &nodes(3)).await;
    let bound = [osb.bind(&busy, "b").await, osb.bind(&quiet, "b").await];
    let credentials = bound
        .each_ref()
        .map(|answer| &answer.expect(201).body["credentials"]);
    let writer = Writer::start(credentials[0]).await;
    let session = Session::open(credentials[1]).await.unwrap();
    session
        .run("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('kept')")
        .await;
    let (before, processes) = (contracts(&stack), node_processes(&stack));
    assert_eq!(processes.len(), 10, "{:?}", stack.node_processes());

    let platform = Platform::start(osb.clone());
    platform.completes_a_round().await;
    let parts = [
        Part::Broker,
        Part::Router,
        Part::Cell(0),
        Part::Cell(1),
        Part::Cell(2),
        Part::Etcd,
    ];
    for part in parts {
        part.kill(&mut stack);
        writer.goes_on(50).await;
        part.restart(&mut stack).await;
        platform.completes_a_round().await;
        let account = writer.account();
        let seen = (account.sessions, &account.failures);
        assert_eq!(seen, (1, &[].into()), "the writer's session after {part:?}");
        let sum = session.ask("SELECT count(*) FROM notes").await;
        assert_eq!(sum.unwrap(), "1", "{part:?}");
    }
    platform.end().await;

    eventually("everything as before", OPERATION, async || {
        let changes = contracts(&stack).changes_since(&before);
        changes.is_empty().then_some(())
    })
    .await;
    assert_eq!(node_processes(&stack), processes, "{:?}", stack.node_processes());
    for (instance, answer) in [&busy, &quiet].into_iter().zip(&bound) {
        assert_eq!(osb.bind(instance, "b").await.expect(200).body, answer.body);
    }
    let (account, lost) = writer.end().await;
    assert_eq!(lost, Vec::<i64>::new());
    let session = Session::open(credentials[0]).await.unwrap();
    let rows = session.ask("SELECT count(*) FROM numbers").await.unwrap();
    let acknowledged = account.acknowledged.len();
    // The writer may have been stopped between a row and its acknowledgement.
    let expected = [acknowledged, acknowledged + 1].map(|count| count.to_string());
    assert!(expected.contains(&rows), "{rows} rows of {acknowledged}");
    drop(session);
    osb.unmake(&busy).await;
    osb.unmake(&quiet).await;
    stack.assert_gone(&empty).await;
}
