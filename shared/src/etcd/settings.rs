//! How to reach etcd.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use ureq::http::{HeaderValue, Uri};

/// How to reach etcd. `Debug` prints no secret.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URLs of the members, `http://host:port` or `https://host:port`, tried in this order.
    pub machines: Vec<String>,
    /// The user for etcd's basic authentication, if it is enabled there.
    pub username: Option<String>,
    /// That user's password.
    pub password: Option<SecretString>,
    /// PEM file of the authorities that may have signed the members' certificates; without it Mozilla's public list.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate and its chain, for members that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client certificate's private key.
    pub key_file: Option<PathBuf>,
    /// How long looking up a name may take, and how long connecting (with the TLS handshake) to one machine may take.
    pub connect_timeout: Duration,
    /// How long one machine may take for a request. A call that has to try several ends after twice this time.
    pub request_timeout: Duration,
    /// How long a watch listens to a silent stream before it opens the next one: the longest time for which a dead
    /// connection goes unnoticed.
    pub stream_limit: Duration,
    /// Whether requests wait for each other, so that one connection does for all. Watches have their own.
    pub one_connection: bool,
}

impl Settings {
    /// These machines without authentication, with Mozilla's list of authorities and the default time limits.
    #[must_use]
    pub fn new(machines: Vec<String>) -> Self {
        Self {
            machines,
            username: None,
            password: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            stream_limit: Duration::from_secs(30),
            one_connection: false,
        }
    }

    /// The base URLs without a slash at the end.
    pub(super) fn bases(&self) -> Result<Vec<String>, InvalidSettings> {
        if self.machines.is_empty() {
            return Err(InvalidSettings::NoMachine);
        }
        self.machines.iter().map(|machine| base(machine)).collect()
    }

    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, InvalidSettings> {
        let (username, password) = match (&self.username, &self.password) {
            (None, None) => return Ok(None),
            (Some(username), Some(password)) => (username, password),
            _ => return Err(InvalidSettings::HalfCredentials),
        };
        if username.contains(':') {
            return Err(InvalidSettings::Username);
        }
        let pair = format!("{username}:{}", password.expose_secret());
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
            .map_err(|_| InvalidSettings::Username)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    pub(super) fn check_times(&self) -> Result<(), InvalidSettings> {
        let times = [self.connect_timeout, self.request_timeout, self.stream_limit];
        if times.iter().any(Duration::is_zero) {
            return Err(InvalidSettings::ZeroTime);
        }
        Ok(())
    }
}

fn base(machine: &str) -> Result<String, InvalidSettings> {
    // A user in the URL is not repeated in the message: it may carry a password.
    let refuse = |reason| {
        let shown = match machine.rsplit_once('@') {
            Some((_, host)) => format!("...@{host}"),
            None => machine.to_owned(),
        };
        Err(InvalidSettings::Machine {
            machine: shown,
            reason,
        })
    };
    if machine.contains('@') {
        return refuse("give the user by its own setting");
    }
    let Ok(uri) = machine.parse::<Uri>() else {
        return refuse("it is not a URL");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return refuse("it must begin with http:// or https://");
    }
    if uri.host().is_none_or(str::is_empty) {
        return refuse("it names no host");
    }
    if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
        return refuse("nothing may follow the port");
    }
    Ok(machine.trim_end_matches('/').to_owned())
}

/// Why etcd cannot be reached with these settings.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// No machine is named.
    #[error("no etcd machine is configured")]
    NoMachine,
    /// A machine is not a base URL.
    #[error("the etcd machine '{machine}' is not usable: {reason}")]
    Machine {
        /// The machine, without a user and password.
        machine: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A user without a password, or the other way round.
    #[error("etcd's username and password must be given together")]
    HalfCredentials,
    /// A user's name that basic authentication cannot carry.
    #[error("etcd's username must not hold a colon")]
    Username,
    /// A client certificate without its key, or the other way round.
    #[error("etcd's client certificate and its key must be given together")]
    HalfCertificate,
    /// A file that cannot be read, or does not hold what it should.
    #[error("{what} '{path}' is not usable: {reason}")]
    File {
        /// Which file it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate and the key do not fit each other, or TLS refuses them.
    #[error("TLS to etcd cannot be set up: {0}")]
    Tls(String),
    /// A time limit of zero: nothing could ever be asked.
    #[error("etcd's time limits must not be zero")]
    ZeroTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_machine(machine: &str) -> Settings {
        Settings::new(vec![machine.to_owned()])
    }

    #[test]
    fn base_urls_are_kept_without_the_slash_at_the_end() {
        for machine in [
            "http://127.0.0.1:2379",
            "https://etcd.example:2379/",
            "http://[::1]:2379",
            "http://etcd",
        ] {
            let bases = with_machine(machine).bases().unwrap();
            assert_eq!(bases, [machine.trim_end_matches('/')]);
        }
    }

    #[test]
    fn what_is_not_a_base_url_is_refused() {
        for machine in [
            "",
            "etcd:2379",
            "ftp://etcd",
            "http://etcd/v2",
            "http://etcd?x",
            "http://",
            "http:// etcd",
        ] {
            assert!(with_machine(machine).bases().is_err(), "{machine}");
        }
        assert!(Settings::new(Vec::new()).bases().is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let refusal = with_machine("http://root:hunter2@etcd:2379").bases().unwrap_err();
        assert!(!format!("{refusal} {refusal:?}").contains("hunter2"), "{refusal}");
        let mut settings = with_machine("http://etcd");
        settings.username = Some("root".to_owned());
        settings.password = Some("hunter2".into());
        let shown = format!("{settings:?} {:?}", settings.authorization().unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("cm9vd"), "{shown}");
    }

    #[test]
    fn half_of_the_credentials_is_refused() {
        let mut settings = with_machine("http://etcd");
        settings.username = Some("root".to_owned());
        assert!(settings.authorization().is_err());
    }
}
