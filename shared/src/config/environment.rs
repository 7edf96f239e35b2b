//! The environment, as far as the configuration looks at it: read once, here and nowhere else.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use super::error::{ConfigError, Place};

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "PATRONI_BROKER_";
/// The path of the configuration file.
pub(super) const FILE: &str = "PATRONI_BROKER_CONFIG";
/// The configuration itself, as YAML, where there is no file.
pub(super) const INLINE: &str = "PATRONI_BROKER_CONFIG_YAML";
/// Variables whose names begin like this may hold master keys, named by `secrets.master_keys[].environment`.
pub(super) const MASTER_KEY: &str = "PATRONI_BROKER_MASTER_KEY";

/// A copy of the environment.
#[derive(Default)]
pub(super) struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// The process's own.
    pub(super) fn of_process() -> Self {
        let variables = std::env::vars_os();
        // Names that are not Unicode are not ours.
        let variables = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self {
            variables: variables.collect(),
        }
    }

    /// One made up.
    pub(super) fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), OsString::from(value));
        Self {
            variables: variables.into_iter().map(owned).collect(),
        }
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, name: &str, value: OsString) {
        self.variables.insert(name.to_owned(), value);
    }

    /// A variable's value. An empty one counts as not set: templates of functions leave unused variables empty.
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(text) => Ok(Some(text).filter(|text| !text.is_empty())),
                None => Err(ConfigError::new(&Place::whole(name), "", "is not valid UTF-8")),
            },
        }
    }

    /// Refuses variables that look like ours and mean nothing: a misspelt name would change nothing, silently.
    pub(super) fn check(&self, known: &[String]) -> Result<(), ConfigError> {
        let unknown = self.variables.iter().find(|(name, value)| {
            name.starts_with(PREFIX)
                && *name != FILE
                && *name != INLINE
                && !name.starts_with(MASTER_KEY)
                && !is_service_link(name, value)
                && !known.contains(name)
        });
        match unknown {
            None => Ok(()),
            Some((name, _)) => Err(ConfigError::new(
                &Place::whole(name),
                "",
                format!(
                    "no such variable: names are {PREFIX}<SECTION>_<KEY>, for example {PREFIX}KVSTORE_MACHINES"
                ),
            )),
        }
    }
}

/// Kubernetes puts these into every container beside a Service whose name begins with `patroni-broker`.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let address = value.to_string_lossy().contains("://");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && address)
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            let port = name
                .split_once(protocol)
                .and_then(|(before, _)| before.rsplit_once("_PORT_"));
            port.is_some_and(|(_, number)| number.parse::<u16>().is_ok())
        })
}
