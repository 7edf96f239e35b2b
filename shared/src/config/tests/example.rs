use super::*;
use crate::catalog::NodeCount;

const EXAMPLE: &str = include_str!("../../../../config/bosh-lite.example.yml");

#[test]
fn the_example_is_what_the_original_had() {
    let config = Config::parse("config/bosh-lite.example.yml", EXAMPLE, []).unwrap();
    assert_eq!(config.broker.bind_address.to_string(), "0.0.0.0");
    assert_eq!(config.broker.port, 8888);
    assert_eq!(config.broker.posture, Posture::Lenient);
    assert_eq!(config.broker.credentials[0].username, "starkandwayne");
    assert_eq!(config.hostname, "10.244.21.2");
    let cells: Vec<_> = config
        .backends
        .iter()
        .map(|it| (it.guid.as_str(), it.availability_zone.as_str()))
        .collect();
    assert_eq!(
        cells,
        [
            ("10.244.21.6", "z1"),
            ("10.244.21.7", "z1"),
            ("10.244.21.8", "z2"),
            ("10.244.21.9", "z2")
        ]
    );
    assert_eq!(config.kvstore.machines, ["http://10.244.21.4:4001"]);
    assert!(config.kvstore.credentials.is_none());
    assert_eq!(config.master_keys.active(), "development");
    let (service, plan) = config
        .catalog
        .plan(
            "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
            "1545e30e-6dc3-11e5-826a-6c4008a663f0",
        )
        .unwrap();
    assert_eq!(
        (service.name.as_str(), plan.name.as_str()),
        ("postgresql", "cluster")
    );
    assert_eq!(plan.cluster.nodes, NodeCount { default: 2, max: 8 });
    assert!(!plan.cluster.synchronous);
    let synchronous = &service.plans[1];
    assert_eq!(synchronous.name, "cluster-sync");
    assert!(synchronous.cluster.synchronous);
}

#[test]
fn the_section_of_a_cell_loads_when_it_is_uncommented() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n")
        .collect();
    let config = CellConfig::parse("config/bosh-lite.example.yml", &uncommented, []).unwrap();
    assert_eq!(config.cell.guid.as_str(), "10.244.21.6");
    // The broker calls its backends with what the cell accepts.
    let broker = Config::parse("config/bosh-lite.example.yml", &uncommented, []).unwrap();
    let backend = &broker.backends[0];
    assert_eq!(
        backend.uri,
        format!("http://{}:{}", config.cell.address, config.cell.api_port)
    );
    assert_eq!(backend.credentials.username, config.cell.credentials.username);
}

/// A catalog as it stands in files of the original broker: at the top, and with keys in lower case.
#[test]
fn a_catalog_of_the_original_means_the_same() {
    let yaml = LEAST.replace("catalog:\n  services: []\n", "")
        + "\
services:
- id: '0f5c1670-6dc3-11e5-bc08-6c4008a663f0'
  name: 'postgresql94'
  description: 'PostgreSQL 9.4'
  bindable: true
  planupdateable: true
  tags: ['postgresql94']
  metadata:
    displayname: 'postgresql 9.4'
    providerdisplayname: 'Stark & Wayne LLC'
    other: {kept: as it is}
  plans:
  - id: '1545e30e-6dc3-11e5-826a-6c4008a663f0'
    name: 'cluster'
    description: 'High-availability cluster'
";
    let config = load(&yaml).unwrap();
    let service = &config.catalog.services()[0];
    assert!(service.plan_updateable);
    let metadata = serde_json::json!({
        "displayName": "postgresql 9.4",
        "providerDisplayName": "Stark & Wayne LLC",
        "other": {"kept": "as it is"},
    });
    assert_eq!(serde_json::Value::from(service.metadata.clone()), metadata);
}
