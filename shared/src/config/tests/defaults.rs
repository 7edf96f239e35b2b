use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::{
    catalog::{Cluster, NodeCount, PatroniTiming},
    record::Failover,
};

#[test]
fn what_is_not_given_has_the_documented_value() {
    let config = load(LEAST).unwrap();
    assert_eq!(config.broker.bind_address.to_string(), "127.0.0.1");
    assert_eq!(config.broker.port, 8888);
    assert_eq!(config.broker.posture, Posture::Strict);
    assert!(config.backends.is_empty());
    assert!(config.kvstore.credentials.is_none() && config.kvstore.ca_file.is_none());
    assert!(config.kvstore.client_certificate.is_none());
    assert_eq!(
        (config.ports.first.number(), config.ports.last.number()),
        (30000, 32767)
    );
    assert_eq!(config.ports.quarantine, Duration::from_secs(3600));
    let operations = Operations {
        provision: Duration::from_secs(600),
        update: Duration::from_secs(1800),
        deprovision: Duration::from_secs(600),
        tombstone_ttl: Duration::from_secs(604_800),
        replace_after: Duration::from_secs(300),
    };
    assert_eq!(config.operations, operations);
    assert_eq!(config.master_keys.active(), "k1");
    assert_eq!(config.cell_credentials.unwrap().username, "c");
}

#[test]
fn a_plan_has_the_documented_cluster() {
    let yaml = with_services(
        "  services:\n  - {id: s, name: s, description: d, plans: [{id: p, name: p, description: d}]}\n",
    );
    let config = load(&yaml).unwrap();
    let (service, plan) = config.catalog.plan("s", "p").unwrap();
    assert!(service.bindable && !service.instances_retrievable && !service.bindings_retrievable);
    assert!(!service.plan_updateable && !service.allow_context_updates && !plan.binding_rotatable);
    assert!(plan.free);
    assert_eq!(plan.quota, None);
    let cluster = Cluster {
        nodes: NodeCount { default: 2, max: 4 },
        memory: None,
        postgresql_parameters: serde_json::Map::new(),
        synchronous: false,
        failover: Failover::Restart,
        patroni: PatroniTiming {
            ttl: 30,
            loop_wait: 10,
            retry_timeout: 10,
            maximum_lag_on_failover: 1_048_576,
        },
    };
    assert_eq!(plan.cluster, cluster);
}

#[test]
fn a_replica_takes_over_from_a_dead_leader_where_commits_wait_for_it_or_the_plan_says_so() {
    for (given, expected) in [
        ("", Failover::Restart),
        ("synchronous: true", Failover::Promote),
        ("failover: promote", Failover::Promote),
        ("synchronous: true, failover: restart", Failover::Restart),
        ("synchronous: true, failover: promote", Failover::Promote),
    ] {
        let plan = format!("{{id: p, name: p, description: d, cluster: {{{given}}}}}");
        let yaml = with_services(&format!(
            "  services:\n  - {{id: s, name: s, description: d, plans: [{plan}]}}\n"
        ));
        let config = load(&yaml).unwrap();
        let (_, plan) = config.catalog.plan("s", "p").unwrap();
        assert_eq!(plan.cluster.failover, expected, "{given}");
    }
}

#[test]
fn a_quota_is_counted_under_the_plans_id() {
    let yaml = with_services(
        "  services:\n  - {id: s, name: s, description: d, plans: [{id: P.1, name: p, description: d, cluster: \
         {instances: {max: 3}}}]}\n",
    );
    let catalog = load(&yaml).unwrap().catalog;
    let quota = catalog.quota("s", "P.1").unwrap();
    assert_eq!((quota.plan.as_str(), quota.max), ("P.1", 3));
    assert!(catalog.has_quotas());
}

#[test]
fn one_number_of_nodes_moves_the_default_of_the_other() {
    for (given, default, max) in [
        ("default: 6", 6, 6),
        ("default: 3", 3, 4),
        ("max: 1", 1, 1),
        ("max: 8", 2, 8),
    ] {
        let plan = format!("{{id: p, name: p, description: d, cluster: {{nodes: {{{given}}}}}}}");
        let yaml = with_services(&format!(
            "  services:\n  - {{id: s, name: s, description: d, plans: [{plan}]}}\n"
        ));
        let config = load(&yaml).unwrap();
        let (_, plan) = config.catalog.plan("s", "p").unwrap();
        assert_eq!(plan.cluster.nodes, NodeCount { default, max }, "{given}");
    }
}

#[test]
fn a_cell_needs_no_more_than_its_part() {
    let yaml = "\
kvstore: {machines: 'http://10.244.21.4:4001/'}
cell: {guid: 10.244.21.6, address: 10.244.21.6, availability_zone: z1, username: c, password: 0123}
";
    let config = CellConfig::parse("x.yml", yaml, []).unwrap();
    let cell = config.cell;
    assert_eq!(cell.guid.as_str(), "10.244.21.6");
    assert_eq!((cell.api_port.number(), cell.first_port.number()), (8889, 20000));
    assert_eq!(cell.capacity, 20);
    assert_eq!(cell.heartbeat_ttl, Duration::from_secs(30));
    assert_eq!(cell.data_directory.to_str(), Some("/var/lib/patroni-broker/cell"));
    assert_eq!(cell.patroni.command, ["patroni"]);
    assert!(cell.patroni.user.is_none() && cell.patroni.postgres_bin.is_none());
    assert!(cell.postgresql_parameters.is_empty());
    // As it was written, not as YAML understands it.
    assert_eq!(cell.credentials.password.expose_secret(), "0123");
    assert_eq!(config.kvstore.machines, ["http://10.244.21.4:4001"]);
}

#[test]
fn a_router_needs_no_more_than_etcd() {
    let config = RouterConfig::parse("x.yml", "kvstore: {machines: ['https://etcd:2379']}", []).unwrap();
    assert_eq!(config.router.bind_address.to_string(), "0.0.0.0");
    assert_eq!(config.router.haproxy.to_str(), Some("haproxy"));
    assert_eq!(
        config.router.state_directory.to_str(),
        Some("/var/lib/patroni-broker/router")
    );
    assert_eq!(config.router.max_connections, 4000);
}

#[test]
fn further_credentials_follow_the_first() {
    let yaml = LEAST.replace(
        "broker: {username: u, password: p}",
        "broker: {username: u, password: p, credentials: [{username: u, password: q}]}",
    );
    let config = load(&yaml).unwrap();
    let passwords: Vec<_> = config
        .broker
        .credentials
        .iter()
        .map(|it| it.password.expose_secret())
        .collect();
    assert_eq!(passwords, ["p", "q"]);
    // The list alone will do.
    let yaml = LEAST.replace(
        "broker: {username: u, password: p}",
        "broker: {credentials: [{username: v, password: q}]}",
    );
    assert_eq!(load(&yaml).unwrap().broker.credentials.len(), 1);
}

#[test]
fn anchors_and_merges_are_followed() {
    let yaml = LEAST.to_owned()
        + "\
backends:
- &one {guid: a, availability_zone: z1, uri: 'http://a:8889', username: c, password: d}
- {<<: *one, guid: b, uri: 'http://b:8889'}
";
    let config = load(&yaml).unwrap();
    assert_eq!(config.backends[1].guid.as_str(), "b");
    assert_eq!(config.backends[1].availability_zone, "z1");
}
