//! A client that logs in all the time, and looks where it has got to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{osb::OPERATION, psql::Session, wait::eventually};

/// Between two visits.
const PAUSE: Duration = Duration::from_millis(5);

/// What has been seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Visits {
    /// How many sessions reached a server that takes writes.
    pub writable: usize,
    /// How many reached a server in recovery.
    pub in_recovery: usize,
    /// How many were refused, or cut off before they had an answer.
    pub refused: usize,
}

/// The client. It ends when it is dropped.
#[derive(Debug)]
pub struct Visitor {
    visits: Arc<Mutex<Visits>>,
    task: JoinHandle<()>,
}

impl Visitor {
    /// Begins.
    #[must_use]
    pub fn start(credentials: &Value) -> Self {
        let visits = Arc::new(Mutex::new(Visits::default()));
        let (credentials, seen) = (credentials.clone(), Arc::clone(&visits));
        let task = tokio::spawn(async move {
            loop {
                let recovers = visit(&credentials).await;
                {
                    let mut seen = seen.lock().unwrap();
                    match recovers {
                        Some(false) => seen.writable += 1,
                        Some(true) => seen.in_recovery += 1,
                        None => seen.refused += 1,
                    }
                }
                sleep(PAUSE).await;
            }
        });
        Self { visits, task }
    }

    /// What has been seen so far.
    ///
    /// # Panics
    /// When the client has panicked.
    #[must_use]
    pub fn visits(&self) -> Visits {
        *self.visits.lock().unwrap()
    }

    /// Waits until some more visits were well received.
    ///
    /// # Panics
    /// When they are not.
    pub async fn gets_in(&self) {
        let before = self.visits().writable;
        eventually("visits", OPERATION, async || {
            (self.visits().writable >= before + 5).then_some(())
        })
        .await;
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Logs in once; answers whether that was at a server in recovery.
async fn visit(credentials: &Value) -> Option<bool> {
    let session = Session::open(credentials).await.ok()?;
    let answer = session.ask("pg_is_in_recovery()").await.ok()?;
    Some(answer == "true")
}
