//! AWS Lambda's runtime API, as far as a function needs it to serve.
//!
//! **Guarantees.** The function is the real binary, with nothing in its environment but what AWS sets and what the test
//! says. It is killed when its value is dropped.
//! **Caveats.** It is not frozen between events; who wants that, as [`crate::gateway::Gateway`] does, pauses it.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path as Segments, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use uuid::Uuid;

use crate::{binaries, child::Child};

/// How long a function may take for an answer: more than any time limit in it.
const LIMIT: Duration = Duration::from_secs(120);

/// What a function made of an event: its response, or the error that it reported.
pub type Outcome = Result<Value, String>;

/// A function that waits for events.
#[derive(Debug)]
pub struct Function {
    child: Mutex<Child>,
    host: Arc<Host>,
    events: mpsc::UnboundedSender<(Uuid, Value)>,
    server: JoinHandle<()>,
}

/// What the host's endpoints share.
#[derive(Debug)]
struct Host {
    queue: AsyncMutex<mpsc::UnboundedReceiver<(Uuid, Value)>>,
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Outcome>>>,
    /// Whether the function has ever asked for an event.
    asked: watch::Sender<bool>,
}

/// The environment of a function that this runtime API hosts: what AWS sets, and these variables.
#[must_use]
pub fn environment(
    name: &str,
    runtime_api: &str,
    variables: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let of_aws = [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "test"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let of_aws = of_aws.map(|(name, value)| (name.to_owned(), value.to_owned()));
    variables.clone().into_iter().chain(of_aws).collect()
}

impl Function {
    /// Starts the binary of this name.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn start(name: &str, variables: &BTreeMap<String, String>, log: &Path) -> Self {
        Self::start_program(name, &binaries::path(name), variables, log).await
    }

    /// Starts a program as the function of this name.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn start_program(
        name: &str,
        program: &str,
        variables: &BTreeMap<String, String>,
        log: &Path,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (events, queue) = mpsc::unbounded_channel();
        let host = Arc::new(Host {
            queue: AsyncMutex::new(queue),
            waiting: Mutex::default(),
            asked: watch::Sender::new(false),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(Arc::clone(&host));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let variables = environment(name, &address, variables);
        let child = Child::start_in(&variables, program, &[], log);
        Self {
            child: Mutex::new(child),
            host,
            events,
            server,
        }
    }

    /// Waits until the function has started, and asks for its first event.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ready(&self) {
        let mut asked = self.host.asked.subscribe();
        let ready = timeout(LIMIT, asked.wait_for(|asked| *asked)).await;
        assert!(ready.is_ok(), "the function does not ask:\n{}", self.last_words());
    }

    /// Hands an event over, for whatever may happen to the function meanwhile.
    ///
    /// # Panics
    /// Never: the host lives as long as the function.
    pub fn begin(&self, event: Value) -> oneshot::Receiver<Outcome> {
        let id = Uuid::new_v4();
        let (sender, outcome) = oneshot::channel();
        self.host.lock().insert(id, sender);
        self.events.send((id, event)).unwrap();
        outcome
    }

    /// Has an event handled.
    ///
    /// # Panics
    /// When the function ends, or does not answer.
    pub async fn invoke(&self, event: Value) -> Outcome {
        let mut outcome = self.begin(event);
        let running = async {
            while self.lock().is_running() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            outcome = timeout(LIMIT, &mut outcome) => outcome.expect("an outcome in time").unwrap(),
            () = running => panic!("the function has ended:\n{}", self.last_words()),
        }
    }

    /// Waits until the function has ended by itself; answers the last lines that it printed.
    ///
    /// # Panics
    /// When it goes on.
    pub async fn ended(&self) -> String {
        crate::wait::eventually("the end of the function", LIMIT, async || {
            let mut child = self.lock();
            let ended = !child.is_running();
            ended.then(|| child.last_words())
        })
        .await
    }

    /// Freezes the function where it is; its connections stay open.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        self.lock().pause();
    }

    /// Lets a frozen function go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        self.lock().resume();
    }

    /// Kills the function as a power cut would.
    pub fn kill(&self) {
        self.lock().kill();
    }

    /// The last lines that the function printed.
    pub fn last_words(&self) -> String {
        self.lock().last_words()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Host {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, id: Uuid, outcome: Outcome) -> StatusCode {
        match self.lock().remove(&id) {
            None => StatusCode::BAD_REQUEST,
            Some(sender) => {
                // Whoever asked is gone when this fails.
                let _ = sender.send(outcome);
                StatusCode::ACCEPTED
            }
        }
    }
}

async fn next(State(host): State<Arc<Host>>) -> (HeaderMap, String) {
    host.asked.send_replace(true);
    let event = host.queue.lock().await.recv().await;
    let Some((id, event)) = event else {
        // The test is over: the function is about to be killed.
        return std::future::pending().await;
    };
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| headers.insert(name, value.parse().unwrap());
    set("content-type", "application/json");
    set("lambda-runtime-aws-request-id", &id.to_string());
    // In the year 2100.
    set("lambda-runtime-deadline-ms", "4102444800000");
    let arn = "arn:aws:lambda:eu-central-1:000000000000:function:test";
    set("lambda-runtime-invoked-function-arn", arn);
    set(
        "lambda-runtime-trace-id",
        "Root=1-00000000-000000000000000000000000",
    );
    (headers, event.to_string())
}

async fn response(State(host): State<Arc<Host>>, Segments(id): Segments<Uuid>, body: String) -> StatusCode {
    host.settle(id, serde_json::from_str(&body).map_err(|error| error.to_string()))
}

async fn error(State(host): State<Arc<Host>>, Segments(id): Segments<Uuid>, body: String) -> StatusCode {
    host.settle(id, Err(body))
}
