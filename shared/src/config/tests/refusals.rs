use super::*;

/// Each configuration, and what is said about it.
const FILES: &[(&str, &str)] = &[
    // As a whole.
    (
        "a: [1\nb: 2\n",
        "x.yml:2: not readable as YAML: illegal placement of ':' indicator",
    ),
    ("- broker\n", "x.yml:1: must be a mapping (lines of 'key: value')"),
    (
        "broker:\n  port: 1\nbroker:\n  port: 2\n",
        "x.yml:3: the key 'broker' stands twice",
    ),
    ("a: 1\n---\nb: 2\n", "x.yml:3: a second YAML document begins here"),
    (
        "broker: *nowhere\n",
        "x.yml:1: not readable as YAML: alias references unknown anchor",
    ),
    (
        "brokre:\n  port: 1\n",
        "x.yml:1: brokre: no such key; there are: broker, router, backends, kvstore, catalog, services, ports, \
         operations, cell, secrets",
    ),
    // broker
    (
        "broker: 8888\n",
        "x.yml:1: broker: must be a mapping (lines of 'key: value')",
    ),
    (
        "\nbroker:\n  port: 1\n  pasword: secret\n",
        "x.yml:4: broker.pasword: no such key; there are: port, username, password, bind_address, posture, credentials, certificate_file, key_file",
    ),
    (
        "broker:\n  port: 65536\n",
        "x.yml:2: broker.port: must be a whole number from 1 to 65535, not '65536'",
    ),
    (
        "broker:\n  port: '80 '\n",
        "x.yml:2: broker.port: must be a whole number from 1 to 65535, not '80 '",
    ),
    (
        "broker:\n  port: [80]\n",
        "x.yml:2: broker.port: must be a text, not a list",
    ),
    (
        "broker:\n  bind_address: localhost\n",
        "x.yml:2: broker.bind_address: must be an IP address such as 127.0.0.1, not 'localhost'",
    ),
    (
        "broker:\n  posture: lax\n",
        "x.yml:2: broker.posture: must be strict or lenient, not 'lax'",
    ),
    (
        "broker:\n  username: a:b\n",
        "x.yml:2: broker.username: must not hold a colon or control characters",
    ),
    (
        "broker:\n  username: u\n",
        "x.yml:1: broker.password: is missing: set it or PATRONI_BROKER_BROKER_PASSWORD",
    ),
    (
        "broker:\n  credentials:\n  - {username: u, password: p}\n  - {username: u}\n",
        "x.yml:4: broker.credentials[1].password: is missing",
    ),
    // router
    (
        "router:\n  hostname: http://db\n",
        "x.yml:2: router.hostname: must be a host name or an IP address, without a port, not 'http://db'",
    ),
    (
        "router:\n  max_connections: 0\n",
        "x.yml:2: router.max_connections: must be a whole number from 1 to 1000000, not '0'",
    ),
    // backends
    ("backends: 10.244.21.6\n", "x.yml:1: backends: must be a list"),
    (
        "backends:\n- 10.244.21.6\n",
        "x.yml:2: backends[0]: must be a mapping (lines of 'key: value')",
    ),
    (
        "backends:\n- guid: a/b\n",
        "x.yml:2: backends[0].guid: the cell guid 'a/b' is not usable: it must start with a letter or digit and hold \
         at most 128 letters, digits, '.', '_' or '-'",
    ),
    (
        "backends:\n- guid: a\n  availability_zone: ''\n",
        "x.yml:3: backends[0].availability_zone: must not be empty",
    ),
    (
        "backends:\n- guid: a\n  availability_zone: z\n  uri: 10.244.21.6:80\n",
        "x.yml:4: backends[0].uri: must be a URL such as 'http://10.244.21.4:4001'",
    ),
    (
        "backends:\n- {guid: a, availability_zone: z, uri: 'http://a', username: u, password: p}\n\
         - {guid: a, availability_zone: z, uri: 'http://b', username: u, password: p}\n",
        "x.yml:3: backends[1].guid: 'a' is used twice (first at line 2)",
    ),
    (
        "backends:\n- {guid: a, availability_zone: z, uri: 'http://a', username: u, password: p}\n\
         - {guid: b, availability_zone: z, uri: 'http://a/', username: u, password: p}\n",
        "x.yml:3: backends[1].uri: 'http://a' is used twice (first at line 2)",
    ),
    // kvstore
    (
        "broker: {port: 1}\n",
        "x.yml: kvstore.machines: is missing: set it or PATRONI_BROKER_KVSTORE_MACHINES",
    ),
    (
        "\nkvstore:\n  machines:\n",
        "x.yml:2: kvstore.machines: is missing: set it or PATRONI_BROKER_KVSTORE_MACHINES",
    ),
    (
        "kvstore:\n  machines: []\n",
        "x.yml:2: kvstore.machines: must hold at least one machine",
    ),
    (
        "kvstore:\n  type: consul\n",
        "x.yml:2: kvstore.type: must be etcd, not 'consul'",
    ),
    (
        "kvstore:\n  machines:\n  - http://a:4001\n  - a:4001\n",
        "x.yml:4: kvstore.machines[1]: must be a URL such as 'http://10.244.21.4:4001'",
    ),
    (
        "kvstore:\n  machines:\n  - http://a:4001\n  - http://a:4001/\n",
        "x.yml:4: kvstore.machines[1]: 'http://a:4001' is used twice (first at line 3)",
    ),
    (
        "kvstore:\n  machines: 'http://u:p@a'\n",
        "x.yml:2: kvstore.machines[0]: must not hold a username or password: they have keys of their own",
    ),
    (
        "kvstore:\n  machines: 'http://a?b'\n",
        "x.yml:2: kvstore.machines[0]: must not hold a query or a fragment",
    ),
    (
        "broker:\n  port: 1\n  key_file: b\n",
        "x.yml:1: broker.certificate_file: is missing: set it or PATRONI_BROKER_BROKER_CERTIFICATE_FILE",
    ),
    (
        "kvstore:\n  machines: 'https://a'\n  key_file: b\n",
        "x.yml:1: kvstore.certificate_file: is missing: set it or PATRONI_BROKER_KVSTORE_CERTIFICATE_FILE",
    ),
];

/// What stands behind a `kvstore` on the first line, and what is said about it.
const SECTIONS: &[(&str, &str)] = &[
    // ports
    (
        "ports: {range: 32767-30000}\n",
        "x.yml:2: ports.range: must be two ports with the lower one first, such as '30000-32767', not '32767-30000'",
    ),
    (
        "ports: {range: 0-5}\n",
        "x.yml:2: ports.range: must be two ports with the lower one first, such as '30000-32767', not '0-5'",
    ),
    (
        "ports: {first: 1}\n",
        "x.yml:2: ports.first: no such key; there are: range, quarantine",
    ),
    (
        "ports: {quarantine: 1h}\n",
        "x.yml:2: ports.quarantine: must be a whole number from 1 to 3153600000, not '1h'",
    ),
    // operations
    (
        "operations: {provision: 0}\n",
        "x.yml:2: operations.provision: must be a whole number from 1 to 3153600000, not '0'",
    ),
    // cell
    (
        "cell: {guid: -a}\n",
        "x.yml:2: cell.guid: the cell guid '-a' is not usable: it must start with a letter or digit and hold at most 128 letters, digits, '.', '_' or '-'",
    ),
    (
        "cell: {patroni: {command: []}}\n",
        "x.yml:2: cell.patroni.command: must hold at least one program",
    ),
    (
        "cell:\n  postgresql:\n    parameters:\n      Port: 5432\n",
        "x.yml:5: cell.postgresql.parameters.Port: is set by the broker itself",
    ),
    (
        "cell:\n  postgresql:\n    parameters:\n      work mem: 5432\n",
        "x.yml:5: cell.postgresql.parameters.work mem: is no name of a PostgreSQL parameter",
    ),
    (
        "cell:\n  postgresql:\n    parameters:\n      work_mem:\n",
        "x.yml:5: cell.postgresql.parameters.work_mem: must be a text, a number or a boolean",
    ),
    // secrets
    (
        "secrets:\n  master_keys: []\n",
        "x.yml:3: secrets.master_keys: must hold at least one key, of which the first is for everything new",
    ),
    (
        "secrets:\n  master_keys:\n  - {id: a, file: f}\n  - {id: a, file: g}\n",
        "x.yml:5: secrets.master_keys[1].id: 'a' is used twice (first at line 4)",
    ),
    (
        "secrets:\n  master_keys:\n  - id: a\n",
        "x.yml:4: secrets.master_keys[0]: must have exactly one of environment, file and value_for_development",
    ),
    (
        "secrets:\n  master_keys:\n  - {id: a, file: f, environment: E}\n",
        "x.yml:4: secrets.master_keys[0]: must have exactly one of environment, file and value_for_development",
    ),
    (
        "secrets:\n  master_keys:\n  - {id: a b, file: f}\n",
        "x.yml:4: secrets.master_keys[0].id: must be at most 32 letters, digits, '.', '_' or '-'",
    ),
    (
        "secrets:\n  master_keys:\n  - {id: a, environment: A=B}\n",
        "x.yml:4: secrets.master_keys[0].environment: must be the name of a variable, not its value",
    ),
    // What nothing starts without, in the order in which it is asked for.
    (
        "",
        "x.yml: broker.username: is missing: set it or PATRONI_BROKER_BROKER_USERNAME",
    ),
    (
        "broker: {username: '', password: ''}\n",
        "x.yml:2: broker.username: is missing: set it or PATRONI_BROKER_BROKER_USERNAME",
    ),
    (
        "broker: {username: u, password: p}\n",
        "x.yml: router.hostname: is missing: set it or PATRONI_BROKER_ROUTER_HOSTNAME",
    ),
    (
        "broker: {username: u, password: p}\nrouter: {hostname: h}\n",
        "x.yml: cell.username: is missing: set it or PATRONI_BROKER_CELL_USERNAME (without 'backends' it is how the \
         cells are called that announce themselves)",
    ),
    (
        "cell: {username: u, password: p}\nbroker: {username: u, password: p}\nrouter: {hostname: h}\n",
        "x.yml: catalog.services: is missing: set it or PATRONI_BROKER_CATALOG_SERVICES",
    ),
    (
        "cell: {username: u, password: p}\nbroker: {username: u, password: p}\nrouter: {hostname: h}\n\
         services: []\n",
        "x.yml: secrets.master_keys: is missing: set it or PATRONI_BROKER_SECRETS_MASTER_KEYS",
    ),
];

/// A master key that is not there, or none.
const KEYS: &[(&str, &str)] = &[
    (
        "environment: NO_SUCH",
        "x.yml:7: secrets.master_keys[0].environment: the environment variable NO_SUCH is not set; it must hold \
         32 random bytes in base64 or hexadecimal, for example from 'openssl rand -base64 32'",
    ),
    (
        "file: /no/such",
        "x.yml:7: secrets.master_keys[0].file: the file /no/such cannot be read (No such file or directory (os error \
         2)); it must hold 32 random bytes in base64 or hexadecimal, for example from 'openssl rand -base64 32'",
    ),
    (
        "value_for_development: AAECAwQ=",
        "x.yml:7: secrets.master_keys[0].value_for_development: this is not a master key, which is 32 random bytes \
         in base64 or hexadecimal, for example from 'openssl rand -base64 32'",
    ),
];

#[test]
fn each_mistake_is_named_with_its_line_and_key() {
    for (yaml, expected) in FILES {
        check(yaml, expected);
    }
    for (yaml, expected) in SECTIONS {
        check(
            &format!("kvstore: {{machines: ['http://e:1']}}\n{yaml}"),
            expected,
        );
    }
    for (holder, expected) in KEYS {
        check(
            &LEAST.replace(&format!("value_for_development: {KEY}"), holder),
            expected,
        );
    }
}

#[test]
fn what_a_cell_lacks_is_named() {
    let cell = "kvstore: {machines: ['http://e:1']}\ncell: {guid: a, address: b, username: u, password: p}\n";
    assert_eq!(
        message(CellConfig::parse("x.yml", cell, [])),
        "x.yml:2: cell.availability_zone: is missing: set it or PATRONI_BROKER_CELL_AVAILABILITY_ZONE"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    assert_eq!(
        message(Config::load(Some(Path::new("/no/such.yml")))),
        "/no/such.yml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn a_schedule_needs_time_to_see_that_a_cell_is_missing() {
    let on_schedule = |yaml: &str, variables: &[(&str, &str)]| {
        let yaml = format!("{LEAST}{yaml}");
        assert!(load_with(&yaml, variables).is_ok());
        message(ScheduledConfig::parse("x.yml", &yaml, variables.iter().copied()))
    };
    let rule = "operations.replace_after: must be at least 150: the schedule looks at the cells once a minute, and none \
                counts as missing that is not looked for twice in that time";
    let variable = "PATRONI_BROKER_OPERATIONS_REPLACE_AFTER";
    for (yaml, variables, expected) in [
        ("", vec![], "no error".to_owned()),
        (
            "operations: {replace_after: 150}\n",
            vec![],
            "no error".to_owned(),
        ),
        (
            "operations:\n  replace_after: 149\n",
            vec![],
            format!("x.yml:11: {rule}"),
        ),
        ("", vec![(variable, "60")], format!("{variable}: {rule}")),
    ] {
        assert_eq!(on_schedule(yaml, &variables), expected);
    }
}
