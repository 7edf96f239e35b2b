//! What the broker does inside an instance's PostgreSQL: the database of its users, and a role of its own for each binding.
//!
//! **Guarantees.** A password reaches PostgreSQL only as a SCRAM verifier, and that is in no log of PostgreSQL's. Creating a login only ever creates: a role that
//! was withdrawn stays withdrawn, so a bind that arrives late cannot bring it back. Withdrawing leaves the role behind
//! without login (it is also made when it was never there, for the same reason), commits, and only then ends its sessions;
//! it cannot fail on ownership, because objects belong to the owner role. Nothing that an instance's users have made runs
//! in the broker's sessions.
//! **Assumes.** `password_encryption` is SCRAM; nobody but the broker has the superuser's password.

mod credentials;
mod error;
mod reader;
mod session;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, error::SqlState};

pub use self::error::DatabaseError;
use self::{error::explain, session::with_session};
use crate::{
    binding::Access,
    cell_api::{REPLICATION_USER, REWIND_USER},
    decide::dynamic_configuration::{STANDBY_LIMITS, VERSION},
    master_keys::Passwords,
};

/// The database that bindings lead to.
pub const DATABASE: &str = "app";
/// Owns everything in [`DATABASE`]; the role of a binding acts as this one. Nobody can log in as it.
pub const OWNER: &str = "app_owner";
/// Reads everything of [`OWNER`]; the role of a read-only binding is a member of this one. Nobody can log in as it.
pub const READER: &str = "app_reader";

/// Where the broker itself is at work.
const MAINTENANCE: &str = "postgres";

/// How long replicas are waited for. One that is further behind than this does not take over (Patroni's
/// `maximum_lag_on_failover`), or has lost its connection.
const REPLICAS_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at how far replicas are.
const POLL: Duration = Duration::from_millis(10);
/// Where and how to log in as the superuser.
#[derive(Debug, Clone)]
pub struct Door {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The superuser's password.
    pub passwords: Passwords,
}

/// The passwords that the nodes of a cluster use among each other.
#[derive(Debug, Clone)]
pub struct NodePasswords {
    /// Of the role that replicas stream with.
    pub replication: SecretString,
    /// Of the role that `pg_rewind` connects with.
    pub rewind: SecretString,
}

/// Other passwords for the roles that nodes and broker use.
#[derive(Debug, Clone)]
pub struct Change {
    /// Counted up with each change.
    pub generation: u32,
    /// Of the superuser.
    pub superuser: SecretString,
    /// Of the others.
    pub nodes: NodePasswords,
    /// The replicas that must have received it, by their names in Patroni.
    pub replicas: Vec<String>,
}

/// How far other passwords have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The leader has them, for good.
    Leader,
    /// So have all replicas.
    All,
}

/// What came of creating a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The role can log in with its password: made now or before.
    Ready,
    /// The role was withdrawn and stays so.
    Withdrawn,
}

/// What one node's PostgreSQL runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// The value of [`VERSION`] in the configuration that it has loaded; empty
    /// when there was none in it.
    pub version: String,
    /// Whether a parameter that it has loaded takes a restart.
    pub pending: bool,
    /// The values of those parameters that must not be lower on a standby than on its primary, by name.
    pub limits: BTreeMap<String, i64>,
}

/// What the broker asks of an instance's PostgreSQL.
#[async_trait]
pub trait Databases: Send + Sync {
    /// Checks that the door leads to the primary of the cluster with this system identifier, and makes the owner role and
    /// the database unless they are there; and the nodes' own roles, which Patroni makes at the end of a bootstrap and
    /// never again when that was interrupted: then no replica could ever be built.
    async fn prepare(
        &self,
        door: &Door,
        system_identifier: &str,
        nodes: &NodePasswords,
    ) -> Result<(), DatabaseError>;
    /// Gives the roles that nodes and broker use other passwords, unless they have those already, or ones of a later
    /// generation; and looks who has received it.
    async fn change_passwords(
        &self,
        door: &Door,
        system_identifier: &str,
        change: &Change,
    ) -> Result<Reach, DatabaseError>;
    /// Makes a role that can log in.
    async fn create_login(
        &self,
        door: &Door,
        role: &str,
        password: &SecretString,
        access: Access,
    ) -> Result<Login, DatabaseError>;
    /// Takes the login away for good and ends its sessions.
    async fn withdraw_login(&self, door: &Door, role: &str) -> Result<(), DatabaseError>;
    /// Asks a node, primary or standby, what it runs with; the door is the node's own.
    async fn settings(&self, door: &Door) -> Result<NodeSettings, DatabaseError>;
}

/// PostgreSQL over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresDatabases;

#[async_trait]
impl Databases for PostgresDatabases {
    async fn prepare(
        &self,
        door: &Door,
        system_identifier: &str,
        nodes: &NodePasswords,
    ) -> Result<(), DatabaseError> {
        with_session(door, MAINTENANCE, async |client| {
            check_primary(client, system_identifier).await?;
            let roles = client
                .query(
                    "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)",
                    &[&[OWNER, REPLICATION_USER, REWIND_USER].as_slice()],
                )
                .await;
            let roles: Vec<String> = roles.map_err(explain)?.iter().map(|row| row.get(0)).collect();
            let lacks = |role: &str| !roles.iter().any(|there| there == role);
            if lacks(REPLICATION_USER) || lacks(REWIND_USER) {
                finish_bootstrap(client, nodes).await?;
            }
            if lacks(OWNER) {
                create(client, &format!("CREATE ROLE {OWNER} NOLOGIN")).await?;
            }
            let there = client
                .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&DATABASE])
                .await;
            if there.map_err(explain)?.is_none() {
                create(client, &format!("CREATE DATABASE {DATABASE} OWNER {OWNER}")).await?;
            }
            Ok(())
        })
        .await
    }

    async fn change_passwords(
        &self,
        door: &Door,
        system_identifier: &str,
        change: &Change,
    ) -> Result<Reach, DatabaseError> {
        with_session(door, MAINTENANCE, async |client| {
            check_primary(client, system_identifier).await?;
            credentials::change(client, change).await
        })
        .await
    }

    async fn create_login(
        &self,
        door: &Door,
        role: &str,
        password: &SecretString,
        access: Access,
    ) -> Result<Login, DatabaseError> {
        let database = match access {
            Access::ReadWrite => MAINTENANCE,
            Access::ReadOnly => DATABASE,
        };
        with_session(door, database, async |client| {
            let there = login(client, role).await?;
            if access == Access::ReadOnly && there != Some(Login::Withdrawn) {
                reader::prepare(client).await?;
            }
            // Asked first, because a verifier takes thousands of hashes, and PostgreSQL logs every CREATE that fails.
            let now = match there {
                Some(there) => there,
                None => create_role(client, role, password, access).await?,
            };
            // Also for one that was there: whoever has made it may have died before replicas had it.
            if now == Login::Ready {
                reach_replicas(client, door).await?;
            }
            Ok(now)
        })
        .await
    }

    async fn withdraw_login(&self, door: &Door, role: &str) -> Result<(), DatabaseError> {
        with_session(door, MAINTENANCE, async |client| {
            let name = quoted(role);
            create(client, &format!("CREATE ROLE {name} NOLOGIN")).await?;
            // One at a time: PostgreSQL fails on a role that two sessions alter at once ("tuple concurrently updated").
            // The statements are one transaction, and the lock goes with it.
            let sql = format!(
                "SELECT pg_advisory_xact_lock(hashtext('{role}')); ALTER ROLE {name} NOLOGIN PASSWORD NULL"
            );
            client.batch_execute(&sql).await.map_err(explain)?;
            reach_replicas(client, door).await?;
            // Committed: no new session can begin, so ending those that are there is final.
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
            client.query(sql, &[&role]).await.map_err(explain)?;
            Ok(())
        })
        .await
    }

    async fn settings(&self, door: &Door) -> Result<NodeSettings, DatabaseError> {
        with_session(door, MAINTENANCE, async |client| {
            let sql = "SELECT coalesce(current_setting($1, true), ''), \
                       EXISTS (SELECT FROM pg_settings WHERE pending_restart)";
            let row = client.query_one(sql, &[&VERSION]).await.map_err(explain)?;
            let (version, pending) = (row.get(0), row.get(1));
            let names: Vec<&str> = STANDBY_LIMITS.iter().map(|(name, _)| *name).collect();
            let sql = "SELECT name::text, setting::bigint FROM pg_settings WHERE name = ANY($1)";
            let rows = client.query(sql, &[&names]).await.map_err(explain)?;
            Ok(NodeSettings {
                version,
                pending,
                limits: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            })
        })
        .await
    }
}

/// Makes a role that can log in, unless somebody else is quicker.
async fn create_role(
    client: &Client,
    role: &str,
    password: &SecretString,
    access: Access,
) -> Result<Login, DatabaseError> {
    let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    let name = quoted(role);
    let create = format!("CREATE ROLE {name} LOGIN PASSWORD '{verifier}' IN ROLE");
    let sql = match access {
        Access::ReadWrite => {
            format!("BEGIN; {create} {OWNER}; ALTER ROLE {name} SET role TO {OWNER}; COMMIT")
        }
        Access::ReadOnly => format!("BEGIN; {create} {READER}; COMMIT"),
    };
    match client.batch_execute(&sql).await {
        Ok(()) => Ok(Login::Ready),
        Err(error) if exists_already(&error) => {
            client.batch_execute("ROLLBACK").await.map_err(explain)?;
            let there = login(client, role).await?;
            there.ok_or_else(|| DatabaseError::Unfit("somebody else has removed the role".to_owned()))
        }
        Err(error) => Err(explain(error)),
    }
}

/// What is there of a role.
async fn login(client: &Client, role: &str) -> Result<Option<Login>, DatabaseError> {
    let sql = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
    let row = client.query_opt(sql, &[&role]).await.map_err(explain)?;
    Ok(row.map(|row| match row.get(0) {
        true => Login::Ready,
        false => Login::Withdrawn,
    }))
}

/// Checks that a session is one with the primary of the cluster with this system identifier.
async fn check_primary(client: &Client, system_identifier: &str) -> Result<(), DatabaseError> {
    let sql = "SELECT system_identifier::text, pg_is_in_recovery() FROM pg_control_system()";
    let row = client.query_one(sql, &[]).await.map_err(explain)?;
    let (identifier, in_recovery): (String, bool) = (row.get(0), row.get(1));
    if identifier != system_identifier {
        return Err(DatabaseError::Unfit(format!(
            "it leads to another cluster (system identifier {identifier})"
        )));
    }
    if in_recovery {
        return Err(DatabaseError::Unfit("it leads to a replica".to_owned()));
    }
    Ok(())
}

/// Waits until every replica that streams has what was just committed, so that a failover right after the answer does not
/// undo it. With synchronous replication that is so already; without, the answer would promise more than the commit did.
async fn reach_replicas(client: &Client, door: &Door) -> Result<(), DatabaseError> {
    let sql = "SELECT pg_current_wal_flush_lsn()::text";
    let written: String = client.query_one(sql, &[]).await.map_err(explain)?.get(0);
    let sql =
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn < $1::text::pg_lsn";
    let reached = async {
        loop {
            let behind: i64 = client.query_one(sql, &[&written]).await.map_err(explain)?.get(0);
            if behind == 0 {
                return Ok(());
            }
            sleep(POLL).await;
        }
    };
    timeout(REPLICAS_LIMIT, reached).await.unwrap_or_else(|_| {
        tracing::warn!(
            public_port = door.port,
            "a replica has not received what was committed yet; a failover to it now would undo a change of roles"
        );
        Ok(())
    })
}

/// Makes the roles that Patroni makes at the end of a bootstrap, with the same rights.
async fn finish_bootstrap(client: &Client, nodes: &NodePasswords) -> Result<(), DatabaseError> {
    tracing::warn!("a bootstrap was interrupted before the nodes had their roles; making them");
    let verifier = |password: &SecretString| {
        postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes())
    };
    let (replication, rewind) = (verifier(&nodes.replication), verifier(&nodes.rewind));
    let login = format!("CREATE ROLE {REPLICATION_USER} LOGIN REPLICATION PASSWORD '{replication}'");
    create(client, &login).await?;
    create(
        client,
        &format!("CREATE ROLE {REWIND_USER} LOGIN PASSWORD '{rewind}'"),
    )
    .await?;
    let grant = format!(
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean), \
         pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text), \
         pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO {REWIND_USER}"
    );
    client.batch_execute(&grant).await.map_err(explain)
}

/// Runs a `CREATE` that somebody else may be running as well.
async fn create(client: &Client, sql: &str) -> Result<(), DatabaseError> {
    match client.batch_execute(sql).await {
        Err(error) if !exists_already(&error) => Err(explain(error)),
        _ => Ok(()),
    }
}

/// Two sessions that create the same thing at once get a unique violation instead of the friendlier error.
fn exists_already(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [
            &SqlState::DUPLICATE_OBJECT,
            &SqlState::DUPLICATE_DATABASE,
            &SqlState::UNIQUE_VIOLATION,
        ]
        .contains(&code)
    })
}

/// An SQL identifier. Role names come from [`crate::binding`] and hold letters, digits and underscores only; quoting is
/// the second line of defence.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
