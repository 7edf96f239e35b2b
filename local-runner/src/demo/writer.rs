//! A client that writes numbered rows through the public port all the time, and keeps account of which were acknowledged.
//!
//! **Guarantees.** A number is written at most once: one whose fate is unknown is not tried again. Each new session is
//! asked first whether it has reached a replica. It ends when it is dropped.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::Config;

use super::{
    failure::Failure,
    session::{self, Session},
};

/// Between two rows, and between two attempts to log in.
const PAUSE: Duration = Duration::from_millis(20);
/// After so much time without an answer, the fate of a row is unknown.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take until rows are acknowledged again: a failover takes Patroni's ttl, 30 s by default.
const PATIENCE: Duration = Duration::from_secs(180);

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Rows whose commit was confirmed, in their order, and when.
    acknowledged: Vec<(i64, Instant)>,
    /// How many sessions it has had.
    sessions: usize,
    /// How many of them were on a replica.
    on_replicas: usize,
}

/// The longest time without an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage {
    /// The last row before it.
    pub(super) last: i64,
    /// The first row after it.
    pub(super) first: i64,
    /// How long it was.
    pub(super) length: Duration,
}

impl Account {
    /// How many rows were acknowledged.
    pub(super) fn rows(&self) -> usize {
        self.acknowledged.len()
    }

    /// The last row that was acknowledged; 0 before the first.
    pub(super) fn last(&self) -> i64 {
        self.acknowledged.last().map_or(0, |(number, _)| *number)
    }

    /// How many sessions it took.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    /// The longest time without an acknowledgement; `None` before the second row.
    pub(super) fn outage(&self) -> Option<Outage> {
        let gaps = self.acknowledged.iter().zip(self.acknowledged.iter().skip(1));
        let outages = gaps.map(|((last, before), (first, after))| Outage {
            last: *last,
            first: *first,
            length: after.duration_since(*before),
        });
        outages.max_by_key(|outage| outage.length)
    }

    /// All rows that were acknowledged, in their order.
    pub(super) fn numbers(&self) -> Vec<i64> {
        self.acknowledged.iter().map(|(number, _)| *number).collect()
    }
}

/// The client.
pub(super) struct Writer {
    account: watch::Receiver<Account>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// Makes the table, and begins.
    pub(super) async fn start(uri: &str) -> Result<Self, Failure> {
        let session = Session::open(uri, "the public port").await?;
        let made = session.run("CREATE TABLE numbers (number bigint PRIMARY KEY)");
        made.await
            .map_err(Failure::instead_of("a table for numbered rows"))?;
        let config = session::configuration(uri)?;
        let (sender, account) = watch::channel(Account::default());
        let task = tokio::spawn(async move { write(&config, &sender).await });
        Ok(Self { account, task })
    }

    /// What has happened so far.
    pub(super) fn account(&self) -> watch::Ref<'_, Account> {
        self.account.borrow()
    }

    /// Waits until so many more rows are acknowledged; fails when a session was on a replica.
    pub(super) async fn goes_on(&self, rows: usize) -> Result<(), Failure> {
        let mut account = self.account.clone();
        let goal = account.borrow().rows() + rows;
        let reached = account.wait_for(|account| account.rows() >= goal || account.on_replicas > 0);
        let expected = format!(
            "{rows} more rows are acknowledged within {} s",
            PATIENCE.as_secs()
        );
        match timeout(PATIENCE, reached).await {
            Ok(Ok(_)) => self.never_on_a_replica(),
            Ok(Err(_)) => Err(Failure::new(expected, "the client has ended")),
            Err(_) => Err(Failure::new(expected, "they are not")),
        }
    }

    /// Fails when a session was on a replica.
    pub(super) fn never_on_a_replica(&self) -> Result<(), Failure> {
        match self.account.borrow().on_replicas {
            0 => Ok(()),
            count => Err(Failure::new(
                "the public port never leads to a replica",
                format!("{count} sessions on one"),
            )),
        }
    }
}

/// Logs in and writes, again and again.
async fn write(config: &Config, account: &watch::Sender<Account>) {
    let mut number = 0;
    loop {
        // While nobody leads, the router closes connections at once.
        if let Ok(session) = Session::connect(config).await {
            // A session that was cut off is followed by another one.
            let _ = write_in(&session, account, &mut number).await;
        }
        sleep(PAUSE).await;
    }
}

/// Writes until the session fails.
async fn write_in(
    session: &Session,
    account: &watch::Sender<Account>,
    number: &mut i64,
) -> Result<(), tokio_postgres::Error> {
    let recovers = session.value("pg_is_in_recovery()").await?;
    account.send_modify(|account| {
        account.sessions += 1;
        account.on_replicas += usize::from(recovers.as_deref() != Some("false"));
    });
    loop {
        *number += 1;
        let row = format!("INSERT INTO numbers VALUES ({number})");
        let Ok(answer) = timeout(ANSWER, session.run(&row)).await else {
            return Ok(());
        };
        answer?;
        let now = Instant::now();
        account.send_modify(|account| account.acknowledged.push((*number, now)));
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_tells_the_outage() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let account = Account {
            acknowledged: vec![(1, at(0)), (2, at(1)), (4, at(9)), (5, at(10))],
            ..Account::default()
        };
        let expected = Outage {
            last: 2,
            first: 4,
            length: Duration::from_secs(8),
        };
        assert_eq!(account.outage(), Some(expected));
        assert_eq!((account.rows(), account.last()), (4, 5));
        assert_eq!(account.numbers(), [1, 2, 4, 5]);
        assert_eq!(Account::default().outage(), None);
    }
}
