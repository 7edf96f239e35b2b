//! A proxy that writes down the HTTP requests that pass.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct RequestLog {
    url: String,
    lines: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
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
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&lines);
        let server = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                // A server that is away is seen by the client as a connection that ends.
                if let Ok(server) = TcpStream::connect(&target).await {
                    tokio::spawn(pass(client, server, Arc::clone(&log)));
                }
            }
        });
        Self { url, lines, server }
    }

    /// The base URL of the proxy.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests (method and target) since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.lines))
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(client: TcpStream, server: TcpStream, log: Arc<Mutex<Vec<String>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let mut requests = Requests::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        // Written down before it is passed on, so that an answer comes after its request's line.
        lock(&log).extend(requests.read(&buffer[..length]));
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
