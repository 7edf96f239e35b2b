//! What the router reads of a member key of Patroni: where its PostgreSQL listens, and whether it says that it is a
//! primary.

use std::{fmt, net::IpAddr};

use serde::Deserialize;

use super::promotion;

/// Where a node's PostgreSQL listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A host name or an IP address (without brackets).
    pub(crate) host: String,
    /// The TCP port.
    pub(crate) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One member of a cluster, as far as routing is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where it listens.
    pub(crate) endpoint: Endpoint,
    /// Whether it may be a primary: `false` only when it says itself that it is something else.
    pub(crate) may_be_primary: bool,
    /// The URL at which to ask whether it takes writes; `None` when it says so here, or has no such URL.
    pub(crate) ask: Option<String>,
}

/// Why a member key is not understood. The text holds nothing of the value, which may hold credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorruptMember {
    /// Not the JSON that Patroni writes.
    #[error("it is not an object with a conn_url")]
    Json,
    /// No host and port can be taken from it.
    #[error("its conn_url has no usable host and port")]
    ConnUrl,
}

impl Member {
    /// Reads a member key's value.
    ///
    /// # Errors
    /// When it is not what Patroni writes.
    pub(crate) fn parse(value: &str) -> Result<Self, CorruptMember> {
        #[derive(Deserialize)]
        struct Published {
            conn_url: String,
            #[serde(default)]
            api_url: Option<String>,
            #[serde(default)]
            state: Option<String>,
            #[serde(default)]
            role: Option<String>,
        }
        let published: Published = serde_json::from_str(value).map_err(|_| CorruptMember::Json)?;
        let endpoint = endpoint(&published.conn_url).ok_or(CorruptMember::ConnUrl)?;
        // A primary is `starting` when Patroni 4 has been restarted beside it; a standby would be no primary.
        let runs = published
            .state
            .is_none_or(|state| matches!(state.as_str(), "running" | "starting"));
        let is_primary = published.role.as_deref().is_none_or(promotion::is_primary);
        // `promoted` is said from pg_promote to the end of the recovery.
        let may_be_primary = is_primary || published.role.as_deref() == Some("promoted");
        Ok(Self {
            endpoint,
            may_be_primary,
            ask: published.api_url.filter(|_| !(runs && is_primary)),
        })
    }
}

/// `postgres://host:port/database`, with or without `user:password@`.
fn endpoint(url: &str) -> Option<Endpoint> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return None;
    }
    // Patroni quotes credentials, but older ones left `/` and `@` as they were: neither may be part of a host.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<IpAddr>().ok()?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None | Some("") => 5432,
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
    (!host.is_empty() && host.bytes().all(plain)).then(|| Endpoint {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_every_form_of_conn_url() {
        for (url, shown) in [
            ("postgres://127.0.0.1:15000/postgres", "127.0.0.1:15000"),
            ("postgres://u:p@10.0.0.1:5433/postgres", "10.0.0.1:5433"),
            ("postgres://u:p%40x@10.0.0.1:5433/db?a=b", "10.0.0.1:5433"),
            ("postgres://u:p/w@x@10.0.0.1:5433/db", "10.0.0.1:5433"),
            ("postgresql://db-1.example:5432", "db-1.example:5432"),
            ("postgres://db-1/postgres", "db-1:5432"),
            ("postgres://[::1]:5433/postgres", "[::1]:5433"),
        ] {
            let value = format!(r#"{{"conn_url":"{url}","state":"running"}}"#);
            assert_eq!(
                Member::parse(&value).unwrap().endpoint.to_string(),
                shown,
                "{url}"
            );
        }
    }

    #[test]
    fn a_value_without_a_usable_address_is_corrupt() {
        for value in [
            "",
            "{}",
            "[]",
            r#"{"conn_url":5}"#,
            r#"{"conn_url":"127.0.0.1:5432"}"#,
            r#"{"conn_url":"http://127.0.0.1:5432/"}"#,
            r#"{"conn_url":"postgres://:5432/"}"#,
            r#"{"conn_url":"postgres://h:0/"}"#,
            r#"{"conn_url":"postgres://h:65536/"}"#,
            r#"{"conn_url":"postgres://h x:5432/"}"#,
            r#"{"conn_url":"postgres://h\n;:5432/"}"#,
            r#"{"conn_url":"postgres://[h]:5432/"}"#,
        ] {
            assert!(Member::parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn who_does_not_say_that_it_takes_writes_is_asked() {
        for (state, role, asked) in [
            ("running", "master", false),
            ("running", "primary", false),
            ("starting", "primary", false),
            ("starting", "replica", true),
            ("running", "promoted", true),
            ("running", "replica", true),
            ("crashed", "master", true),
            ("stopped", "demoted", true),
        ] {
            let value = format!(
                r#"{{"conn_url":"postgres://h:1/","api_url":"http://h:2/patroni","state":"{state}","role":"{role}"}}"#
            );
            let expected = asked.then(|| "http://h:2/patroni".to_owned());
            assert_eq!(Member::parse(&value).unwrap().ask, expected, "{state} {role}");
        }
        let silent = Member::parse(r#"{"conn_url":"postgres://h:1/","api_url":"http://h:2/patroni"}"#);
        assert_eq!(silent.unwrap().ask, None);
    }

    #[test]
    fn only_who_says_so_is_not_a_primary() {
        for (role, expected) in [
            ("master", true),
            ("primary", true),
            ("promoted", true),
            ("replica", false),
            ("demoted", false),
        ] {
            let value = format!(r#"{{"conn_url":"postgres://h:1/","role":"{role}"}}"#);
            assert_eq!(Member::parse(&value).unwrap().may_be_primary, expected, "{role}");
        }
        let silent = Member::parse(r#"{"conn_url":"postgres://h:1/"}"#).unwrap();
        assert!(silent.may_be_primary);
    }
}
