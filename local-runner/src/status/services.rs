//! `service-status`: the members of all clusters, `<id> <host:port> <role> <state>`, in the order of ids and addresses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shared::{
    cluster::{Cluster, Member},
    keyspace,
    record::Record,
    store::{Read, Store, StoreError, Tree},
};

use super::output::{Row, Sheet};

const HEADINGS: &[&str] = &[
    "instance", "member", "address", "role", "state", "leader", "timeline", "lag", "port",
];

/// What is shown in place of what a member does not say.
const UNKNOWN: &str = "unknown";

/// Two requests: Patroni's whole tree, and the instances with their records.
pub(super) async fn sheet(store: &dyn Store) -> Result<Sheet, StoreError> {
    let (services, instances) = tokio::try_join!(
        store.tree(keyspace::PATRONI, Read::Local),
        store.tree(keyspace::INSTANCES, Read::Local),
    )?;
    Ok(rows(
        services.unwrap_or_else(empty),
        instances.unwrap_or_else(empty),
    ))
}

fn empty() -> Tree {
    Tree {
        leaves: BTreeMap::new(),
        directories: Vec::new(),
        at: 0,
    }
}

fn rows(services: Tree, instances: Tree) -> Sheet {
    let (scopes, instances) = (
        by_id(keyspace::PATRONI, services),
        by_id(keyspace::INSTANCES, instances),
    );
    let ids: BTreeSet<&String> = scopes.keys().chain(instances.keys()).collect();
    let rows = ids.into_iter().flat_map(|id| {
        let cluster = scopes
            .get(id)
            .map(|tree| Cluster::parse(&format!("{}/{id}", keyspace::PATRONI), Some(tree)));
        let port = instances.get(id).map_or(Value::Null, |tree| port(id, tree));
        of_instance(id, &cluster.unwrap_or_default(), &port)
    });
    Sheet {
        headings: HEADINGS,
        rows: rows.collect(),
    }
}

/// The public port; null without a record that can be read.
fn port(id: &str, tree: &Tree) -> Value {
    let record = tree.leaves.get(&format!("{}/{id}/record", keyspace::INSTANCES));
    let record = record.and_then(|entry| Record::parse(&entry.value).ok());
    let port = record.and_then(|record| record.port.owned());
    port.map_or(Value::Null, |port| port.number().into())
}

fn of_instance(id: &str, cluster: &Cluster, port: &Value) -> Vec<Row> {
    if cluster.members.is_empty() {
        let nothing = || Value::Null;
        let values = vec![
            json!(id),
            nothing(),
            nothing(),
            nothing(),
            json!("no members"),
            json!(false),
            nothing(),
            nothing(),
            port.clone(),
        ];
        return vec![Row { line: None, values }];
    }
    let mut members: Vec<(&String, &Member)> = cluster.members.iter().collect();
    members.sort_by_key(|(name, member)| (address(member), *name));
    let newest = members.iter().filter_map(|(_, member)| member.position).max();
    let row = |(name, member): (&String, &Member)| {
        let (address, role, state) = (address(member), role(member), &member.state);
        let lag = newest
            .zip(member.position)
            .map(|(newest, own)| newest.saturating_sub(own));
        Row {
            line: Some(format!("{id} {address} {role} {state}")),
            values: vec![
                json!(id),
                json!(name),
                json!(address),
                json!(role),
                json!(state),
                json!(cluster.leader.as_ref() == Some(name)),
                json!(member.timeline),
                json!(lag),
                port.clone(),
            ],
        }
    };
    members.into_iter().map(row).collect()
}

fn address(member: &Member) -> &str {
    member.address.as_deref().unwrap_or(UNKNOWN)
}

/// The original's scripts look for a `master`, which Patroni 4 calls a primary.
fn role(member: &Member) -> &str {
    if member.role == "primary" {
        "master"
    } else {
        &member.role
    }
}

/// What stands below each id apart, so that each is read like one on its own. An id may have an empty directory only.
fn by_id(top: &str, tree: Tree) -> BTreeMap<String, Tree> {
    let mut found: BTreeMap<String, Tree> = BTreeMap::new();
    let below = |key: &str| -> Option<String> {
        let rest = key.strip_prefix(top)?.strip_prefix('/')?;
        rest.split('/').next().map(str::to_owned)
    };
    for id in tree.directories.iter().filter_map(|key| below(key)) {
        found.entry(id).or_insert_with(empty);
    }
    for (key, entry) in tree.leaves {
        // A leaf right below the top is no instance.
        if let Some(tree) = below(&key).and_then(|id| found.get_mut(&id)) {
            tree.leaves.insert(key, entry);
        }
    }
    found
}
