//! A server that answers each HTTP request with whatever bytes a test says, or not at all.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// What to do about a request.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// Answers these bytes, and waits for the next request.
    Answer(Vec<u8>),
    /// Answers these bytes with a pause before each further piece, and waits for the next request.
    Pieces(Vec<Vec<u8>>),
    /// Answers these bytes, and ends the connection.
    Last(Vec<u8>),
    /// Says nothing, and keeps the connection.
    Silence,
}

/// A server on loopback; ends when it is dropped.
#[derive(Debug)]
pub struct CannedServer {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl CannedServer {
    /// Starts a server. `react` gets the number of the request on its connection (from 0) and the request's text.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(react: impl Fn(usize, &str) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let server = Self {
            port,
            requests: Arc::clone(&requests),
            over: Arc::clone(&over),
        };
        let react = Arc::new(react);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let (react, requests, over) = (Arc::clone(&react), Arc::clone(&requests), Arc::clone(&over));
                thread::spawn(move || serve(connection, &*react, &requests, &over));
            }
        });
        server
    }

    /// A server that answers every request with the same bytes and ends the connection.
    #[must_use]
    pub fn always(answer: &[u8]) -> Self {
        let answer = answer.to_vec();
        Self::start(move |_, _| Reaction::Last(answer.clone()))
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far, head and body.
    ///
    /// # Panics
    /// When a reaction has panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for CannedServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(
    mut connection: TcpStream,
    react: &dyn Fn(usize, &str) -> Reaction,
    requests: &Mutex<Vec<String>>,
    over: &AtomicBool,
) {
    let mut number = 0;
    while let Some(request) = request(&mut connection) {
        requests.lock().unwrap().push(request.clone());
        let reaction = react(number, &request);
        number += 1;
        match reaction {
            Reaction::Answer(bytes) => {
                if connection.write_all(&bytes).is_err() {
                    return;
                }
            }
            Reaction::Pieces(pieces) => {
                for piece in pieces {
                    if connection.write_all(&piece).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Reaction::Last(bytes) => {
                let _ = connection.write_all(&bytes);
                return;
            }
            Reaction::Silence => {
                while !over.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                return;
            }
        }
    }
}

fn request(connection: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(amount) => bytes.extend_from_slice(&buffer[..amount]),
        }
    }
}
