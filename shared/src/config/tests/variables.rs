use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::*;
use crate::config::given::known_variables;

#[test]
fn variables_go_before_the_file() {
    let config = load_with(
        LEAST,
        &[
            ("PATRONI_BROKER_BROKER_PASSWORD", "[other: {"),
            ("PATRONI_BROKER_BROKER_PORT", "9000"),
            ("PATRONI_BROKER_BROKER_POSTURE", "lenient"),
            ("PATRONI_BROKER_ROUTER_HOSTNAME", "elsewhere"),
            ("PATRONI_BROKER_KVSTORE_MACHINES", "http://a:2379, http://b:2379"),
            ("PATRONI_BROKER_PORTS_RANGE", "20000-20009"),
            ("PATRONI_BROKER_OPERATIONS_UPDATE", "60"),
            (
                "PATRONI_BROKER_BACKENDS",
                r#"[{"guid": "a", "availability_zone": "z", "uri": "http://a", "username": "u", "password": "p"}]"#,
            ),
            // As a template leaves them when nothing is to be set.
            ("PATRONI_BROKER_BROKER_USERNAME", ""),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    let credentials = &config.broker.credentials[0];
    assert_eq!(credentials.username, "u");
    // The text itself, whatever it would mean in YAML.
    assert_eq!(credentials.password.expose_secret(), "[other: {");
    assert_eq!(
        (config.broker.port, config.broker.posture),
        (9000, Posture::Lenient)
    );
    assert_eq!(config.hostname, "elsewhere");
    assert_eq!(config.kvstore.machines, ["http://a:2379", "http://b:2379"]);
    assert_eq!(config.ports.last.number(), 20009);
    assert_eq!(config.operations.update.as_secs(), 60);
    assert_eq!(config.backends[0].uri, "http://a");
}

#[test]
fn variables_alone_will_do() {
    let config = load_with(
        "",
        &[
            ("PATRONI_BROKER_BROKER_USERNAME", "u"),
            ("PATRONI_BROKER_BROKER_PASSWORD", "p"),
            ("PATRONI_BROKER_ROUTER_HOSTNAME", "db.example.com"),
            ("PATRONI_BROKER_KVSTORE_MACHINES", "http://a:2379"),
            ("PATRONI_BROKER_CELL_USERNAME", "u"),
            ("PATRONI_BROKER_CELL_PASSWORD", "p"),
            (
                "PATRONI_BROKER_CATALOG_SERVICES",
                "[{id: s, name: s, description: d, plans: [{id: p, name: p, description: d}]}]",
            ),
            (
                "PATRONI_BROKER_SECRETS_MASTER_KEYS",
                "[{id: k2, environment: PATRONI_BROKER_MASTER_KEY_2}, {id: k1, environment: OLD_KEY}]",
            ),
            ("PATRONI_BROKER_MASTER_KEY_2", KEY),
            (
                "OLD_KEY",
                "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F",
            ),
        ],
    )
    .unwrap();
    assert!(config.catalog.plan("s", "p").is_ok());
    assert_eq!(config.master_keys.active(), "k2");
}

#[test]
fn nested_sections_have_variables_too() {
    let variables = [
        ("PATRONI_BROKER_KVSTORE_MACHINES", "http://a:2379"),
        ("PATRONI_BROKER_CELL_GUID", "c1"),
        ("PATRONI_BROKER_CELL_ADDRESS", "c1.example.com"),
        ("PATRONI_BROKER_CELL_AVAILABILITY_ZONE", "z1"),
        ("PATRONI_BROKER_CELL_USERNAME", "u"),
        ("PATRONI_BROKER_CELL_PASSWORD", "p"),
        (
            "PATRONI_BROKER_CELL_PATRONI_COMMAND",
            "/usr/bin/python3,-m,patroni",
        ),
        ("PATRONI_BROKER_CELL_PATRONI_USER", "postgres"),
        (
            "PATRONI_BROKER_CELL_POSTGRESQL_PARAMETERS",
            "{shared_buffers: 16MB, fsync: off, wal_keep_size: 64}",
        ),
    ];
    let cell = CellConfig::parse("x.yml", "cell: {patroni: {user: other}}", variables)
        .unwrap()
        .cell;
    assert_eq!(cell.patroni.command, ["/usr/bin/python3", "-m", "patroni"]);
    assert_eq!(cell.patroni.user.as_deref(), Some("postgres"));
    let parameters = serde_json::json!({"shared_buffers": "16MB", "fsync": "off", "wal_keep_size": 64});
    assert_eq!(serde_json::Value::from(cell.postgresql_parameters), parameters);
}

#[test]
fn each_variable_belongs_to_one_key() {
    let all = known_variables();
    let different: BTreeSet<_> = all.iter().collect();
    assert_eq!(all.len(), different.len());
    for taken in [
        "PATRONI_BROKER_CONFIG",
        "PATRONI_BROKER_CONFIG_YAML",
        "PATRONI_BROKER_MASTER_KEY",
    ] {
        assert!(!all.iter().any(|name| name == taken), "{taken}");
    }
}

#[test]
fn what_kubernetes_sets_for_services_is_no_mistake() {
    let links = [
        ("PATRONI_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("PATRONI_BROKER_SERVICE_PORT", "8888"),
        ("PATRONI_BROKER_SERVICE_PORT_HTTP", "8888"),
        ("PATRONI_BROKER_PORT", "tcp://10.0.0.1:8888"),
        ("PATRONI_BROKER_PORT_8888_TCP", "tcp://10.0.0.1:8888"),
        ("PATRONI_BROKER_PORT_8888_TCP_PROTO", "tcp"),
        ("PATRONI_BROKER_PORT_8888_TCP_PORT", "8888"),
        ("PATRONI_BROKER_PORT_8888_TCP_ADDR", "10.0.0.1"),
        ("PATRONI_BROKER_ROUTER_SERVICE_HOST", "10.0.0.2"),
        ("PATRONI_BROKER_ROUTER_PORT", "tcp://10.0.0.2:30000"),
    ];
    load_with(LEAST, &links).unwrap();
}

#[test]
fn mistakes_in_variables_name_the_variable() {
    let cases = [
        (
            ("PATRONI_BROKER_KVSTORE_MACHINE", "http://a:2379"),
            "PATRONI_BROKER_KVSTORE_MACHINE: no such variable: names are PATRONI_BROKER_<SECTION>_<KEY>, for example \
             PATRONI_BROKER_KVSTORE_MACHINES",
        ),
        (
            ("PATRONI_BROKER_PORT", "8888"),
            "PATRONI_BROKER_PORT: no such variable: names are PATRONI_BROKER_<SECTION>_<KEY>, for example \
             PATRONI_BROKER_KVSTORE_MACHINES",
        ),
        (
            ("PATRONI_BROKER_CELL_PATRONI", "{user: postgres}"),
            "PATRONI_BROKER_CELL_PATRONI: no such variable: names are PATRONI_BROKER_<SECTION>_<KEY>, for example \
             PATRONI_BROKER_KVSTORE_MACHINES",
        ),
        (
            ("PATRONI_BROKER_BROKER_PORT", "tcp://10.0.0.1:8888"),
            "PATRONI_BROKER_BROKER_PORT: broker.port: must be a whole number from 1 to 65535, not 'tcp://10.0.0.1:8888'",
        ),
        (
            ("PATRONI_BROKER_KVSTORE_MACHINES", "http://a:2379,,http://b:2379"),
            "PATRONI_BROKER_KVSTORE_MACHINES: kvstore.machines[1]: must not be empty",
        ),
        (
            ("PATRONI_BROKER_BACKENDS", "- guid: a\n  uri: x\n"),
            "PATRONI_BROKER_BACKENDS:1: backends[0].availability_zone: is missing",
        ),
        (
            ("PATRONI_BROKER_BACKENDS", "[{guid: a"),
            "PATRONI_BROKER_BACKENDS:1: not readable as YAML: unclosed bracket '{'",
        ),
        (
            ("PATRONI_BROKER_BACKENDS", "10.244.21.6"),
            "PATRONI_BROKER_BACKENDS:1: backends: must be a list",
        ),
    ];
    for (variable, expected) in cases {
        assert_eq!(message(load_with(LEAST, &[variable])), expected);
    }
}
