//! The passwords of the roles that nodes and broker use, and other ones in their place.
//!
//! **Guarantees.** All roles change in one transaction, which also writes down the generation, as a comment on the superuser.
//! It happens only from an earlier generation to a later one, so a late call changes nothing back.

use secrecy::{ExposeSecret, SecretString};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::{Change, DatabaseError, POLL, REPLICAS_LIMIT, Reach, explain};
use crate::cell_api::{REPLICATION_USER, REWIND_USER, SUPERUSER};

/// What the comment begins with.
const COMMENT: &str = "patroni-broker: credential generation ";

/// Changes the passwords, unless that is done already, and waits a moment until all replicas have them.
pub(super) async fn change(client: &Client, change: &Change) -> Result<Reach, DatabaseError> {
    // One at a time; the lock goes with the transaction.
    let sql = "BEGIN; SELECT pg_advisory_xact_lock(hashtext('patroni_broker.credentials'))";
    client.batch_execute(sql).await.map_err(explain)?;
    let sql = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1";
    let row = client.query_one(sql, &[&SUPERUSER]).await.map_err(explain)?;
    let known = row.get::<_, Option<String>>(0).and_then(|text| generation(&text));
    if known > Some(change.generation) {
        return Err(DatabaseError::Unfit("others have changed them since".to_owned()));
    }
    if known != Some(change.generation) {
        let roles = [
            (SUPERUSER, &change.superuser),
            (REPLICATION_USER, &change.nodes.replication),
            (REWIND_USER, &change.nodes.rewind),
        ];
        for (role, password) in roles {
            client
                .batch_execute(&format!("ALTER ROLE {role} PASSWORD '{}'", verifier(password)))
                .await
                .map_err(explain)?;
        }
        let comment = format!("COMMENT ON ROLE {SUPERUSER} IS '{COMMENT}{}'", change.generation);
        client.batch_execute(&comment).await.map_err(explain)?;
    }
    client.batch_execute("COMMIT").await.map_err(explain)?;
    reach(client, &change.replicas).await
}

fn generation(comment: &str) -> Option<u32> {
    comment.strip_prefix(COMMENT)?.parse().ok()
}

fn verifier(password: &SecretString) -> String {
    postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes())
}

/// Waits until these replicas stream and have all that was committed.
async fn reach(client: &Client, replicas: &[String]) -> Result<Reach, DatabaseError> {
    let sql = "SELECT pg_current_wal_flush_lsn()::text";
    let written: String = client.query_one(sql, &[]).await.map_err(explain)?.get(0);
    let sql = "SELECT application_name FROM pg_stat_replication \
               WHERE state = 'streaming' AND flush_lsn >= $1::text::pg_lsn";
    let reached = async {
        loop {
            let rows = client.query(sql, &[&written]).await.map_err(explain)?;
            let there: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            if replicas.iter().all(|replica| there.contains(&replica.as_str())) {
                return Ok(Reach::All);
            }
            sleep(POLL).await;
        }
    };
    timeout(REPLICAS_LIMIT, reached)
        .await
        .unwrap_or(Ok(Reach::Leader))
}
