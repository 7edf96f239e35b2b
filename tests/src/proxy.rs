//! A TCP proxy in front of a real server, for what goes wrong on the way.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How soon a connection follows what was decided about it.
const TICK: Duration = Duration::from_millis(10);
/// How long what is on its way may take: whoever is to receive it may not read.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// A proxy on loopback. Dropping it ends all of its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    target: String,
    /// Connections so far; each has its number.
    count: AtomicU64,
    /// Connections up to this number are cut.
    cut: AtomicU64,
    /// Connections up to this number carry nothing any more, yet stay open.
    frozen: AtomicU64,
    /// Nothing is carried for the moment.
    held: AtomicBool,
    /// New connections are cut at once.
    refuse: AtomicBool,
    /// Held for reading while something is passed on.
    passing: RwLock<()>,
    open: AtomicUsize,
    over: AtomicBool,
}

impl Proxy {
    /// A proxy in front of `target`, which is a base URL without TLS, or `host:port`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            target,
            ..State::default()
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accept(&listener, &accepting));
        Self { port, state }
    }

    /// The base URL of the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connections that are open now, also frozen ones.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Cuts all connections: they carry nothing any more. New ones pass.
    pub fn cut(&self) {
        self.state
            .cut
            .store(self.state.count.load(Ordering::SeqCst), Ordering::SeqCst);
        self.state.settle();
        // Both sides hear of it soon.
        thread::sleep(3 * TICK);
    }

    /// From now on the present connections carry nothing, and neither side hears of it; new ones pass.
    pub fn freeze(&self) {
        self.state
            .frozen
            .store(self.state.count.load(Ordering::SeqCst), Ordering::SeqCst);
        self.state.settle();
    }

    /// Carries nothing until [`Self::release`], on present and new connections; nothing is lost.
    pub fn hold(&self) {
        self.state.held.store(true, Ordering::SeqCst);
        self.state.settle();
    }

    /// Carries on.
    pub fn release(&self) {
        self.state.held.store(false, Ordering::SeqCst);
    }

    /// Cuts all connections and every new one, until [`Self::mend`].
    pub fn interrupt(&self) {
        self.state.refuse.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets new connections pass again.
    pub fn mend(&self) {
        self.state.refuse.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    /// Waits until what was on its way when an order came is through: the order holds for everything else.
    #[allow(clippy::disallowed_methods, reason = "a bound, not a measurement")]
    fn settle(&self) {
        let end = Instant::now() + ON_ITS_WAY;
        while self.passing.try_write().is_err() && Instant::now() < end {
            thread::sleep(TICK / 10);
        }
    }

    fn is_cut(&self, number: u64) -> bool {
        number <= self.cut.load(Ordering::SeqCst)
    }

    /// Passes on what has come, unless nobody is to get it. `false`: the connection is over.
    fn pass(&self, bytes: &[u8], mut to: &TcpStream, number: u64) -> bool {
        loop {
            let passing = self.passing.read().unwrap_or_else(PoisonError::into_inner);
            if self.is_cut(number) {
                return false;
            }
            if number <= self.frozen.load(Ordering::SeqCst) {
                return true;
            }
            if !self.held.load(Ordering::SeqCst) {
                return to.write_all(bytes).is_ok();
            }
            drop(passing);
            thread::sleep(TICK);
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if state.refuse.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(&state.target) else {
            continue;
        };
        let number = state.count.fetch_add(1, Ordering::SeqCst) + 1;
        let state = Arc::clone(state);
        thread::spawn(move || {
            state.open.fetch_add(1, Ordering::SeqCst);
            thread::scope(|scope| {
                scope.spawn(|| copy(&client, &server, number, &state));
                copy(&server, &client, number, &state);
            });
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn copy(mut from: &TcpStream, to: &TcpStream, number: u64, state: &State) {
    let _ = from.set_read_timeout(Some(TICK));
    let mut buffer = vec![0; 64 * 1024];
    while !state.is_cut(number) {
        if state.held.load(Ordering::SeqCst) {
            thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(amount) if state.pass(&buffer[..amount], to, number) => {}
            Ok(_) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // Both directions end together.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
