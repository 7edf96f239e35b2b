//! Other passwords for the roles that nodes and broker use.
//!
//! **Guarantees.** A handler that stood still changes nothing back: PostgreSQL keeps the generation beside the roles, and the
//! change is made only from an earlier one ([`Databases::change_passwords`](crate::database::Databases)).

use super::{Finding, Scene};
use crate::{
    broker::Broker,
    database::{Change, Door, NodePasswords},
    ids::NodeId,
    master_keys::{DeriveError, Kind},
};

pub(super) async fn change(broker: &Broker, scene: Scene<'_>) -> Finding {
    let record = scene.record;
    let (door, change) = match wanted(broker, scene) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Finding::Passwords(Err("the instance has no public port".to_owned())),
        // A fact like any other, so that the operation ends.
        Err(error) => {
            tracing::error!(instance = %record.instance_id, %error, "passwords cannot be changed");
            let reason = "the broker does not have the instance's master key".to_owned();
            return Finding::Passwords(Err(reason));
        }
    };
    let Some(identifier) = scene.cluster.system_identifier() else {
        return Finding::Passwords(Err("the cluster is not initialised".to_owned()));
    };
    let changed = broker
        .databases
        .change_passwords(&door, identifier, &change)
        .await;
    Finding::Passwords(changed.map_err(|error| error.outside()))
}

/// Where it is to be done, and what; `None` while the instance has no port.
fn wanted(broker: &Broker, scene: Scene<'_>) -> Result<Option<(Door, Change)>, DeriveError> {
    let record = scene.record;
    let Some(door) = broker.public_door(record)? else {
        return Ok(None);
    };
    let replicas = record.staying().map(|(node, _)| node);
    let replicas = replicas.filter(|node| !scene.cluster.is_led_by(*node));
    let change = Change {
        generation: record.credential_generation,
        superuser: broker.password(record, Kind::Superuser)?,
        nodes: NodePasswords {
            replication: broker.password(record, Kind::Replication)?,
            rewind: broker.password(record, Kind::Rewind)?,
        },
        replicas: replicas.map(|node: NodeId| node.to_string()).collect(),
    };
    Ok(Some((door, change)))
}
