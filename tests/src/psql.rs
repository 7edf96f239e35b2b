//! A client of PostgreSQL, as an application that was given a binding.

use std::time::Duration;

use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Error, NoTls, error::SqlState};

/// How long the end of a session may take to reach its client.
const NEWS: Duration = Duration::from_secs(30);

/// An open session.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<Result<(), Error>>,
}

impl Session {
    /// Logs in with the `credentials` of a binding, once.
    ///
    /// # Errors
    /// When that does not succeed.
    pub async fn open(credentials: &Value) -> Result<Self, Error> {
        let uri = credentials["uri"].as_str().expect("credentials with a URI");
        let mut config: tokio_postgres::Config = uri.parse()?;
        config.connect_timeout(Duration::from_secs(60));
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        Ok(Self { client, connection })
    }

    /// Runs statements.
    ///
    /// # Panics
    /// When they fail.
    #[track_caller]
    pub fn run(&self, statements: &str) -> impl Future<Output = ()> {
        let done = self.client.batch_execute(statements);
        let shown = statements.to_owned();
        async move { done.await.unwrap_or_else(|error| panic!("{shown}: {error:?}")) }
    }

    /// Runs statements.
    ///
    /// # Errors
    /// When they fail.
    pub async fn try_to(&self, statements: &str) -> Result<(), Error> {
        self.client.batch_execute(statements).await
    }

    /// The single value, as text, that a query answers.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ask(&self, query: &str) -> Result<String, Error> {
        let query = format!("SELECT ({query})::text");
        Ok(self.client.query_one(&query, &[]).await?.get(0))
    }

    /// The same for a value that may be null.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ask_maybe(&self, query: &str) -> Result<Option<String>, Error> {
        let query = format!("SELECT ({query})::text");
        Ok(self.client.query_one(&query, &[]).await?.get(0))
    }

    /// Waits until the server, or whoever is between, has ended the session.
    ///
    /// # Panics
    /// When the session goes on.
    pub async fn ended(self) {
        let ended = timeout(NEWS, self.connection).await;
        assert!(ended.is_ok(), "the session goes on");
    }
}

/// Asserts that these credentials do not open a session, because PostgreSQL refuses them.
///
/// # Panics
/// When they do, or something else goes wrong.
pub async fn assert_refused(credentials: &Value) {
    match Session::open(credentials).await {
        Ok(_) => panic!("a login that was taken away still works"),
        Err(error) => {
            let refusals = [
                &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                &SqlState::INVALID_PASSWORD,
            ];
            assert!(
                error.code().is_some_and(|code| refusals.contains(&code)),
                "{error:?}"
            );
        }
    }
}
