//! Patroni's configuration file of one node. JSON is YAML, so it is written as JSON.
//!
//! **Guarantees.** Works with Patroni 3.0 to 4.1. Passwords are in it only where Patroni takes them from; no parameter
//! lets PostgreSQL or Patroni write a statement that could hold one into a log.
//! **Caveats.** `bootstrap.dcs` counts only for the first node of a cluster ever; afterwards the dynamic configuration
//! is in etcd and changes through Patroni's REST API.

use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use shared::{
    cell_api::{NodeParameters, REPLICATION_USER, REST_USER, REWIND_USER, SUPERUSER},
    keyspace,
};

use super::{error::CellError, ports::PortPair, settings::EtcdAccess, settings::Settings};

/// What goes into the file.
pub(super) struct Configuration<'a> {
    /// The cell's settings.
    pub(super) settings: &'a Settings,
    /// What the broker said.
    pub(super) parameters: &'a NodeParameters,
    /// The node's ports.
    pub(super) ports: PortPair,
    /// The node's own directory.
    pub(super) home: &'a Path,
    /// Where PostgreSQL's programs are.
    pub(super) postgres_bin: &'a Path,
    /// Where PostgreSQL's socket goes.
    pub(super) socket_directory: &'a Path,
    /// The node must not become the leader.
    pub(super) nofailover: bool,
}

impl Configuration<'_> {
    /// The text of the file.
    pub(super) fn render(&self) -> String {
        let listen = |port| std::net::SocketAddr::new(self.settings.address, port).to_string();
        let mut tags = Map::new();
        if self.nofailover {
            tags.insert("nofailover".to_owned(), json!(true));
        }
        let file = json!({
            "scope": self.parameters.patroni_scope,
            "namespace": keyspace::PATRONI,
            "name": self.parameters.node_id,
            "log": {
                "level": "INFO",
                "dir": self.home.join("log"),
                "file_size": 5_000_000,
                "file_num": 4,
            },
            "restapi": {
                "listen": listen(self.ports.rest),
                "connect_address": self.settings.advertised(self.ports.rest),
                "authentication": {"username": REST_USER, "password": self.parameters.restapi_password},
            },
            "etcd": etcd(&self.settings.etcd),
            "bootstrap": {
                "dcs": self.parameters.patroni_config,
                "initdb": [
                    {"encoding": "UTF8"},
                    {"locale": "C.UTF-8"},
                    {"auth-host": "scram-sha-256"},
                    {"auth-local": "scram-sha-256"},
                    "data-checksums",
                ],
            },
            "postgresql": {
                "listen": listen(self.ports.postgresql),
                "connect_address": self.settings.advertised(self.ports.postgresql),
                "data_dir": self.home.join("data"),
                "bin_dir": self.postgres_bin,
                "pgpass": self.home.join("pgpass"),
                "authentication": {
                    "superuser": {"username": SUPERUSER, "password": self.parameters.superuser_password},
                    "replication": {"username": REPLICATION_USER, "password": self.parameters.replication_password},
                    "rewind": {"username": REWIND_USER, "password": self.parameters.rewind_password},
                },
                "parameters": self.postgresql_parameters(),
                "pg_hba": [
                    "local all all scram-sha-256",
                    "host all all all scram-sha-256",
                    format!("host replication {REPLICATION_USER} all scram-sha-256"),
                ],
                "basebackup": [{"checkpoint": "fast"}],
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
            "tags": tags,
        });
        file.to_string()
    }

    /// The parameters that are this cell's business. They win over those of the cluster's dynamic configuration.
    fn postgresql_parameters(&self) -> Map<String, Value> {
        let own = json!({
            "unix_socket_directories": self.socket_directory,
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            // A replica that comes before its slot would wait 5 s for the next attempt.
            "wal_retrieve_retry_interval": "500ms",
            "logging_collector": "on",
            "log_destination": "stderr",
            "log_directory": self.home.join("log"),
            // One file for each day of the week, begun anew every week.
            "log_filename": "postgresql-%a.log",
            "log_rotation_age": "1d",
            "log_rotation_size": "0",
            "log_truncate_on_rotation": "on",
            "log_file_mode": "0600",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            // Nothing that could show a statement, since a statement can hold a password.
            "log_statement": "none",
            "log_duration": "off",
            "log_min_duration_statement": "-1",
            "log_min_duration_sample": "-1",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_transaction_sample_rate": "0",
        });
        let mut parameters = Map::new();
        if let Value::Object(own) = own {
            parameters.extend(own);
        }
        parameters.extend(self.settings.patroni.parameters.clone());
        parameters
    }
}

/// The `etcd` section: Patroni wants hosts and a scheme, and refuses credentials beside a URL.
fn etcd(access: &EtcdAccess) -> Value {
    let mut section = Map::new();
    let hosts: Vec<&str> = access.machines.iter().filter_map(|url| host(url)).collect();
    section.insert("hosts".to_owned(), json!(hosts));
    let protocol = if access.machines.iter().any(|url| url.starts_with("https://")) {
        "https"
    } else {
        "http"
    };
    section.insert("protocol".to_owned(), json!(protocol));
    if let (Some(username), Some(password)) = (&access.username, &access.password) {
        section.insert("username".to_owned(), json!(username));
        section.insert("password".to_owned(), json!(password.expose_secret()));
    }
    for (name, path) in [
        ("cacert", &access.ca),
        ("cert", &access.cert),
        ("key", &access.key),
    ] {
        if let Some(path) = path {
            section.insert(name.to_owned(), json!(path));
        }
    }
    Value::Object(section)
}

/// `host:port` of a URL that has nothing else but a scheme.
fn host(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))?;
    let host = rest.trim_end_matches('/');
    let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    plain.then_some(host)
}

/// Checks that Patroni can be told how to reach etcd.
///
/// # Errors
/// When there is no machine, one is not a plain URL, or their schemes differ.
pub(super) fn check_etcd(access: &EtcdAccess) -> Result<(), CellError> {
    let wrong = |text: String| Err(CellError::Settings(text));
    if access.machines.is_empty() {
        return wrong("no etcd machine is named".to_owned());
    }
    // Not shown: a URL may hold a password by mistake.
    if let Some(at) = access.machines.iter().position(|url| host(url).is_none()) {
        return wrong(format!(
            "etcd machine {} is not of the form http://host:port",
            at + 1
        ));
    }
    let secure = access
        .machines
        .iter()
        .filter(|url| url.starts_with("https://"))
        .count();
    if secure != 0 && secure != access.machines.len() {
        return wrong("etcd machines must be all http or all https".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use uuid::Uuid;

    use super::{super::settings::PatroniSettings, *};

    fn settings() -> Settings {
        Settings {
            guid: "c1".parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
            host: "cell-1.example".into(),
            api_port: 1,
            availability_zone: "z1".into(),
            data_directory: "/d".into(),
            capacity: 1,
            username: "u".into(),
            password: "secret-of-the-api".into(),
            first_port: 1,
            heartbeat_ttl: Duration::from_secs(15),
            patroni: PatroniSettings::default(),
            etcd: EtcdAccess {
                machines: vec!["https://e1:2379/".into(), "https://[::1]:2379".into()],
                username: Some("root".into()),
                password: Some("secret-of-etcd".into()),
                ca: Some("/ca.pem".into()),
                cert: Some("/cert.pem".into()),
                key: Some("/key.pem".into()),
            },
        }
    }

    fn render(settings: &Settings, nofailover: bool) -> Value {
        let parameters: NodeParameters = serde_json::from_value(json!({
            "PATRONI_SCOPE": "i1", "NODE_ID": Uuid::from_u128(1), "INCARNATION": Uuid::from_u128(2),
            "SUPERUSER_PASSWORD": "secret-s", "REPLICATION_PASSWORD": "secret-r",
            "REWIND_PASSWORD": "secret-w", "RESTAPI_PASSWORD": "secret-a",
            "PATRONI_CONFIG": {"loop_wait": 2, "postgresql": {"parameters": {"log_statement": "all"}}},
        }))
        .unwrap();
        let text = Configuration {
            settings,
            parameters: &parameters,
            ports: serde_json::from_value(json!({"postgresql": 15_000, "rest": 15_001})).unwrap(),
            home: Path::new("/d/nodes/n/home"),
            postgres_bin: Path::new("/pg/bin"),
            socket_directory: Path::new("/d/nodes/n/home/run"),
            nofailover,
        }
        .render();
        serde_json::from_str(&text).unwrap()
    }

    /// Where in a document a text containing `needle` stands.
    fn places(value: &Value, needle: &str, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) if text.contains(needle) => {
                found.insert(path.to_owned());
            }
            Value::Array(items) => items.iter().for_each(|item| places(item, needle, path, found)),
            Value::Object(members) => {
                for (name, member) in members {
                    places(member, needle, &format!("{path}/{name}"), found);
                }
            }
            _ => (),
        }
    }

    #[test]
    fn passwords_are_only_where_patroni_takes_them_from() {
        let mut found = BTreeSet::new();
        places(&render(&settings(), false), "secret-", "", &mut found);
        let expected = [
            "/etcd/password",
            "/postgresql/authentication/replication/password",
            "/postgresql/authentication/rewind/password",
            "/postgresql/authentication/superuser/password",
            "/restapi/authentication/password",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }

    #[test]
    fn the_node_listens_on_its_own_address_and_is_reached_by_the_advertised_one() {
        let file = render(&settings(), false);
        assert_eq!(file["postgresql"]["listen"], "10.0.0.1:15000");
        assert_eq!(file["postgresql"]["connect_address"], "cell-1.example:15000");
        assert_eq!(file["restapi"]["listen"], "10.0.0.1:15001");
        assert_eq!(file["restapi"]["connect_address"], "cell-1.example:15001");
        let mut settings = settings();
        settings.address = "::1".parse().unwrap();
        settings.host = "::1".into();
        let file = render(&settings, false);
        assert_eq!(file["postgresql"]["listen"], "[::1]:15000");
        assert_eq!(file["postgresql"]["connect_address"], "[::1]:15000");
    }

    #[test]
    fn etcd_is_named_by_hosts_and_a_scheme_beside_the_credentials() {
        let expected = json!({
            "hosts": ["e1:2379", "[::1]:2379"], "protocol": "https", "username": "root",
            "password": "secret-of-etcd", "cacert": "/ca.pem", "cert": "/cert.pem", "key": "/key.pem",
        });
        assert_eq!(render(&settings(), false)["etcd"], expected);
        let plain = EtcdAccess {
            machines: vec!["http://127.0.0.1:2379".into()],
            ..EtcdAccess::default()
        };
        assert_eq!(
            etcd(&plain),
            json!({"hosts": ["127.0.0.1:2379"], "protocol": "http"})
        );
    }

    #[test]
    fn machines_that_patroni_could_not_use_are_refused_without_being_shown() {
        let access = |machines: &[&str]| EtcdAccess {
            machines: machines.iter().map(|url| (*url).to_owned()).collect(),
            ..EtcdAccess::default()
        };
        check_etcd(&access(&["http://a:1", "http://b:1/"])).unwrap();
        for machines in [
            &[][..],
            &["a:1"],
            &["http://a:1", "https://b:1"],
            &["http://root:hidden@a:1"],
            &["http://"],
        ] {
            let refused = check_etcd(&access(machines)).unwrap_err().to_string();
            assert!(!refused.contains("hidden"), "{refused}");
        }
    }

    #[test]
    fn the_clusters_configuration_is_passed_on_and_the_cells_own_parameters_win() {
        let mut settings = settings();
        settings.patroni.parameters.insert("fsync".into(), json!("off"));
        let file = render(&settings, false);
        assert_eq!(file["bootstrap"]["dcs"]["loop_wait"], 2);
        assert_eq!(file["postgresql"]["parameters"]["log_statement"], "none");
        assert_eq!(file["postgresql"]["parameters"]["fsync"], "off");
    }

    #[test]
    fn a_node_on_its_way_out_carries_a_tag() {
        assert_eq!(render(&settings(), false)["tags"], json!({}));
        assert_eq!(render(&settings(), true)["tags"], json!({"nofailover": true}));
    }
}
