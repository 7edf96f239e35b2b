//! A client that writes numbered rows all the time, and keeps account of which were acknowledged.
//!
//! **Guarantees.** A number is written at most once: one whose fate is unknown is not tried again. Each new session first
//! asks the server whether it is in recovery.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{osb::OPERATION, psql::Session, wait::eventually};

/// Between two rows, and between two attempts to log in.
const PAUSE: Duration = Duration::from_millis(10);
/// After so much time without an answer, the fate of a row is unknown.
const ANSWER: Duration = Duration::from_secs(60);

/// What has happened so far.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Rows whose commit was confirmed, in their order, and when.
    pub acknowledged: Vec<(i64, Instant)>,
    /// How many sessions it has had.
    pub sessions: usize,
    /// How many of them reached a server that was in recovery: a replica, or a leader that is still being promoted.
    pub in_recovery: usize,
    /// Why logins and rows failed, and how often.
    pub failures: BTreeMap<String, usize>,
}

/// The client.
#[derive(Debug)]
pub struct Writer {
    credentials: Value,
    account: Arc<Mutex<Account>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Account {
    /// The number of the last acknowledged row; 0 before the first.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.acknowledged.last().map_or(0, |(number, _)| *number)
    }

    /// The longest time between two acknowledged rows.
    #[must_use]
    pub fn outage(&self) -> Duration {
        let pairs = self.acknowledged.windows(2);
        let times = pairs.map(|pair| pair[1].1.duration_since(pair[0].1));
        times.max().unwrap_or_default()
    }

    /// The longest time between two acknowledged rows of which the second came after `since`.
    #[must_use]
    pub fn outage_since(&self, since: Instant) -> Duration {
        let pairs = self.acknowledged.windows(2).filter(|pair| pair[1].1 > since);
        let times = pairs.map(|pair| pair[1].1.duration_since(pair[0].1));
        times.max().unwrap_or_default()
    }

    /// Acknowledged rows that are not there, in their order.
    ///
    /// # Panics
    /// When the session does not answer.
    pub async fn lost(&self, session: &Session) -> Vec<i64> {
        let rows = session.ask("SELECT string_agg(number::text, ' ') FROM numbers");
        let rows = rows.await.expect("the rows");
        let there: BTreeSet<i64> = rows.split(' ').map(|number| number.parse().unwrap()).collect();
        let numbers = self.acknowledged.iter().map(|(number, _)| *number);
        numbers.filter(|number| !there.contains(number)).collect()
    }

    fn failed(&mut self, why: &tokio_postgres::Error) {
        let why = why.as_db_error().map_or_else(
            || why.to_string(),
            |error| format!("{} {}", error.code().code(), error.message()),
        );
        *self.failures.entry(why).or_default() += 1;
    }
}

impl Writer {
    /// Makes the table, and begins.
    ///
    /// # Panics
    /// When the table cannot be made.
    pub async fn start(credentials: &Value) -> Self {
        let session = Session::open(credentials).await.unwrap();
        session
            .run("CREATE TABLE numbers (number bigint PRIMARY KEY)")
            .await;
        let account = Arc::new(Mutex::new(Account::default()));
        let (stop, mut stopped) = oneshot::channel();
        let (uri, written) = (credentials.clone(), Arc::clone(&account));
        let task = tokio::spawn(async move {
            tokio::select! {
                () = write(&uri, &written) => {}
                _ = &mut stopped => {}
            }
        });
        Self {
            credentials: credentials.clone(),
            account,
            stop,
            task,
        }
    }

    /// What has happened so far.
    ///
    /// # Panics
    /// When the client has panicked.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.lock().unwrap().clone()
    }

    /// Waits until so many more rows are acknowledged.
    ///
    /// # Panics
    /// When they are not.
    pub async fn goes_on(&self, rows: usize) {
        let before = self.account().acknowledged.len();
        eventually("acknowledged rows", OPERATION, async || {
            (self.account().acknowledged.len() >= before + rows).then_some(())
        })
        .await;
    }

    /// Ends it; answers what has happened, and which acknowledged rows are lost.
    ///
    /// # Panics
    /// When the client has panicked, or the rows cannot be read.
    pub async fn end(self) -> (Account, Vec<i64>) {
        // It ends by itself only by a panic, which comes out below.
        let _ = self.stop.send(());
        self.task.await.unwrap();
        let account = self.account.lock().unwrap().clone();
        let session = Session::open(&self.credentials).await.unwrap();
        let lost = account.lost(&session).await;
        (account, lost)
    }
}

async fn write(credentials: &Value, account: &Mutex<Account>) {
    let mut number = 0;
    loop {
        match Session::open(credentials).await {
            Ok(session) => write_in(&session, account, &mut number).await,
            Err(error) => account.lock().unwrap().failed(&error),
        }
        sleep(PAUSE).await;
    }
}

/// Writes until the session fails.
async fn write_in(session: &Session, account: &Mutex<Account>, number: &mut i64) {
    let recovers = session.ask("pg_is_in_recovery()").await;
    {
        let mut account = account.lock().unwrap();
        account.sessions += 1;
        match recovers {
            Ok(answer) => account.in_recovery += usize::from(answer == "true"),
            Err(error) => return account.failed(&error),
        }
    }
    loop {
        *number += 1;
        let row = format!("INSERT INTO numbers VALUES ({number})");
        let answer = timeout(ANSWER, session.try_to(&row)).await;
        match answer {
            Ok(Ok(())) => {
                let now = Instant::now();
                account.lock().unwrap().acknowledged.push((*number, now));
            }
            Ok(Err(error)) => return account.lock().unwrap().failed(&error),
            Err(_) => {
                let why = "no answer".to_owned();
                *account.lock().unwrap().failures.entry(why).or_default() += 1;
                return;
            }
        }
        sleep(PAUSE).await;
    }
}
