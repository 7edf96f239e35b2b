//! The names of things, as types: the only place where a name from outside is checked and turned into text for keys.
//!
//! **Guarantees.** A value of one of these types fits into an etcd v2 key, a Patroni scope, a file name and a process
//! argument as it is: no slash, no leading underscore (etcd hides those), no leading dot or dash, no control character.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} '{shown}' is not usable: it must start with a letter or digit and hold at most 128 letters, digits, '.', '_' or '-'"
)]
pub struct InvalidName {
    what: &'static str,
    shown: String,
}

/// The rule of design.md, 4: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
fn check(what: &'static str, text: &str) -> Result<String, InvalidName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = text.len() <= 128
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(plain);
    if fits {
        return Ok(text.to_owned());
    }
    let shown = text.chars().take(128).flat_map(char::escape_default).collect();
    Err(InvalidName { what, shown })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A service instance, named by the platform; it is also the Patroni scope of its cluster.
    InstanceId,
    "the instance id"
);
name!(
    /// A service binding, named by the platform; unique within its instance.
    BindingId,
    "the binding id"
);
name!(
    /// A cell: a machine that runs Patroni nodes. On bosh-lite this is its IP address.
    CellGuid,
    "the cell guid"
);
name!(
    /// A plan that has a quota: its instances are counted under its id. Other plans' ids may be any texts.
    PlanId,
    "the plan id"
);

macro_rules! random_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Uuid);

        impl From<Uuid> for $type {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $type {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

random_id!(
    /// One Patroni member placed on a cell; also its member name. Never used twice (design.md, 4, rule 3).
    NodeId
);
random_id!(
    /// Given to an instance when it is provisioned: the same instance id used again later is another incarnation.
    Incarnation
);
random_id!(
    /// One operation (provision, update, deprovision) on an instance.
    OperationId
);

/// A public TCP port of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// A port by its number; `None` for 0, which names no port.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The port's number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl FromStr for Port {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_are_kept_as_they_are() {
        for name in [
            "f1",
            "b1",
            "10.244.21.8",
            "A_b-c.d",
            &"x".repeat(128),
            "0f5c1670-6dc3-11e5-bc08-6c4008a663f0",
        ] {
            assert_eq!(name.parse::<InstanceId>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_would_change_a_key_or_a_path_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "_x",
            "-x",
            "a/b",
            "a%2Fb",
            "a b",
            "a\nb",
            "ä",
            "a:b",
            &"x".repeat(129),
        ] {
            assert!(name.parse::<InstanceId>().is_err(), "{name:?}");
            assert!(
                serde_json::from_value::<InstanceId>(name.into()).is_err(),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_refusal_names_what_is_wrong_without_raw_control_characters() {
        let refusal = "a\u{1b}[31m/b".parse::<BindingId>().unwrap_err().to_string();
        assert!(
            refusal.starts_with("the binding id 'a\\u{1b}[31m/b' is not usable"),
            "{refusal}"
        );
    }

    #[test]
    fn a_port_is_decimal_and_not_zero() {
        assert_eq!("33006".parse::<Port>().unwrap().number(), 33006);
        for text in ["0", "", "-1", "65536", "33006 "] {
            assert!(text.parse::<Port>().is_err(), "{text:?}");
        }
    }
}
