//! What members of a cluster are asked for, over Patroni's REST API and in their PostgreSQL.
//!
//! **Guarantees.** A late call does nothing that is not called for any more: a switchover names both members, a restart happens
//! only where Patroni reports one as pending.
//! A patch of the configuration is sent only while the record stands as it was decided on.
//! **Caveats.** A handler that stands still right between that look and its patch makes a late patch, which counts. What it
//! has undone is mended by [`decide`](crate::decide), which knows what the nodes should run with
//! ([`Record::settings`](crate::record::Record)).

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Map, Value};

use super::{Finding, Scene};
use crate::{
    advance::read_record,
    broker::Broker,
    database::{Door, NodeSettings},
    error::Error,
    ids::NodeId,
    master_keys::Kind,
};

/// Where the leader's REST API answers; `None` while nobody leads.
fn leader_api(scene: Scene<'_>) -> Option<String> {
    let (_, leader) = scene.cluster.running_leader()?;
    leader.api.clone()
}

/// Who streams from the leader. Empty also when the leader does not say: it was asked then.
pub(super) async fn replication(broker: &Broker, scene: Scene<'_>) -> BTreeMap<String, String> {
    let Some(api) = leader_api(scene) else {
        return BTreeMap::new();
    };
    let states = broker.patroni.replication(&api).await;
    states.unwrap_or_else(|reason| {
        tracing::warn!(instance = %scene.record.instance_id, reason, "the leader does not say who streams");
        BTreeMap::new()
    })
}

pub(super) async fn configure(
    broker: &Broker,
    scene: Scene<'_>,
    patch: &Map<String, Value>,
) -> Result<Finding, Error> {
    let passwords = broker.passwords(scene.record, Kind::Rest)?;
    let Some(api) = leader_api(scene) else {
        return Ok(Finding::Nothing);
    };
    let now = read_record(broker, &scene.record.instance_id).await?;
    if now.is_none_or(|now| now.index != scene.index) {
        return Ok(Finding::Nothing);
    }
    tracing::info!(instance = %scene.record.instance_id, patch = ?patch, "changing Patroni's configuration");
    let done = broker.patroni.configure(&api, &passwords, patch).await;
    Ok(done.map_or_else(Finding::Trouble, |()| Finding::Nothing))
}

pub(super) async fn switchover(
    broker: &Broker,
    scene: Scene<'_>,
    leader: &str,
    candidate: &str,
) -> Result<Finding, Error> {
    let passwords = broker.passwords(scene.record, Kind::Rest)?;
    let Some(api) = leader_api(scene) else {
        return Ok(Finding::Nothing);
    };
    tracing::info!(instance = %scene.record.instance_id, %leader, %candidate, "handing the leadership over");
    let done = broker
        .patroni
        .switchover(&api, &passwords, leader, candidate)
        .await;
    Ok(done.map_or_else(Finding::Trouble, |()| Finding::Nothing))
}

pub(super) async fn restart(
    broker: &Broker,
    scene: Scene<'_>,
    node: NodeId,
    role: &str,
) -> Result<Finding, Error> {
    let passwords = broker.passwords(scene.record, Kind::Rest)?;
    let api = scene.cluster.member(node).and_then(|member| member.api.clone());
    let Some(api) = api else {
        return Ok(Finding::Nothing);
    };
    tracing::info!(instance = %scene.record.instance_id, %node, role, "restarting a node for its settings");
    let done = broker.patroni.restart(&api, &passwords, role).await;
    Ok(done.map_or_else(Finding::Trouble, |()| Finding::Nothing))
}

/// What the nodes that stay run with, each asked at its own address. One that does not answer is left out, and none does to
/// a broker that has no password for them: then too the operation must end.
pub(super) async fn settings(broker: &Broker, scene: Scene<'_>) -> BTreeMap<NodeId, NodeSettings> {
    let passwords = match broker.passwords(scene.record, Kind::Superuser) {
        Ok(passwords) => passwords,
        Err(error) => {
            tracing::error!(instance = %scene.record.instance_id, %error, "nodes cannot be asked what they run with");
            return BTreeMap::new();
        }
    };
    let door = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        Some(Door {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().ok()?,
            passwords: passwords.clone(),
        })
    };
    let asked = scene.record.staying().filter_map(|(node, _)| {
        let address = scene.cluster.member(node)?.address.as_deref()?;
        Some((node, door(address)?))
    });
    let asked = asked.map(|(node, door)| async move { (node, broker.databases.settings(&door).await) });
    let mut settings = BTreeMap::new();
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(runs_with) => {
                settings.insert(node, runs_with);
            }
            Err(reason) => {
                tracing::warn!(instance = %scene.record.instance_id, %node, %reason, "a node does not say what it runs with");
            }
        }
    }
    settings
}
