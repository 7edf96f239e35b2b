//! A proxy that writes down the HTTP requests that pass, and can hold them back from a certain one on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct RequestLog {
    url: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    lines: Mutex<Vec<String>>,
    connections: AtomicUsize,
    /// Bytes that came from either side since they were asked for last.
    bytes: AtomicU64,
    /// Requests so far, also those that are held back.
    count: AtomicUsize,
    /// Requests up to this number pass.
    limit: watch::Sender<usize>,
}

impl RequestLog {
    /// A proxy in front of a server, which is given by its base URL, without TLS.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            lines: Mutex::default(),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            limit: watch::Sender::new(usize::MAX),
        });
        let of_server = Arc::clone(&state);
        let server = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                of_server.connections.fetch_add(1, Ordering::SeqCst);
                // A server that is away is seen by the client as a connection that ends.
                if let Ok(server) = TcpStream::connect(&target).await {
                    tokio::spawn(pass(client, server, Arc::clone(&of_server)));
                }
            }
        });
        Self { url, state, server }
    }

    /// The base URL of the proxy.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests (method and target) since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.lines())
    }

    /// The bytes of requests and answers since this was asked last.
    #[must_use]
    pub fn take_bytes(&self) -> u64 {
        self.state.bytes.swap(0, Ordering::SeqCst)
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Lets so many more requests pass, and holds back those that follow, until [`Self::release`].
    pub fn hold_after(&self, requests: usize) {
        let count = self.state.count.load(Ordering::SeqCst);
        self.state.limit.send_replace(count + requests);
    }

    /// Whether a request is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.state.count.load(Ordering::SeqCst) > *self.state.limit.borrow()
    }

    /// Lets everything pass that was held back, also what was sent by clients that are gone, and all that comes.
    pub fn release(&self) {
        self.state.limit.send_replace(usize::MAX);
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, bytes: &[u8]) {
        self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }

    /// Takes requests in, and answers when they may pass.
    async fn admit(&self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let number = self.count.fetch_add(lines.len(), Ordering::SeqCst) + lines.len();
        // Written down before they pass, so that an answer comes after its request's line.
        self.lines().extend(lines);
        let mut limit = self.limit.subscribe();
        // The sender lives as long as the state.
        let _ = limit.wait_for(|limit| number <= *limit).await;
    }
}

async fn pass(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let of_answers = Arc::clone(&state);
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            of_answers.count(&buffer[..length]);
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    });
    let mut requests = Requests::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        state.count(&buffer[..length]);
        state.admit(requests.read(&buffer[..length])).await;
        if to_server.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    answers.abort();
}

/// Tells requests apart in the bytes of a connection.
#[derive(Debug, Default)]
struct Requests {
    head: Vec<u8>,
    /// How many bytes of the present request's body are still to come.
    body: usize,
}

impl Requests {
    /// The first lines of the requests that begin in these bytes.
    fn read(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let of_body = self.body.min(bytes.len());
            self.body -= of_body;
            bytes = &bytes[of_body..];
            while let Some((byte, rest)) = bytes.split_first() {
                self.head.push(*byte);
                bytes = rest;
                if self.head.ends_with(b"\r\n\r\n") {
                    lines.push(self.begin());
                    break;
                }
            }
        }
        lines
    }

    /// Takes the head in; the bytes that follow are the body's.
    fn begin(&mut self) -> String {
        let head = String::from_utf8(std::mem::take(&mut self.head)).expect("a head of ASCII");
        let lower = head.to_ascii_lowercase();
        assert!(
            !lower.contains("\r\ntransfer-encoding:"),
            "a length is needed: {head}"
        );
        let length = lower.split_once("\r\ncontent-length:").map(|(_, rest)| rest);
        let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
        self.body = length.unwrap_or(0);
        let line = head.lines().next().unwrap_or_default();
        line.trim_end_matches(" HTTP/1.1").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_wherever_the_bytes_are_cut() {
        let text = "GET /a HTTP/1.1\r\nhost: x\r\n\r\nPUT /b HTTP/1.1\r\nContent-Length: 7\r\n\r\nGET /\r\n\
                    DELETE /c HTTP/1.1\r\n\r\n";
        for size in 1..=text.len() {
            let mut requests = Requests::default();
            let lines: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|bytes| requests.read(bytes))
                .collect();
            assert_eq!(lines, ["GET /a", "PUT /b", "DELETE /c"], "in pieces of {size}");
        }
    }
}
