//! A watch as its owner sees it; the work is done by `follow.rs`.

use std::{io, sync::mpsc as sync_mpsc, thread, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{exchange::Exchange, follow::Follow};
use crate::store::{Watch, WatchEvent};

/// Events that wait for a slow owner, before etcd is no longer listened to. etcd then keeps a hundred of its own and
/// ends the stream, and the next stream goes on from the history.
const WAITING: usize = 256;
/// How long to wait before the thread is started once more, after the system refused it.
const RESTART: Duration = Duration::from_secs(1);

/// A watch, fed by a thread of its own: a stream blocks for as long as nothing happens, and would keep a runtime from
/// shutting down if it ran on its blocking pool.
pub(super) struct EtcdWatch {
    exchange: Exchange,
    key: String,
    events: mpsc::Receiver<WatchEvent>,
    /// Dropped to tell the thread to end.
    _running: sync_mpsc::Sender<()>,
    /// Why there is no thread.
    refused: Option<io::Error>,
}

impl EtcdWatch {
    pub(super) fn new(exchange: Exchange, key: &str) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let (running, stop) = sync_mpsc::channel();
        let follow = Follow::new(exchange.clone(), key.to_owned(), sender, stop);
        let started = thread::Builder::new()
            .name("etcd-watch".to_owned())
            .spawn(move || follow.run());
        Self {
            exchange,
            key: key.to_owned(),
            events,
            _running: running,
            refused: started.err(),
        }
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> WatchEvent {
        if let Some(event) = self.events.recv().await {
            return event;
        }
        let reason = match self.refused.take() {
            Some(error) => format!("no thread for the watch: {error}"),
            None => {
                tokio::time::sleep(RESTART).await;
                *self = Self::new(self.exchange.fork(), &self.key);
                "the watch begins anew".to_owned()
            }
        };
        WatchEvent::Lost(reason)
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // Wakes the thread wherever it waits for etcd. Where it waits between two attempts, dropping `_running` does,
        // and where it waits for its owner, dropping `events`.
        self.exchange.clone().shut_down();
    }
}
