//! The configurations of the parts of the stack.
//!
//! They come from one file, `config/bosh-lite.example.yml` unless another one is named, with everything over it that is
//! this machine's business: addresses, directories, the master key.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use shared::config::{CellConfig, Config, ConfigError, RouterConfig};
use uuid::Uuid;

use super::{error::UpError, settings::Settings, state_directory::StateDirectory};

/// What the stack is made from when no file is named.
const BASE: &str = include_str!("../../../config/bosh-lite.example.yml");
const BASE_NAME: &str = "config/bosh-lite.example.yml (built in)";
/// Cells are dealt out to these in turn.
const ZONES: [&str; 3] = ["z1", "z2", "z3"];

/// Where the configurations of all parts come from.
pub(super) struct Blueprint {
    source: String,
    yaml: String,
    settings: Settings,
    master_key: PathBuf,
    router: PathBuf,
    cells: Vec<Site>,
    /// Of the cells' APIs: for this process only, which runs both sides.
    cell_password: SecretString,
}

/// Where a cell is.
#[derive(Debug, Clone)]
struct Site {
    address: Ipv4Addr,
    zone: &'static str,
    directory: PathBuf,
}

impl Blueprint {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(
        settings: Settings,
        directory: &StateDirectory,
        master_key: PathBuf,
    ) -> Result<Self, UpError> {
        let (source, yaml) = match &settings.config {
            Some(path) => {
                let yaml = std::fs::read_to_string(path).map_err(|source| UpError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                (path.display().to_string(), yaml)
            }
            None => (BASE_NAME.to_owned(), BASE.to_owned()),
        };
        let cells = (1..=settings.cells)
            .zip(ZONES.iter().cycle())
            .map(|(number, zone)| Site {
                address: Ipv4Addr::from_bits(settings.address.to_bits() + u32::from(number)),
                zone,
                directory: directory.cell(number),
            });
        Ok(Self {
            source,
            yaml,
            cells: cells.collect(),
            settings,
            master_key,
            router: directory.router(),
            cell_password: Uuid::new_v4().to_string().into(),
        })
    }

    /// Where etcd listens.
    pub(super) fn etcd(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.settings.address), self.settings.etcd_port)
    }

    /// The broker's.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn broker(&self) -> Result<Config, ConfigError> {
        Config::parse(&self.source, &self.yaml, borrowed(&self.common()))
    }

    /// The router's.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn router(&self) -> Result<RouterConfig, ConfigError> {
        RouterConfig::parse(&self.source, &self.yaml, borrowed(&self.common()))
    }

    /// The cells'.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn cells(&self) -> Result<Vec<CellConfig>, ConfigError> {
        let cell = |site: &Site| {
            let mut variables = self.common();
            variables.extend([
                named("CELL_GUID", site.address.to_string()),
                named("CELL_ADDRESS", site.address.to_string()),
                named("CELL_AVAILABILITY_ZONE", site.zone.to_owned()),
                named("CELL_DATA_DIRECTORY", text(&site.directory)),
            ]);
            CellConfig::parse(&self.source, &self.yaml, borrowed(&variables))
        };
        self.cells.iter().map(cell).collect()
    }

    /// What functions need to work beside this stack, as a shell reads it: the variables, and the file if one was named.
    pub(super) fn functions(&self) -> String {
        let file = self
            .settings
            .config
            .iter()
            .filter_map(|path| path.canonicalize().ok());
        let file = file.map(|path| named("CONFIG", text(&path)));
        let variables = self.common().into_iter().chain(file);
        // No value holds an apostrophe but perhaps the file's path.
        let lines = variables.map(|(name, value)| format!("{name}='{}'\n", value.replace('\'', r"'\''")));
        lines.collect()
    }

    /// What every part is told over the file.
    fn common(&self) -> Variables {
        let Settings { address, port, .. } = &self.settings;
        let key = serde_json::json!([{ "id": "up", "file": self.master_key }]);
        let mut variables = vec![
            named("BROKER_BIND_ADDRESS", address.to_string()),
            named("BROKER_PORT", port.to_string()),
            named("ROUTER_HOSTNAME", address.to_string()),
            named("ROUTER_BIND_ADDRESS", address.to_string()),
            named("ROUTER_STATE_DIRECTORY", text(&self.router)),
            named("KVSTORE_MACHINES", format!("http://{}", self.etcd())),
            // They announce themselves.
            named("BACKENDS", "[]".to_owned()),
            named("CELL_USERNAME", "up".to_owned()),
            named("CELL_PASSWORD", self.cell_password.expose_secret().to_owned()),
            named("SECRETS_MASTER_KEYS", key.to_string()),
        ];
        let port = self.settings.cell_port;
        variables.extend(port.map(|port| named("CELL_API_PORT", port.to_string())));
        let range = self.settings.public_ports.clone();
        variables.extend(range.map(|range| named("PORTS_RANGE", range)));
        variables
    }
}

type Variables = Vec<(String, String)>;

fn named(key: &str, value: String) -> (String, String) {
    (format!("PATRONI_BROKER_{key}"), value)
}

fn borrowed(variables: &Variables) -> impl Iterator<Item = (&str, &str)> {
    variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Paths below the state directory are plain text: it was checked.
fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprint(top: &Path, change: impl FnOnce(&mut Settings)) -> Blueprint {
        let mut settings = Settings {
            state_directory: top.to_owned(),
            config: None,
            cells: 4,
            address: Ipv4Addr::LOCALHOST,
            port: 8888,
            etcd_port: 4001,
            cell_port: None,
            public_ports: None,
        };
        change(&mut settings);
        let directory = StateDirectory::open(top).unwrap();
        let key = directory.master_key().unwrap();
        Blueprint::new(settings, &directory, key).unwrap()
    }

    #[test]
    fn the_example_becomes_a_stack_on_loopback() {
        let top = tempfile::tempdir().unwrap();
        let blueprint = blueprint(top.path(), |_| ());
        let broker = blueprint.broker().unwrap();
        assert_eq!(broker.broker.bind_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(broker.hostname, "127.0.0.1");
        assert!(broker.backends.is_empty());
        assert_eq!(broker.kvstore.machines, ["http://127.0.0.1:4001"]);
        let credentials = broker.broker.credentials.first().unwrap();
        assert_eq!(credentials.username, "starkandwayne");
        assert_eq!(credentials.password.expose_secret(), "starkandwayne");
        let cells = blueprint.cells().unwrap();
        let seen: Vec<_> = cells
            .iter()
            .map(|config| (config.cell.guid.as_str(), config.cell.availability_zone.as_str()))
            .collect();
        let expected = [
            ("127.0.0.2", "z1"),
            ("127.0.0.3", "z2"),
            ("127.0.0.4", "z3"),
            ("127.0.0.5", "z1"),
        ];
        assert_eq!(seen, expected);
        let router = blueprint.router().unwrap();
        assert_eq!(router.router.bind_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn functions_are_told_where_everything_is() {
        let top = tempfile::tempdir().unwrap();
        let blueprint = blueprint(top.path(), |_| ());
        let told = blueprint.functions();
        let variables = told.lines().map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name, value.trim_matches('\''))
        });
        let config = Config::parse("the example", BASE, variables).unwrap();
        assert_eq!(config.kvstore.machines, ["http://127.0.0.1:4001"]);
        let cells = config.cell_credentials.unwrap();
        assert_eq!(
            cells.password.expose_secret(),
            blueprint.cell_password.expose_secret()
        );
    }

    #[test]
    fn another_file_keeps_its_own_users_and_cell_settings() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("own.yml");
        let yaml = format!(
            "{}\ncell: {{capacity: 3}}\n",
            BASE.replace("starkandwayne", "somebody")
        );
        std::fs::write(&path, yaml).unwrap();
        let blueprint = blueprint(top.path(), |settings| {
            settings.config = Some(path);
            settings.cell_port = Some(9000);
            settings.public_ports = Some("31000-31001".to_owned());
        });
        let broker = blueprint.broker().unwrap();
        assert_eq!(broker.broker.credentials.first().unwrap().username, "somebody");
        assert_eq!(broker.ports.first.number(), 31_000);
        let cells = blueprint.cells().unwrap();
        assert!(
            cells
                .iter()
                .all(|config| config.cell.capacity == 3 && config.cell.api_port.number() == 9000)
        );
    }
}
