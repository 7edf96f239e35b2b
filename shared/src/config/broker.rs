//! Section `broker`: where the OSB API is served, and to whom.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    certificate::{self, CertificateFiles},
    credentials::{self, Credentials},
    error::ConfigError,
    section::Section,
    value::Value,
};

/// How the broker serves the Open Service Broker API.
#[derive(Debug, Clone)]
pub struct Broker {
    /// `bind_address`; by default 127.0.0.1, since the broker takes passwords, and speaks plain HTTP unless it has a
    /// certificate. To be reached from other machines it stands behind a gateway with TLS, or has `0.0.0.0` here.
    pub bind_address: IpAddr,
    /// `port`, by default 8888.
    pub port: u16,
    /// `posture`, by default strict.
    pub posture: Posture,
    /// Who may call: `username` and `password` first, then the pairs of `credentials` (so that they can be replaced
    /// one after the other). Never empty.
    pub credentials: Vec<Credentials>,
    /// `certificate_file` and `key_file`: PEM, with which the port speaks TLS; both may be replaced while it runs.
    pub certificate: Option<CertificateFiles>,
}

/// How closely requests must follow the specification (design.md, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posture {
    /// As platforms and checkers want it.
    Strict,
    /// For curl and scripts: headers and ids may be missing, and requests may wait.
    Lenient,
}

pub(super) const KEYS: &[&str] = &[
    "port",
    "username",
    "password",
    "bind_address",
    "posture",
    "credentials",
    "certificate_file",
    "key_file",
];

/// The outer error is a mistake; the inner one only that nobody could call, which matters to the broker alone.
pub(super) fn read(section: &mut Section<'_>) -> Result<Result<Broker, ConfigError>, ConfigError> {
    let bind_address = section.or("bind_address", IpAddr::V4(Ipv4Addr::LOCALHOST), Value::ip_address)?;
    let port = section.or("port", 8888, |value| value.number(1..=u16::MAX))?;
    let postures = [("strict", Posture::Strict), ("lenient", Posture::Lenient)];
    let posture = section.or("posture", Posture::Strict, |value| value.one_of(&postures))?;
    let mut credentials: Vec<_> = credentials::optional(section)?.into_iter().collect();
    credentials.extend(section.or("credentials", Vec::new(), pairs)?);
    let certificate = certificate::optional(section)?;
    if credentials.is_empty() {
        return Ok(Err(section.missing("username")));
    }
    Ok(Ok(Broker {
        bind_address,
        port,
        posture,
        credentials,
        certificate,
    }))
}

fn pairs(value: Value) -> Result<Vec<Credentials>, ConfigError> {
    let pair = |value| credentials::required(&mut Section::element(value, credentials::KEYS)?);
    value.elements()?.into_iter().map(pair).collect()
}
