//! Section `kvstore`: where etcd is.

use std::path::PathBuf;

use super::{
    certificate::{self, CertificateFiles},
    credentials::{self, Credentials},
    error::ConfigError,
    section::Section,
    value::{Unique, Value},
};

/// How etcd is reached (its v2 API).
#[derive(Debug, Clone)]
pub struct KvStore {
    /// `machines`: base URLs (`http://host:port`, no slash at the end) of members of one cluster; never empty.
    pub machines: Vec<String>,
    /// `username` and `password`, where etcd wants them; empty ones are none.
    pub credentials: Option<Credentials>,
    /// `ca_file`: PEM, the authorities that may sign etcd's certificate, instead of the usual ones.
    pub ca_file: Option<PathBuf>,
    /// `certificate_file` and `key_file`: PEM, what the broker shows to etcd.
    pub client_certificate: Option<CertificateFiles>,
    /// Whether one connection must do. No key: whoever hosts the handlers decides.
    pub one_connection: bool,
}

pub(super) const KEYS: &[&str] = &[
    "type",
    "machines",
    "username",
    "password",
    "ca_file",
    "certificate_file",
    "key_file",
];

pub(super) fn read(section: &mut Section<'_>) -> Result<KvStore, ConfigError> {
    section.or("type", (), |value| value.one_of(&[("etcd", ())]))?;
    let machines = section.required("machines", machines)?;
    Ok(KvStore {
        machines,
        credentials: credentials::optional(section)?,
        ca_file: section.optional("ca_file", Value::file_path)?,
        client_certificate: certificate::optional(section)?,
        one_connection: false,
    })
}

fn machines(value: Value) -> Result<Vec<String>, ConfigError> {
    let mut seen = Unique::default();
    value.some_scalars("machine", |value| seen.value(value, Value::http_url))
}
