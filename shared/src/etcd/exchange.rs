//! One request and its answer, over whichever machine of the cluster takes it.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body, BodyReader, Error,
    config::Config,
    http::{HeaderValue, Method, Request, Response, header},
    tls::TlsConfig,
    unversioned::transport::{Connector, RustlsConnector, TcpConnector},
};

use super::{
    meter::{self, Counters, Meter, Names},
    settings::{InvalidSettings, Settings},
    tls,
};

/// A recursive read of everything may be several MB; more than this is not an answer of etcd to the broker.
const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;
/// Idle connections kept for each machine: handlers ask for several things at once, and connections beyond this are made
/// anew for each request.
const IDLE_CONNECTIONS: usize = 64;
/// What a connection reads or sends at once; it keeps a buffer of this size for each.
const LARGEST_PIECE: usize = 32 * 1024;
/// After this long, a connection may have been forgotten by something on the way that tells neither side.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// An answer as it came.
pub(super) struct Reply {
    /// The address of the machine that answered.
    pub(super) machine: String,
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

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// What was tried, machine by machine.
    pub(super) text: String,
    /// Whether a machine may have got the request as a whole, and may act on it still.
    pub(super) sent: bool,
    pub(super) cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The machine, or the way to it.
    Machine,
    /// The connection ended; perhaps only that: one that is kept for further requests may end at any moment, for
    /// instance because etcd restarts.
    Connection,
    /// Something that is not HTTP, or beyond all measure.
    Nonsense,
}

impl Failure {
    fn of(machine: &str, error: &Error) -> Self {
        let text = match error {
            Error::Timeout(phase) => format!("{machine}: no answer in time ({phase})"),
            other => format!("{machine}: {other}"),
        };
        let cause = match error {
            Error::Protocol(_)
            | Error::Http(_)
            | Error::LargeResponseHeader(..)
            | Error::BodyExceedsLimit(_) => Cause::Nonsense,
            Error::Io(error) if connection_ended(error.kind()) => Cause::Connection,
            _ => Cause::Machine,
        };
        Self {
            text,
            sent: meter::may_have_arrived(),
            cause,
        }
    }

    fn join(tried: Vec<Self>) -> Self {
        let nonsense = tried.iter().any(|failure| failure.cause == Cause::Nonsense);
        Self {
            sent: tried.iter().any(|failure| failure.sent),
            cause: if nonsense { Cause::Nonsense } else { Cause::Machine },
            text: tried
                .into_iter()
                .map(|failure| failure.text)
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

fn connection_ended(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// The machines of a cluster, and the connections to them.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    agent: Agent,
    /// The configuration of an agent that keeps no connections.
    unpooled: Config,
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
        let machines = settings.bases()?;
        let tls = tls::config(settings)?;
        let counters = Arc::new(Counters::default());
        let pooled = config(settings, tls.clone(), IDLE_CONNECTIONS, machines.len());
        Ok(Self {
            agent: agent(pooled, &counters),
            unpooled: config(settings, tls, 0, machines.len()),
            machines: machines.into(),
            good: Arc::new(AtomicUsize::new(0)),
            authorization: settings.authorization()?,
            request_timeout: settings.request_timeout,
            stream_limit: settings.stream_limit,
            counters,
        })
    }

    /// The same machines, over connections of its own, which [`Self::shut_down`] ends without harm to others. Each is
    /// used once: when a stream was silent because its connection was dead, a kept one would be dead as well.
    pub(super) fn fork(&self) -> Self {
        Self {
            agent: agent(self.unpooled.clone(), &self.counters),
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

    /// Asks one machine after the other until one answers. A GET goes on to the next one after every failure; anything
    /// else only when the machine certainly did not get the request as a whole.
    ///
    /// A server's error counts as no answer: without a quorum etcd says that a write timed out, and may do it later.
    pub(super) fn call(&self, method: &Method, target: &str, form: Option<&str>) -> Result<Reply, Failure> {
        let deadline = Instant::now() + 2 * self.request_timeout;
        let first = self.good();
        let mut tried = Vec::new();
        for offset in 0..self.machines.len() {
            let place = (first + offset) % self.machines.len();
            let failure = match self.ask(place, deadline, method, target, form) {
                Ok(reply) => {
                    self.good.store(place, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            // The next call begins with another machine, unless somebody found a better one meanwhile.
            let next = (place + 1) % self.machines.len();
            let _ = self
                .good
                .compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
            let over = (failure.sent && *method != Method::GET) || Instant::now() >= deadline;
            tried.push(failure);
            if over {
                break;
            }
        }
        Err(Failure::join(tried))
    }

    /// Asks one machine; once more if only the connection ended, and the request may be repeated.
    fn ask(
        &self,
        place: usize,
        deadline: Instant,
        method: &Method,
        target: &str,
        form: Option<&str>,
    ) -> Result<Reply, Failure> {
        match self.exchange(place, deadline, method, target, form) {
            Err(Failure {
                sent,
                cause: Cause::Connection,
                ..
            }) if !sent || *method == Method::GET => self.exchange(place, deadline, method, target, form),
            answered => answered,
        }
    }

    /// Asks one machine only.
    pub(super) fn read_at(&self, place: usize, target: &str) -> Result<Reply, Failure> {
        let deadline = Instant::now() + self.request_timeout;
        self.ask(place, deadline, &Method::GET, target, None)
    }

    /// Opens a stream at one machine; reading it fails after `stream_limit` of silence. (A limit of the whole stream
    /// would run while nobody reads, and cut off what has come and was not read yet.)
    pub(super) fn open(&self, place: usize, target: &str) -> Result<Stream, Failure> {
        let request = self.request(place, &Method::GET, target, ()).map(|request| {
            let config = self.agent.configure_request(request).timeout_global(None);
            let config = config.timeout_recv_response(Some(self.request_timeout));
            config.timeout_per_read(Some(self.stream_limit)).build()
        });
        self.begin();
        let response = request
            .and_then(|request| self.agent.run(request))
            .map_err(|error| self.failed(Failure::of(self.machine(place), &error)))?;
        let (status, index) = head(&response);
        Ok(Stream {
            status,
            index,
            body: response.into_body().into_reader(),
        })
    }

    /// The address of a machine.
    pub(super) fn machine(&self, place: usize) -> &str {
        self.machines.get(place).map_or("", String::as_str)
    }

    fn failed(&self, failure: Failure) -> Failure {
        self.counters.failure();
        failure
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
        deadline: Instant,
        method: &Method,
        target: &str,
        form: Option<&str>,
    ) -> Result<Reply, Failure> {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(self.request_timeout);
        self.begin();
        let answered = match form {
            Some(form) => self
                .request(place, method, target, form)
                .and_then(|request| self.agent.run(self.limited(request, left))),
            None => self
                .request(place, method, target, ())
                .and_then(|request| self.agent.run(self.limited(request, left))),
        };
        let reply = answered
            .and_then(|response| {
                let (status, index) = head(&response);
                let body = response
                    .into_body()
                    .into_with_config()
                    .limit(LARGEST_ANSWER)
                    .read_to_vec()?;
                Ok(Reply {
                    machine: self.machine(place).to_owned(),
                    status,
                    index,
                    body,
                })
            })
            .map_err(|error| self.failed(Failure::of(self.machine(place), &error)))?;
        if reply.status >= 500 {
            let text = format!(
                "{}: answered {} {}",
                self.machine(place),
                reply.status,
                excerpt(&reply.body)
            );
            return Err(self.failed(Failure {
                text,
                sent: true,
                cause: Cause::Machine,
            }));
        }
        Ok(reply)
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

fn config(settings: &Settings, tls: TlsConfig, idle: usize, machines: usize) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .tls_config(tls)
        .user_agent(concat!("patroni-broker/", env!("CARGO_PKG_VERSION")))
        .max_idle_connections_per_host(idle)
        .max_idle_connections(idle * machines)
        .max_idle_age(IDLE_TIME)
        .input_buffer_size(LARGEST_PIECE)
        .output_buffer_size(LARGEST_PIECE)
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout))
        .timeout_global(Some(settings.request_timeout))
        .build()
}

fn agent(config: Config, counters: &Arc<Counters>) -> Agent {
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
