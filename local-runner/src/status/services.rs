//! `service-status`: the members of all clusters, `<id> <host:port> <role> <state>`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shared::{
    cluster::Cluster,
    keyspace,
    store::{Child, Read, Store, StoreError, Tree},
};

use super::output::{Row, Sheet};

const HEADINGS: &[&str] = &[
    "instance", "member", "address", "role", "state", "leader", "timeline", "lag", "port",
];

/// Three requests: Patroni's whole tree, the instances, and the allocations.
pub(super) async fn sheet(store: &dyn Store) -> Result<Sheet, StoreError> {
    let (services, instances, allocations) = tokio::try_join!(
        store.tree(keyspace::PATRONI, Read::Local),
        store.list(keyspace::INSTANCES, Read::Local),
        store.list(keyspace::ALLOCATIONS, Read::Local),
    )?;
    let ports = allocations.unwrap_or_default();
    let instances: BTreeSet<String> = instances.unwrap_or_default().into_keys().collect();
    Ok(rows(&services.unwrap_or_else(empty), &instances, &ports))
}

fn empty() -> Tree {
    Tree {
        leaves: BTreeMap::new(),
        directories: Vec::new(),
        at: 0,
    }
}

fn rows(services: &Tree, instances: &BTreeSet<String>, ports: &BTreeMap<String, Child>) -> Sheet {
    let mut rows = Vec::new();
    let by_scope = by_scope(services);
    let ids: BTreeSet<&str> = by_scope
        .keys()
        .map(String::as_str)
        .chain(instances.iter().map(String::as_str))
        .collect();
    for id in ids {
        let port = match ports.get(id) {
            Some(Child::Leaf(entry)) => entry.value.trim().parse::<u16>().map_or(Value::Null, Value::from),
            _ => Value::Null,
        };
        let cluster = by_scope
            .get(id)
            .map(|tree| Cluster::parse(&format!("{}/{id}", keyspace::PATRONI), Some(tree)))
            .unwrap_or_default();
        let newest = cluster
            .members
            .values()
            .filter_map(|member| member.position)
            .max();
        for (name, member) in &cluster.members {
            let address = member.address.as_deref().unwrap_or("unknown");
            let leads = cluster.leader.as_deref() == Some(name);
            let lag = newest
                .zip(member.position)
                .map(|(newest, own)| newest.saturating_sub(own));
            rows.push(Row {
                line: Some(format!("{id} {address} {} {}", member.role, member.state)),
                values: vec![
                    json!(id),
                    json!(name),
                    json!(address),
                    json!(member.role),
                    json!(member.state),
                    json!(leads),
                    json!(member.timeline),
                    json!(lag),
                    port.clone(),
                ],
            });
        }
        if cluster.members.is_empty() {
            let nothing = || Value::Null;
            rows.push(Row {
                line: None,
                values: vec![
                    json!(id),
                    nothing(),
                    nothing(),
                    nothing(),
                    json!("no members"),
                    json!(false),
                    nothing(),
                    nothing(),
                    port,
                ],
            });
        }
    }
    Sheet {
        headings: HEADINGS,
        rows,
    }
}

/// The leaves of each scope apart, so that each is read like a cluster on its own.
fn by_scope(services: &Tree) -> BTreeMap<String, Tree> {
    let mut scopes: BTreeMap<String, Tree> = BTreeMap::new();
    for (key, entry) in &services.leaves {
        let below = key
            .strip_prefix(keyspace::PATRONI)
            .and_then(|rest| rest.strip_prefix('/'));
        let Some((scope, _)) = below.and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        scopes
            .entry(scope.to_owned())
            .or_insert_with(empty)
            .leaves
            .insert(key.clone(), entry.clone());
    }
    scopes
}
