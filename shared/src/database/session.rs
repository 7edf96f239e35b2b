//! The broker's own sessions, as the superuser.
//!
//! **Guarantees.** Nothing that an instance's users have made runs in them, and nothing of what they say is logged.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::{join, time::timeout};
use tokio_postgres::{Client, Config, Connection, NoTls, Socket, error::SqlState, tls::NoTlsStream};

use super::{DatabaseError, Door, error::explain};
use crate::cell_api::SUPERUSER;

/// Statements of these sessions hold SCRAM verifiers. Nothing that an operator tells PostgreSQL to log shows them.
const SILENCE: &str = "-c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1 \
    -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 -c debug_print_parse=off \
    -c debug_print_rewritten=off -c debug_print_plan=off";
/// An instance's users own [`DATABASE`](super::DATABASE), and choose with `ALTER DATABASE` what sessions in it begin with. Were it theirs where
/// a superuser looks for functions and operators first, then what they have made would run with all rights (CVE-2018-1058).
const SOVEREIGNTY: &str = "-c search_path=pg_catalog,pg_temp -c role=none -c default_transaction_read_only=off \
    -c synchronous_commit=on -c statement_timeout=0 -c lock_timeout=0";
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// For everything that one call does.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Logs in, does something, and sees the session closed before it answers: nothing may outlive a function's answer.
pub(super) async fn with_session<T>(
    door: &Door,
    database: &str,
    work: impl AsyncFnOnce(&Client) -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let late = || {
        DatabaseError::Unreachable(format!(
            "PostgreSQL did not answer within {} s",
            CALL_LIMIT.as_secs()
        ))
    };
    let session = async {
        let (client, connection) = connect(door, database).await?;
        let work = async move {
            let result = work(&client).await;
            drop(client);
            result
        };
        // The connection ends when its client is dropped. What it reports then is no news: the work has its own result.
        let (result, _) = join!(work, connection);
        result
    };
    timeout(CALL_LIMIT, session).await.unwrap_or_else(|_| Err(late()))
}

/// Logs in, with the former password where the present one is not in force yet.
async fn connect(
    door: &Door,
    database: &str,
) -> Result<(Client, Connection<Socket, NoTlsStream>), DatabaseError> {
    let mut refused = DatabaseError::Unfit("there is no password".to_owned());
    for password in door.passwords.to_try() {
        let mut config = Config::new();
        config
            .host(&door.host)
            .port(door.port)
            .user(SUPERUSER)
            .password(password.expose_secret())
            .dbname(database)
            .application_name("patroni-broker")
            .options(format!("{SILENCE} {SOVEREIGNTY}"))
            .connect_timeout(CONNECT_LIMIT);
        match config.connect(NoTls).await {
            Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => refused = explain(error),
            connected => return connected.map_err(explain),
        }
    }
    Err(refused)
}
