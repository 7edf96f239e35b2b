//! An application of the instance: sessions in its PostgreSQL.

use std::time::{Duration, Instant};

use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::{Client, Config, NoTls};

use super::failure::{Failure, same};

const CONNECT: Duration = Duration::from_secs(10);
/// How long something that is under way may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the application keeps.
const ROWS: [(i32, &str); 3] = [(1, "written through the public port"), (2, "grüße"), (3, "")];

/// An open session.
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    /// Logs in.
    pub(super) async fn open(uri: &str, whose: &str) -> Result<Self, Failure> {
        let config = configuration(uri)?;
        Self::connect(&config)
            .await
            .map_err(Failure::instead_of(format!("a login at {whose}")))
    }

    /// Logs in at a replica, which learns of the login a moment after the leader.
    pub(super) async fn open_later(uri: &str, whose: &str) -> Result<Self, Failure> {
        let config = configuration(uri)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::connect(&config).await {
                Ok(session) => return Ok(session),
                Err(error) if is_refusal(&error) && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                Err(error) => return Err(Failure::instead_of(format!("a login at {whose}"))(error)),
            }
        }
    }

    /// Logs in, if that is possible now.
    pub(super) async fn connect(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        Ok(Self { client, connection })
    }

    /// The single value, as text, that an expression has.
    pub(super) async fn value(&self, expression: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let query = format!("SELECT ({expression})::text");
        Ok(self.client.query_one(&query, &[]).await?.get(0))
    }

    /// Runs statements.
    pub(super) async fn run(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(statements).await
    }

    /// Makes a table and writes rows into it.
    pub(super) async fn write(&self) -> Result<(), Failure> {
        let written = async {
            self.client
                .batch_execute("CREATE TABLE greetings (number integer PRIMARY KEY, words text NOT NULL)")
                .await?;
            let insert = "INSERT INTO greetings VALUES ($1, $2)";
            for (number, words) in ROWS {
                self.client.execute(insert, &[&number, &words]).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        written.await.map_err(Failure::instead_of(
            "a table and rows written through the public port",
        ))
    }

    /// Reads the rows and compares them.
    pub(super) async fn read(&self, whose: &str) -> Result<(), Failure> {
        let sql = "SELECT number, words FROM greetings ORDER BY number";
        let rows = self.client.query(sql, &[]).await;
        let rows = rows.map_err(Failure::instead_of(format!("the rows read at {whose}")))?;
        let rows: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let expected: Vec<_> = ROWS
            .iter()
            .map(|(number, words)| (*number, (*words).to_owned()))
            .collect();
        same(&format!("the rows read at {whose}"), &expected, &rows)
    }

    /// Up to where the write-ahead log of the leader reaches.
    pub(super) async fn position(&self) -> Result<String, Failure> {
        let position = self.value("pg_current_wal_lsn()").await;
        let position = position.map_err(Failure::instead_of("the leader's position in its log"))?;
        Ok(position.unwrap_or_default())
    }

    /// Which of these numbered rows are not there, in their order.
    pub(super) async fn lost(&self, numbers: &[i64]) -> Result<Vec<i64>, Failure> {
        let sql = "SELECT n FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (n, position)
            WHERE NOT EXISTS (SELECT FROM numbers WHERE number = n) ORDER BY position";
        let rows = self.client.query(sql, &[&numbers]).await;
        let rows = rows.map_err(Failure::instead_of("a look at the numbered rows"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Waits until a replica has replayed the log up to a position; fails at once where it is none.
    pub(super) async fn replayed(&self, position: &str) -> Result<(), Failure> {
        let sql = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.client.query_one(sql, &[&position]).await;
            let row = row.map_err(Failure::instead_of("the replica's position in the log"))?;
            same("the node is in recovery, as replicas are", &true, &row.get(0))?;
            if row.get::<_, Option<bool>>(1) == Some(true) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let text = format!(
                    "the replica has replayed {position} after {} s",
                    PATIENCE.as_secs()
                );
                return Err(Failure::new(text, "it has not"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the session has been ended, which is what is `expected`.
    pub(super) async fn ended(mut self, expected: &str) -> Result<(), Failure> {
        match tokio::time::timeout(PATIENCE, &mut self.connection).await {
            Ok(_) => match self.client.simple_query("SELECT 1").await {
                Err(_) => Ok(()),
                Ok(_) => Err(Failure::new(expected, "it still answers")),
            },
            Err(_) => Err(Failure::new(expected, "it goes on")),
        }
    }
}

/// Checks that a login is refused as such; answers PostgreSQL's code.
pub(super) async fn is_refused(uri: &str) -> Result<String, Failure> {
    let expected = "a login of the binding that was removed is refused";
    match Session::connect(&configuration(uri)?).await {
        Ok(_) => Err(Failure::new(expected, "it succeeds")),
        Err(error) if is_refusal(&error) => Ok(error
            .code()
            .map(|code| code.code().to_owned())
            .unwrap_or_default()),
        Err(error) => Err(Failure::new(expected, crate::chain(&error))),
    }
}

/// Whether PostgreSQL knows no such login with this password: class 28, invalid authorization specification.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("28"))
}

/// The same URI with another `host:port`.
pub(super) fn at(uri: &str, address: &str) -> Option<String> {
    let (before, rest) = uri.rsplit_once('@')?;
    let (_, database) = rest.split_once('/')?;
    Some(format!("{before}@{address}/{database}"))
}

/// `host:port` of a URI.
pub(super) fn address(uri: &str) -> Option<&str> {
    uri.rsplit_once('@')?.1.split('/').next()
}

/// How to log in with a URI.
pub(super) fn configuration(uri: &str) -> Result<Config, Failure> {
    let mut config: Config = uri
        .parse()
        .map_err(Failure::instead_of("a URI that PostgreSQL's clients understand"))?;
    config.connect_timeout(CONNECT);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_turned_to_another_address() {
        let uri = "postgres://u:p@127.0.0.1:30000/app";
        assert_eq!(address(uri), Some("127.0.0.1:30000"));
        assert_eq!(
            at(uri, "127.0.0.3:20000").unwrap(),
            "postgres://u:p@127.0.0.3:20000/app"
        );
        assert_eq!(at("nothing", "x:1"), None);
    }
}
