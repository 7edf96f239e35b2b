//! The gateway as a server, for any client.
//!
//! **Guarantees.** What AWS does with functions, it does: one handles one event at a time, so that there are as many as
//! there are requests at once; between events it is frozen (SIGSTOP), wherever it is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{RawPathParams, Request, State},
    http::{Method, Response, Uri},
    routing::{MethodFilter, on},
};
use handlers::routes::{self, Route};
use reqwest::Url;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Call, Format};
use crate::runtime_api::Function;

/// A gateway in front of all functions. They end with it.
pub struct Gateway {
    url: String,
    endpoints: Vec<Arc<Endpoint>>,
    server: JoinHandle<()>,
}

/// A route's function, in as many processes as were needed at once.
struct Endpoint {
    route: &'static Route,
    format: Format,
    variables: BTreeMap<String, String>,
    logs: PathBuf,
    frozen: Mutex<Vec<Function>>,
    started: AtomicUsize,
}

impl Gateway {
    /// A gateway that writes events in this format for functions that have these variables. Their logs are put into a
    /// directory.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(format: Format, variables: &BTreeMap<String, String>, logs: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = |route| {
            Arc::new(Endpoint {
                route,
                format,
                variables: variables.clone(),
                logs: logs.to_owned(),
                frozen: Mutex::default(),
                started: AtomicUsize::new(0),
            })
        };
        let endpoints: Vec<_> = routes::ALL.into_iter().map(endpoint).collect();
        let mut router = Router::new();
        for endpoint in &endpoints {
            let method = Method::from_bytes(endpoint.route.method.as_bytes()).unwrap();
            let method = MethodFilter::try_from(method).unwrap();
            let handler = on(method, handle).with_state(Arc::clone(endpoint));
            router = router.route(endpoint.route.path, handler);
        }
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            endpoints,
            server,
        }
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
        // Connections that clients keep open keep the endpoints, too.
        for endpoint in &self.endpoints {
            endpoint.frozen().clear();
        }
    }
}

impl Endpoint {
    fn frozen(&self) -> MutexGuard<'_, Vec<Function>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function for one event.
    async fn thaw(&self) -> Function {
        if let Some(function) = self.frozen().pop() {
            function.resume();
            return function;
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let name = self.route.name;
        let log = self.logs.join(format!("{name}-{:?}-{number}.log", self.format));
        Function::start(name, &self.variables, &log).await
    }

    fn freeze(&self, function: Function) {
        function.pause();
        self.frozen().push(function);
    }
}

async fn handle(
    State(endpoint): State<Arc<Endpoint>>,
    decoded: RawPathParams,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let parameters = if endpoint.format.keeps_ids_encoded() {
        encoded(endpoint.route.path, &parts.uri)
    } else {
        let pairs = decoded.iter();
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    let url = Url::parse("http://localhost")
        .unwrap()
        .join(&parts.uri.to_string())
        .unwrap();
    let headers = parts.headers.iter();
    let call = Call {
        method: parts.method.to_string(),
        route: endpoint.route.path.to_owned(),
        parameters,
        query: url.query_pairs().into_owned().collect(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let function = endpoint.thaw().await;
    let answer = call.to(&function, endpoint.format).await;
    endpoint.freeze(function);
    let mut response = Response::new(Body::from(answer.text));
    *response.status_mut() = answer.status.try_into().unwrap();
    *response.headers_mut() = answer.headers;
    response
}

/// The parameters of a path as they are in a URL.
fn encoded(route: &str, uri: &Uri) -> Vec<(String, String)> {
    let pairs = route.split('/').zip(uri.path().split('/'));
    pairs
        .filter_map(|(name, value)| {
            let name = name.strip_prefix('{')?.strip_suffix('}')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}
