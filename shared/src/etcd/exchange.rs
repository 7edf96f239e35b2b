//! One request and its answer, over whichever machine of the cluster takes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body, BodyReader, Error,
    http::{HeaderValue, Method, Request, Response, header},
    unversioned::transport::{Connector, RustlsConnector, TcpConnector},
};

use super::{
    meter::{self, Counters, Meter, Names},
    settings::{InvalidSettings, Settings},
    tls,
};

/// A recursive read of everything may be several MB; more than this is not an answer of etcd to the broker.
const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;
/// Idle connections kept for each machine: as many handlers at once as are usual, and no more.
const IDLE_CONNECTIONS: usize = 16;
/// After this long, a connection may have been forgotten by something on the way that tells neither side.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// An answer as it came.
pub(super) struct Reply {
    pub(super) status: u16,
    /// `X-Etcd-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// A stream that a watch listens to.
pub(super) struct Stream {
    pub(super) status: u16,
    /// `X-Etcd-Index`: of the moment at which etcd registered the watch.
    pub(super) index: Option<u64>,
    pub(super) body: BodyReader<'static>,
}

/// Why there is no answer. The texts name the machines.
#[derive(Debug)]
pub(super) enum Failure {
    /// No machine got the request as a whole: it was certainly not done.
    NotSent(String),
    /// A machine may have got it, and may act on it still.
    Unanswered(String),
    /// A machine answered something that is not HTTP, or is beyond all measure.
    Nonsense(String),
}

impl Failure {
    fn of(machine: &str, error: &Error) -> Self {
        let text = match error {
            Error::Timeout(phase) => format!("{machine}: no answer in time ({phase})"),
            other => format!("{machine}: {other}"),
        };
        if !meter::may_have_arrived() {
            return Self::NotSent(text);
        }
        match error {
            Error::Protocol(_)
            | Error::Http(_)
            | Error::LargeResponseHeader(..)
            | Error::BodyExceedsLimit(_) => Self::Nonsense(text),
            _ => Self::Unanswered(text),
        }
    }

    pub(super) fn into_text(self) -> String {
        let (Self::NotSent(text) | Self::Unanswered(text) | Self::Nonsense(text)) = self;
        text
    }
}

/// The machines of a cluster, and the connections to them.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    agent: Agent,
    machines: Arc<[String]>,
    /// The machine that answered last, by its place in `machines`.
    good: Arc<AtomicUsize>,
    authorization: Option<HeaderValue>,
    request_timeout: Duration,
    stream_limit: Duration,
    counters: Arc<Counters>,
}

impl Exchange {
    pub(super) fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        settings.check_times()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(tls::config(settings)?)
            .user_agent(concat!("patroni-broker/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_idle_connections(IDLE_CONNECTIONS * settings.machines.len())
            .max_idle_age(IDLE_TIME)
            .timeout_resolve(Some(settings.connect_timeout))
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_global(Some(settings.request_timeout))
            .build();
        let counters = Arc::new(Counters::default());
        Ok(Self {
            agent: agent(config, &counters),
            machines: settings.bases()?.into(),
            good: Arc::new(AtomicUsize::new(0)),
            authorization: settings.authorization()?,
            request_timeout: settings.request_timeout,
            stream_limit: settings.stream_limit,
            counters,
        })
    }

    /// The same machines, over connections of its own, which [`Self::shut_down`] ends without harm to others.
    pub(super) fn fork(&self) -> Self {
        let config = self.agent.config().clone();
        Self {
            agent: agent(config, &self.counters),
            ..self.clone()
        }
    }

    /// Ends every connection at once; a thread that waits on one gets an error.
    pub(super) fn shut_down(self) {
        self.agent.shutdown();
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn machines(&self) -> usize {
        self.machines.len()
    }

    /// The place of the machine that answered last.
    pub(super) fn good(&self) -> usize {
        self.good.load(Ordering::Relaxed)
    }

    /// Asks one machine after the other until one answers with anything but a server's error. `target` is the path
    /// with its query.
    pub(super) fn read(&self, target: &str) -> Result<Reply, Failure> {
        let mut nonsense = false;
        let mut tried = Vec::new();
        for (place, left) in self.attempts() {
            match self.exchange(place, left, &Method::GET, target, None) {
                Ok(reply) if reply.status < 500 => {
                    self.good.store(place, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(reply) => tried.push(self.refusal(place, &reply)),
                Err(failure) => {
                    nonsense |= matches!(failure, Failure::Nonsense(_));
                    tried.push(failure.into_text());
                }
            }
            self.avoid(place);
        }
        let tried = tried.join("; ");
        Err(if nonsense {
            Failure::Nonsense(tried)
        } else {
            Failure::Unanswered(tried)
        })
    }

    /// Sends a write to the first machine that takes it, and to no second one unless the first certainly did not get
    /// it as a whole. A server's error counts as no answer: without a quorum etcd says that the request timed out,
    /// yet does it later if it finds a quorum again.
    pub(super) fn write(&self, method: &Method, target: &str, form: Option<&str>) -> Result<Reply, Failure> {
        let mut tried = Vec::new();
        for (place, left) in self.attempts() {
            match self.exchange(place, left, method, target, form) {
                Ok(reply) if reply.status < 500 => {
                    self.good.store(place, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(reply) => {
                    self.avoid(place);
                    return Err(Failure::Unanswered(self.refusal(place, &reply)));
                }
                Err(Failure::NotSent(text)) => {
                    self.avoid(place);
                    tried.push(text);
                }
                Err(failure) => {
                    self.avoid(place);
                    return Err(failure);
                }
            }
        }
        Err(Failure::NotSent(tried.join("; ")))
    }

    /// Asks one machine only.
    pub(super) fn read_at(&self, place: usize, target: &str) -> Result<Reply, Failure> {
        let reply = self.exchange(place, self.request_timeout, &Method::GET, target, None)?;
        if reply.status < 500 {
            Ok(reply)
        } else {
            Err(Failure::Unanswered(self.refusal(place, &reply)))
        }
    }

    /// Opens a stream at one machine; it ends by itself after `stream_limit`.
    pub(super) fn open(&self, place: usize, target: &str) -> Result<Stream, Failure> {
        let request = self.request(place, &Method::GET, target, ());
        let request = request.map(|request| {
            let config = self.agent.configure_request(request).timeout_global(None);
            let config = config.timeout_recv_response(Some(self.request_timeout));
            config.timeout_recv_body(Some(self.stream_limit)).build()
        });
        self.begin();
        let response = request
            .and_then(|request| self.agent.run(request))
            .map_err(|error| Failure::of(self.machine(place), &error))?;
        let (status, index) = head(&response);
        Ok(Stream {
            status,
            index,
            body: response.into_body().into_reader(),
        })
    }

    /// The machines in the order in which to try them, each with the time that is left for it.
    fn attempts(&self) -> impl Iterator<Item = (usize, Duration)> {
        let deadline = Instant::now() + 2 * self.request_timeout;
        let (first, count, most) = (self.good(), self.machines.len(), self.request_timeout);
        (0..count).map_while(move |offset| {
            let left = deadline.saturating_duration_since(Instant::now()).min(most);
            (!left.is_zero()).then_some(((first + offset) % count, left))
        })
    }

    /// Lets the next call begin with another machine, unless somebody found a better one meanwhile.
    fn avoid(&self, place: usize) {
        let next = (place + 1) % self.machines.len();
        let _ = self
            .good
            .compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn machine(&self, place: usize) -> &str {
        self.machines.get(place).map_or("", String::as_str)
    }

    fn refusal(&self, place: usize, reply: &Reply) -> String {
        let machine = self.machine(place);
        format!("{machine}: answered {} {}", reply.status, excerpt(&reply.body))
    }

    fn begin(&self) {
        meter::begin();
        self.counters.request();
    }

    fn request<B>(&self, place: usize, method: &Method, target: &str, body: B) -> Result<Request<B>, Error> {
        let url = format!("{}{target}", self.machine(place));
        let mut request = Request::builder().method(method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if matches!(*method, Method::PUT | Method::POST) {
            // etcd ignores a body of any other type, and would write an empty value.
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request.body(body).map_err(Error::Http)
    }

    fn exchange(
        &self,
        place: usize,
        left: Duration,
        method: &Method,
        target: &str,
        form: Option<&str>,
    ) -> Result<Reply, Failure> {
        self.begin();
        let answered = match form {
            Some(form) => self
                .request(place, method, target, form)
                .and_then(|request| self.agent.run(self.limited(request, left))),
            None => self
                .request(place, method, target, ())
                .and_then(|request| self.agent.run(self.limited(request, left))),
        };
        let whole = answered.and_then(|response| {
            let (status, index) = head(&response);
            let body = response
                .into_body()
                .into_with_config()
                .limit(LARGEST_ANSWER)
                .read_to_vec()?;
            Ok(Reply { status, index, body })
        });
        whole.map_err(|error| Failure::of(self.machine(place), &error))
    }

    fn limited<B: ureq::AsSendBody>(&self, request: Request<B>, left: Duration) -> Request<B> {
        if left >= self.request_timeout {
            return request;
        }
        self.agent
            .configure_request(request)
            .timeout_global(Some(left))
            .build()
    }
}

fn agent(config: ureq::config::Config, counters: &Arc<Counters>) -> Agent {
    let chain = TcpConnector::default().chain(RustlsConnector::default());
    Agent::with_parts(config, chain.chain(Meter(Arc::clone(counters))), Names::default())
}

fn head(response: &Response<Body>) -> (u16, Option<u64>) {
    let index = response.headers().get("x-etcd-index");
    let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
    (response.status().as_u16(), index)
}

/// The beginning of an answer, fit for an error's text.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim()
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .replace("\\\"", "\"")
}
