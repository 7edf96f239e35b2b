//! A replica that is locked out: its Patroni has passwords that were changed, its PostgreSQL has not received the change, and
//! neither lets the other in.
//!
//! Patroni tells a PostgreSQL how to follow its leader when it starts it, or by asking it first: only one that is started anew
//! is told, and receives the change from that leader. **Guarantees.** A PostgreSQL is stopped for this only when it has itself
//! refused its superuser's password, another node leads, and Patroni would start it again.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;
use shared::{
    cell_api::SUPERUSER,
    cluster::Cluster,
    ids::NodeId,
    keyspace,
    store::{Read, Store},
};
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls, error::SqlState};

use super::super::directory::NodeFile;

/// For one attempt to log in.
const LOGIN: Duration = Duration::from_secs(5);

/// Whether the PostgreSQL of a node, which listens on this address of the machine, is locked out.
pub(super) async fn is_locked_out(store: &dyn Store, address: IpAddr, file: &NodeFile) -> bool {
    let scope = keyspace::scope(&file.parameters.patroni_scope);
    // What cannot be read is no evidence.
    let Ok(tree) = store.tree(&scope, Read::Quorum).await else {
        return false;
    };
    let cluster = Cluster::parse(&scope, tree.as_ref());
    may_be_stopped(&cluster, file.parameters.node_id) && refuses(address, file).await
}

/// Whether another node leads, and Patroni starts a replica that is down: it does not while it is paused.
fn may_be_stopped(cluster: &Cluster, node: NodeId) -> bool {
    let is_paused = cluster.config.as_ref().is_none_or(|config| {
        let pause = config.get("pause").unwrap_or(&Value::Null);
        !matches!(pause, Value::Null | Value::Bool(false))
    });
    let leader = cluster.leader.as_deref();
    !is_paused && leader.is_some_and(|leader| leader != node.to_string())
}

/// Whether PostgreSQL is there, and says that the password is wrong.
async fn refuses(address: IpAddr, file: &NodeFile) -> bool {
    let mut config = Config::new();
    // Not by the name that others know: that may lead elsewhere. One that is unspecified leads to this machine.
    config
        .hostaddr(address)
        .port(file.ports.postgresql)
        .user(SUPERUSER)
        .password(&file.parameters.superuser_password)
        .dbname("postgres")
        .application_name("patroni-cell");
    match timeout(LOGIN, config.connect(NoTls)).await {
        // Nothing else: another start does not help against what pg_hba.conf refuses.
        Ok(Err(error)) => error.code() == Some(&SqlState::INVALID_PASSWORD),
        Ok(Ok(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_replica_that_patroni_starts_again_is_stopped() {
        let (own, other) = (
            NodeId::from(uuid::Uuid::from_u128(1)),
            NodeId::from(uuid::Uuid::from_u128(2)),
        );
        for (leader, config, expected) in [
            (Some(other), Some(json!({"loop_wait": 10})), true),
            (Some(other), Some(json!({"pause": false})), true),
            (Some(other), Some(json!({"pause": null})), true),
            (Some(other), Some(json!({"pause": true})), false),
            (Some(other), Some(json!({"pause": "on"})), false),
            (Some(other), None, false),
            (Some(own), Some(json!({})), false),
            (None, Some(json!({})), false),
        ] {
            let cluster = Cluster {
                leader: leader.map(|leader| leader.to_string()),
                config: config.clone(),
                ..Cluster::default()
            };
            assert_eq!(may_be_stopped(&cluster, own), expected, "{leader:?} {config:?}");
        }
    }
}
