//! What goes over the wire: how much, and whether a request was handed over completely.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ureq::{
    Error,
    config::Config,
    http::{Uri, uri::Scheme},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
    },
};

thread_local! {
    /// Whether all that this thread's request has tried to send so far was taken by the connection.
    static SENT: Cell<bool> = const { Cell::new(false) };
}

/// To be called before each request.
pub(super) fn begin() {
    SENT.set(false);
}

/// Whether the last request of this thread may have reached the machine as a whole. It has not when nothing was sent
/// (looking up the name, connecting or the TLS handshake failed), nor when sending its latest piece failed (a
/// connection from the pool was reset): then at most a part of it is there, and etcd does not act on a part, since its
/// server needs the end of the head and the whole body that the head announces.
pub(super) fn may_have_arrived() -> bool {
    SENT.get()
}

/// What a client has exchanged with etcd since it was made, inside TLS where there is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests begun, including those that could not be sent, and streams of watches.
    pub requests: u64,
    /// Those among them that a machine did not answer, or with an error of its own (5xx).
    pub failures: u64,
    /// Bytes of requests, with their heads.
    pub bytes_sent: u64,
    /// Bytes of answers, with their heads.
    pub bytes_received: u64,
}

/// The running counts behind [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes_sent: self.sent.load(Ordering::Relaxed),
            bytes_received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// The last link of ureq's chain of connectors.
#[derive(Debug)]
pub(super) struct Meter(pub(super) Arc<Counters>);

impl<In: Transport> Connector<In> for Meter {
    type Out = Metered<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Metered<In>>, Error> {
        Ok(chained.map(|inner| Metered {
            inner,
            counters: Arc::clone(&self.0),
        }))
    }
}

/// A connection that is watched.
pub(super) struct Metered<T> {
    inner: T,
    counters: Arc<Counters>,
}

impl<T: Transport> Transport for Metered<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        SENT.set(false);
        self.inner.transmit_output(amount, timeout)?;
        SENT.set(true);
        self.counters.sent.fetch_add(amount as u64, Ordering::Relaxed);
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.inner.buffers().input().len();
        let progress = self.inner.await_input(timeout)?;
        let more = self.inner.buffers().input().len().saturating_sub(before);
        self.counters.received.fetch_add(more as u64, Ordering::Relaxed);
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for Metered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Takes addresses as they are and looks names up: ureq's own resolver starts a thread for each request, also for
/// those over a connection that is open already.
#[derive(Debug, Default)]
pub(super) struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let Some(address) = address(uri) else {
            return self.0.resolve(uri, config, timeout);
        };
        let mut addresses = self.empty();
        addresses.push(address);
        Ok(addresses)
    }
}

fn address(uri: &Uri) -> Option<SocketAddr> {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    let host = uri.host()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some(SocketAddr::new(
        host.parse().ok()?,
        uri.port_u16().unwrap_or(default),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// A connection that takes so many pieces, and then breaks.
    #[derive(Debug)]
    struct Brittle {
        pieces: usize,
        buffers: LazyBuffers,
    }

    impl Transport for Brittle {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            self.pieces = self
                .pieces
                .checked_sub(1)
                .ok_or_else(|| Error::Io(ErrorKind::BrokenPipe.into()))?;
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
            Ok(false)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn a_request_has_arrived_only_if_its_last_piece_was_taken() {
        for (pieces, arrived) in [(0, false), (1, false), (2, true)] {
            let inner = Brittle {
                pieces,
                buffers: LazyBuffers::new(1, 1),
            };
            let mut metered = Metered {
                inner,
                counters: Arc::default(),
            };
            begin();
            assert!(!may_have_arrived());
            for _piece in ["head", "body"] {
                if metered.transmit_output(10, NextTimeout::default()).is_err() {
                    break;
                }
            }
            assert_eq!(may_have_arrived(), arrived, "{pieces} pieces");
            assert_eq!(metered.counters.traffic().bytes_sent, 10 * pieces as u64);
        }
    }

    #[test]
    fn addresses_are_told_from_names() {
        let of = |text: &str| address(&text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("http://127.0.0.1:2379/x").as_deref(), Some("127.0.0.1:2379"));
        assert_eq!(of("https://[::1]/").as_deref(), Some("[::1]:443"));
        assert_eq!(of("http://etcd:2379/"), None);
    }
}
