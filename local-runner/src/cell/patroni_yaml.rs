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
