//! Following the changes of one tree, in a blocking thread: snapshot, stream, next stream, and so on.

use std::{
    io::{BufRead, BufReader, Read as _},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::Sender;
use ureq::{BodyReader, Error, Timeout, http::Method};

use super::{
    answer::{Event, Found, HISTORY_GONE, Refusal},
    exchange::Exchange,
    path::{fields, path},
};
use crate::store::{StoreError, WatchEvent};

/// One event is one line. A value of etcd's is at most 1.5 MiB, and an event may carry the one before it too.
const LONGEST_EVENT: u64 = 64 * 1024 * 1024;
/// From here on a snapshot is cheaper, and more certain to catch up, than one request for each event of the past.
const MOST_FROM_HISTORY: usize = 32;
/// How long the position of a watch may rest on silence alone; see [`Follow::listen`].
const SNAPSHOT_AGE: Duration = Duration::from_secs(600);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why following was interrupted.
enum Trouble {
    /// Nobody waits for events any more.
    Over,
    /// etcd cannot be followed at the moment.
    Lost(String),
}

/// How a stream went on.
enum Heard {
    Line(Vec<u8>),
    /// Nothing has come for as long as a stream may be silent.
    Silence,
    /// The connection ended, or broke.
    Cut(String),
}

pub(super) struct Follow {
    exchange: Exchange,
    key: String,
    events: Sender<WatchEvent>,
    stop: Receiver<()>,
    /// The machine to listen to.
    place: usize,
    /// The first index that was not reported yet; `None` calls for a snapshot.
    next: Option<u64>,
    snapshot: Instant,
    /// Events in a row that came from etcd's history.
    from_history: usize,
    /// Interruptions in a row.
    troubles: u32,
    lost: bool,
}

impl Follow {
    pub(super) fn new(
        exchange: Exchange,
        key: String,
        events: Sender<WatchEvent>,
        stop: Receiver<()>,
    ) -> Self {
        Self {
            place: exchange.good(),
            exchange,
            key,
            events,
            stop,
            next: None,
            snapshot: Instant::now(),
            from_history: 0,
            troubles: 0,
            lost: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let step = match self.next {
                None => self.relist(),
                Some(next) => self.listen(next),
            };
            let again = match step {
                Ok(()) => self.wait(Duration::ZERO),
                Err(Trouble::Over) => return,
                Err(Trouble::Lost(reason)) => self.interrupted(reason),
            };
            if again.is_err() {
                return;
            }
        }
    }

    /// Reports a loss that does not pass at once, and waits before the next attempt, at the next machine.
    fn interrupted(&mut self, reason: String) -> Result<(), Trouble> {
        // Whoever dropped the watch has ended its connections, too.
        self.wait(Duration::ZERO)?;
        self.troubles = self.troubles.saturating_add(1);
        self.place = (self.place + 1) % self.exchange.machines();
        // A snapshot asks every machine by itself; a stream that ends is taken up by another machine first.
        let passing = self.next.is_some() && self.troubles as usize <= self.exchange.machines();
        if !passing && !self.lost {
            tracing::warn!(key = self.key, reason, "a watch on etcd is interrupted");
            self.lost = true;
            // So that the owner hears when it is over, even if nothing has changed meanwhile.
            self.next = None;
            self.send(WatchEvent::Lost(reason))?;
        }
        let doublings = self.troubles.saturating_sub(1).min(10);
        self.wait((SHORTEST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE))
    }

    /// Sends a snapshot of the tree.
    fn relist(&mut self) -> Result<(), Trouble> {
        let target = self.target("", &[("recursive", "true"), ("quorum", "true")])?;
        let reply = self
            .exchange
            .call(&Method::GET, &target, None)
            .map_err(|failure| Trouble::Lost(failure.text))?;
        let tree = Found::parse(&self.key, &reply)
            .map_err(|error| Trouble::Lost(error.to_string()))?
            .into_watched(&self.key)
            .map_err(Trouble::Lost)?;
        self.place = self.exchange.good();
        self.next = Some(tree.at.saturating_add(1));
        self.snapshot = Instant::now();
        self.from_history = 0;
        self.progress();
        self.send(WatchEvent::Snapshot(tree))
    }

    /// Listens to one stream, from the index `next` on, until it falls silent or breaks.
    ///
    /// A stream that etcd opens at its index `head` is of one of two kinds:
    /// - The history holds a matching event at or after `next`. Then the stream carries the first of these and, although
    ///   it stays open, nothing after it: etcd does not register the watch (seen with 3.4.23). So an event that is
    ///   not younger than `head` ends the stream here, and the next one begins after it.
    /// - It holds none. Then the watch is registered, and gets every matching event younger than `head` (or than
    ///   `next`, at a member that lags behind). Nothing has happened from `next` to `head`, so that the next stream may
    ///   begin after `head`; it has to move on with the store, whose history is 1000 events long, however quiet
    ///   this tree is.
    ///
    /// A silent stream is of the second kind, unless what it carried was lost on the way. etcd sends an event of the
    /// history straight after the head. Should the machine stop just between the two, `probe`, which follows the head,
    /// gets no answer, and the stream does not count. What is left is a connection that is cut off in that instant
    /// alone; therefore nothing rests on silence for longer than `SNAPSHOT_AGE`.
    fn listen(&mut self, next: u64) -> Result<(), Trouble> {
        let index = next.to_string();
        let query = [
            ("wait", "true"),
            ("stream", "true"),
            ("recursive", "true"),
            ("waitIndex", &index),
        ];
        let target = self.target("", &query)?;
        let stream = self
            .exchange
            .open(self.place, &target)
            .map_err(|failure| Trouble::Lost(failure.text))?;
        if stream.status != 200 {
            let mut body = Vec::new();
            let read = stream.body.take(LONGEST_EVENT).read_to_end(&mut body);
            read.map_err(|error| Trouble::Lost(error.to_string()))?;
            let machine = self.exchange.machine(self.place);
            let refusal = Refusal::parse(machine, stream.status, &body).map_err(Trouble::Lost)?;
            if refusal.error_code != HISTORY_GONE {
                return Err(Trouble::Lost(refusal.into_error(&self.key).to_string()));
            }
            self.next = None;
            return Ok(());
        }
        let head = stream
            .index
            .ok_or_else(|| Trouble::Lost("a stream without X-Etcd-Index".to_owned()))?;
        self.probe()?;
        let mut lines = BufReader::new(stream.body);
        loop {
            match hear(&mut lines) {
                Heard::Line(line) if self.report(&line, head)? => {}
                Heard::Line(_) => return Ok(()),
                Heard::Silence => {
                    self.progress();
                    self.next = self.next.map(|next| next.max(head.saturating_add(1)));
                    if self.snapshot.elapsed() >= SNAPSHOT_AGE {
                        self.next = None;
                    }
                    return Ok(());
                }
                Heard::Cut(reason) => return Err(Trouble::Lost(reason)),
            }
        }
    }

    /// Reports one event of a stream that was opened at `head`; answers whether more can follow.
    fn report(&mut self, line: &[u8], head: u64) -> Result<bool, Trouble> {
        let event = Event::parse(line).map_err(Trouble::Lost)?;
        let index = event.node.index().map_err(Trouble::Lost)?.get();
        if self.next.is_some_and(|next| index < next) {
            // Seen with 3.4.23: a stream gets the removal of exactly the watched key twice.
            return Ok(true);
        }
        let watched = event.into_watched().map_err(Trouble::Lost)?;
        self.next = Some(index.saturating_add(1));
        self.progress();
        if let Some(watched) = watched {
            self.send(watched)?;
        }
        if index > head {
            self.from_history = 0;
            return Ok(true);
        }
        self.from_history += 1;
        if self.from_history >= MOST_FROM_HISTORY {
            self.next = None;
        }
        Ok(false)
    }

    /// Whether the machine listened to is alive and belongs to a quorum: one that was cut off from the others keeps
    /// its streams open and silent.
    fn probe(&self) -> Result<(), Trouble> {
        // Any answer will do. A name below the watched key, so that a role for that tree permits it; a hidden one,
        // since nobody uses it.
        let target = self.target("/_probe", &[("quorum", "true")])?;
        self.exchange
            .read_at(self.place, &target)
            .map(|_| ())
            .map_err(|failure| Trouble::Lost(failure.text))
    }

    fn target(&self, below: &str, query: &[(&str, &str)]) -> Result<String, Trouble> {
        let path = path(&self.key).ok_or_else(|| {
            let error = StoreError::Unexpected {
                key: self.key.clone(),
                reason: "this is not a key".to_owned(),
            };
            Trouble::Lost(error.to_string())
        })?;
        Ok(format!("{}{below}?{}", path.trim_end_matches('/'), fields(query)))
    }

    fn progress(&mut self) {
        self.troubles = 0;
        self.lost = false;
    }

    fn send(&self, event: WatchEvent) -> Result<(), Trouble> {
        self.events.blocking_send(event).map_err(|_| Trouble::Over)
    }

    /// Waits, unless the watch is over.
    fn wait(&self, pause: Duration) -> Result<(), Trouble> {
        match self.stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Trouble::Over),
        }
    }
}

fn hear(lines: &mut BufReader<BodyReader<'static>>) -> Heard {
    let mut line = Vec::new();
    match lines.take(LONGEST_EVENT).read_until(b'\n', &mut line) {
        Ok(_) if line.ends_with(b"\n") => Heard::Line(line),
        Ok(_) => Heard::Cut("the stream has ended".to_owned()),
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            // A part of a line may be lost here; its event is asked for again, since `next` was not moved past it.
            Some(Error::Timeout(Timeout::PerRead)) if line.is_empty() => Heard::Silence,
            _ => Heard::Cut(error.to_string()),
        },
    }
}
