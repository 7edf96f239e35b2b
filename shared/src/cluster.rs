//! What Patroni says about a cluster: its keys below `/service/<scope>/`, which are Patroni's. Only read here; whoever
//! deletes one (of a dead leader, a removed node or a deprovisioned instance) does so on the index at which it was seen.
//!
//! **Guarantees.** Reads what Patroni 3 and 4 write, and the original's members (role `master`, credentials in
//! `conn_url`). A member that cannot be read counts as there but unknown; nothing is concluded from it.
//! **Source.** Patroni's documentation and the measurements in patroni-reference.md.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    ids::NodeId,
    store::{Entry, Index, Tree},
};

/// The keys of one cluster as they stood at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// The system identifier of the database; empty while the first node bootstraps it.
    pub initialize: Option<String>,
    /// Who holds the leader key.
    pub leader: Option<String>,
    /// What each member publishes, by its name.
    pub members: BTreeMap<String, Member>,
    /// Patroni's dynamic configuration.
    pub config: Option<Value>,
    /// The standbys that commits wait for, in synchronous mode: only one of them can take over.
    pub synchronous: Vec<String>,
    /// Every leaf with its index: what a deprovision deletes, each on the index seen here.
    pub leaves: Vec<(String, Index)>,
    /// Every directory below the scope.
    pub directories: Vec<String>,
    /// Whether the scope's directory is there at all.
    pub exists: bool,
}

/// One member as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Patroni's state: `running`, `stopped`, `creating replica`, ...
    pub state: String,
    /// Patroni's role: `master` (3), `primary` (4), `promoted`, `replica`, `uninitialized`, ...
    pub role: String,
    /// The timeline that it is on.
    pub timeline: Option<u64>,
    /// `host:port` of its PostgreSQL.
    pub address: Option<String>,
    /// Where its REST API answers: `http://host:port`.
    pub api: Option<String>,
    /// What its walreceiver says (Patroni 4 only): `streaming`, `in archive recovery`, ...
    pub replication_state: Option<String>,
    /// How far its write-ahead log has come, in bytes.
    pub position: Option<u64>,
    /// Whether it is excluded from becoming the leader.
    pub nofailover: bool,
    /// The index of the member key.
    pub index: Option<Index>,
}

impl Member {
    /// Whether its PostgreSQL runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Whether it says that it is the primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        matches!(self.role.as_str(), "master" | "primary" | "promoted")
    }

    fn parse(entry: &Entry) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Raw {
            state: Option<String>,
            role: Option<String>,
            timeline: Option<u64>,
            conn_url: Option<String>,
            api_url: Option<String>,
            replication_state: Option<String>,
            xlog_location: Option<u64>,
            replay_lsn: Option<u64>,
            tags: Option<Tags>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Tags {
            nofailover: Value,
        }
        let raw: Raw = serde_json::from_str(&entry.value).unwrap_or_default();
        Self {
            state: raw.state.unwrap_or_else(|| "unknown".to_owned()),
            role: raw.role.unwrap_or_else(|| "unknown".to_owned()),
            timeline: raw.timeline,
            address: raw.conn_url.as_deref().and_then(address_of),
            api: raw
                .api_url
                .as_deref()
                .map(|url| url.trim_end_matches("/patroni").to_owned()),
            replication_state: raw.replication_state,
            position: raw.replay_lsn.or(raw.xlog_location),
            nofailover: raw.tags.is_some_and(|tags| tags.nofailover == Value::Bool(true)),
            index: Some(entry.index),
        }
    }
}

/// `host:port` of a `postgres://[user[:password]@]host:port/database` URL, without the credentials that the original's
/// members carry.
#[must_use]
pub fn address_of(conn_url: &str) -> Option<String> {
    let rest = conn_url
        .strip_prefix("postgres://")
        .or_else(|| conn_url.strip_prefix("postgresql://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let address = authority.rsplit('@').next()?;
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| address.to_owned())
}

/// The names in Patroni's `sync` key: `{"leader": "a", "sync_standby": "b,c"}`.
fn standbys(text: &str) -> Vec<String> {
    let sync: Value = serde_json::from_str(text).unwrap_or_default();
    let names = sync["sync_standby"].as_str().unwrap_or_default();
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

impl Cluster {
    /// Reads a cluster from everything below its scope; an absent scope is a cluster with nothing in it.
    #[must_use]
    pub fn parse(scope: &str, tree: Option<&Tree>) -> Self {
        let Some(tree) = tree else { return Self::default() };
        let value = |name: &str| {
            tree.leaves
                .get(&format!("{scope}/{name}"))
                .map(|entry| entry.value.clone())
        };
        let members_at = format!("{scope}/members/");
        let members = tree
            .leaves
            .iter()
            .filter_map(|(key, entry)| {
                key.strip_prefix(&members_at)
                    .map(|name| (name.to_owned(), Member::parse(entry)))
            })
            .collect();
        Self {
            initialize: value("initialize"),
            leader: value("leader"),
            members,
            synchronous: value("sync").map(|text| standbys(&text)).unwrap_or_default(),
            config: value("config").and_then(|text| serde_json::from_str(&text).ok()),
            leaves: tree
                .leaves
                .iter()
                .map(|(key, entry)| (key.clone(), entry.index))
                .collect(),
            directories: tree.directories.clone(),
            exists: true,
        }
    }

    /// What a node publishes.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node.to_string())
    }

    /// The leader's member: only when the holder of the leader key runs and says that it is the primary.
    #[must_use]
    pub fn running_leader(&self) -> Option<(&str, &Member)> {
        let name = self.leader.as_deref()?;
        let member = self.members.get(name)?;
        (member.is_running() && member.is_primary()).then_some((name, member))
    }

    /// Whether this node holds the leader key.
    #[must_use]
    pub fn is_led_by(&self, node: NodeId) -> bool {
        self.leader.as_deref() == Some(node.to_string().as_str())
    }

    /// The system identifier, once the database was initialised.
    #[must_use]
    pub fn system_identifier(&self) -> Option<&str> {
        self.initialize.as_deref().filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(leaves: &[(&str, &str)]) -> Tree {
        let entry = |value: &str| Entry {
            value: value.to_owned(),
            index: Index::MIN,
            ttl: None,
        };
        Tree {
            leaves: leaves
                .iter()
                .map(|(key, value)| (format!("/service/f1/{key}"), entry(value)))
                .collect(),
            directories: vec!["/service/f1/members".to_owned()],
            at: 7,
        }
    }

    #[test]
    fn members_of_patroni_3_and_4_and_of_the_original_are_read() {
        let tree = tree(&[
            ("initialize", "7300000000000000001"),
            ("leader", "a"),
            (
                "members/a",
                r#"{"conn_url":"postgres://127.0.0.2:15000/postgres","api_url":"http://127.0.0.2:15100/patroni","state":"running","role":"primary","version":"4.1.5","xlog_location":83886336,"timeline":1}"#,
            ),
            (
                "members/b",
                r#"{"conn_url":"postgres://127.0.0.3:15000/postgres","api_url":"http://127.0.0.3:15100/patroni","state":"running","role":"replica","tags":{"nofailover":true},"replication_state":"streaming","timeline":1}"#,
            ),
            (
                "members/c",
                r#"{"role": "master", "state": "running", "conn_url": "postgres://replicator:replicator@10.244.21.8:32768/postgres", "api_url": "http://127.0.0.1:8008/patroni", "xlog_location": 83886336}"#,
            ),
        ]);
        let cluster = Cluster::parse("/service/f1", Some(&tree));
        let (name, leader) = cluster.running_leader().unwrap();
        assert_eq!((name, leader.address.as_deref()), ("a", Some("127.0.0.2:15000")));
        assert_eq!(leader.api.as_deref(), Some("http://127.0.0.2:15100"));
        let replica = &cluster.members["b"];
        assert!(replica.nofailover && !replica.is_primary());
        assert_eq!(replica.replication_state.as_deref(), Some("streaming"));
        let original = &cluster.members["c"];
        assert!(original.is_primary() && original.is_running());
        assert_eq!(original.address.as_deref(), Some("10.244.21.8:32768"));
    }

    #[test]
    fn a_leader_key_without_a_running_primary_is_no_running_leader() {
        let stopped = tree(&[
            ("leader", "a"),
            ("members/a", r#"{"state":"starting","role":"primary"}"#),
        ]);
        assert_eq!(
            Cluster::parse("/service/f1", Some(&stopped)).running_leader(),
            None
        );
        let absent = tree(&[("leader", "a")]);
        assert_eq!(
            Cluster::parse("/service/f1", Some(&absent)).running_leader(),
            None
        );
        let replica = tree(&[
            ("leader", "a"),
            ("members/a", r#"{"state":"running","role":"replica"}"#),
        ]);
        assert_eq!(
            Cluster::parse("/service/f1", Some(&replica)).running_leader(),
            None
        );
    }

    #[test]
    fn rubbish_is_there_but_unknown() {
        let tree = tree(&[
            ("members/a", "{"),
            ("members/b", "[1]"),
            ("members/c", r#"{"state":5}"#),
            ("initialize", ""),
            ("config", "{"),
        ]);
        let cluster = Cluster::parse("/service/f1", Some(&tree));
        assert!(
            cluster
                .members
                .values()
                .all(|member| member.state == "unknown" && !member.is_running())
        );
        assert_eq!(
            (
                cluster.members.len(),
                cluster.system_identifier(),
                &cluster.config
            ),
            (3, None, &None)
        );
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        assert_eq!(
            address_of("postgres://u:p%40@[::1]:5432/postgres?x=y").as_deref(),
            Some("[::1]:5432")
        );
        for url in [
            "",
            "postgres://",
            "postgres://h/postgres",
            "postgres://:5432/",
            "http://h:1/",
            "postgres://h:x/",
        ] {
            assert_eq!(address_of(url), None, "{url}");
        }
    }
}
