//! A configuration as it is given: where the text comes from, and its sections one after the other.

use std::path::Path;

use crate::catalog::Catalog;

use super::{
    backend::{self, Backend},
    broker::{self, Broker},
    catalog, cell,
    document::Node,
    environment::{self, Environment},
    error::{ConfigError, Place},
    kvstore::{self, KvStore},
    operations,
    ports::{self, Ports},
    router::{self, Router},
    secrets::{self, Secrets},
    section::{Section, variable},
};

/// What errors call a configuration of variables alone.
const NO_FILE: &str = "without a configuration file (--config or PATRONI_BROKER_CONFIG)";

const SECTIONS: &[&str] = &[
    "broker",
    "router",
    "backends",
    "kvstore",
    "catalog",
    "services",
    "ports",
    "operations",
    "cell",
    "secrets",
];

/// The keys that have variables, by the path of their section.
pub(super) const VARIABLES: &[(&str, &[&str])] = &[
    ("broker", broker::KEYS),
    ("router", router::KEYS),
    ("kvstore", kvstore::KEYS),
    ("catalog", catalog::KEYS),
    ("ports", ports::KEYS),
    ("operations", operations::KEYS),
    ("cell", cell::KEYS),
    ("cell.patroni", cell::PATRONI_KEYS),
    ("cell.postgresql", cell::POSTGRESQL_KEYS),
    ("secrets", secrets::KEYS),
];

/// The names of all variables.
pub(super) fn known_variables() -> Vec<String> {
    let path = |section: &str, key: &str| format!("{section}.{key}");
    let is_section = |path: &String| VARIABLES.iter().any(|(section, _)| section == path);
    VARIABLES
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| path(section, key)))
        .filter(|path| !is_section(path))
        .chain(["backends".to_owned()])
        .map(|path| variable(&path))
        .collect()
}

/// A configuration before anything is taken from it.
pub(super) struct Given {
    source: Place,
    root: Node,
    pub(super) environment: Environment,
}

/// All sections. What only some processes need may be missing.
pub(super) struct Sections {
    pub(super) broker: Result<Broker, ConfigError>,
    pub(super) hostname: Result<String, ConfigError>,
    pub(super) router: Router,
    pub(super) backends: Vec<Backend>,
    pub(super) kvstore: KvStore,
    pub(super) catalog: Result<Catalog, ConfigError>,
    pub(super) ports: Ports,
    pub(super) operations: operations::Read,
    pub(super) cell: cell::Read,
    pub(super) secrets: Secrets,
}

impl Given {
    /// From the file at `path`, otherwise from the one that the environment names, or else from what it holds.
    pub(super) fn load(path: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => Some(path.to_path_buf()),
            None => environment.get(environment::FILE)?.map(Into::into),
        };
        let inline = environment.get(environment::INLINE)?.map(str::to_owned);
        match (file, inline) {
            (Some(file), inline) => {
                let source = file.display().to_string();
                if inline.is_some() {
                    let problem = format!("is given, and {} is set too: one must go", environment::INLINE);
                    return Err(ConfigError::new(&Place::whole(&source), "", problem));
                }
                let yaml = std::fs::read_to_string(&file).map_err(|error| {
                    ConfigError::new(&Place::whole(&source), "", format!("cannot be read: {error}"))
                })?;
                Self::parse(&source, &yaml, environment)
            }
            (None, Some(yaml)) => Self::parse(environment::INLINE, &yaml, environment),
            (None, None) => Self::parse(NO_FILE, "", environment),
        }
    }

    pub(super) fn parse(source: &str, yaml: &str, environment: Environment) -> Result<Self, ConfigError> {
        let source = Place::whole(source);
        environment.check(&known_variables())?;
        let root = Node::parse(&source, yaml)?;
        Ok(Self {
            source,
            root,
            environment,
        })
    }

    pub(super) fn read(&self) -> Result<Sections, ConfigError> {
        let root = self.root.clone();
        let mut top = Section::top(&self.source, root, &self.environment, SECTIONS)?;
        let mut router = top.section("router", router::KEYS)?;
        Ok(Sections {
            broker: broker::read(&mut top.section("broker", broker::KEYS)?)?,
            hostname: router::hostname(&mut router)?,
            router: router::read(&mut router)?,
            backends: top.or("backends", Vec::new(), backend::read)?,
            kvstore: kvstore::read(&mut top.section("kvstore", kvstore::KEYS)?)?,
            catalog: catalog::read(&mut top)?,
            ports: ports::read(&mut top.section("ports", ports::KEYS)?)?,
            operations: operations::read(&mut top.section("operations", operations::KEYS)?)?,
            cell: cell::read(&mut top.section("cell", cell::KEYS)?)?,
            secrets: secrets::read(&mut top.section("secrets", secrets::KEYS)?)?,
        })
    }
}
