//! How the processes of a stack are configured: the example for bosh-lite in a file, and what differs in variables.

use std::{collections::BTreeMap, path::PathBuf};

use super::{CellServer, Server};
use crate::{
    binaries::{self, repository_file},
    network::Network,
    osb::USER,
    patroni::Patroni,
};

type Variables = BTreeMap<String, String>;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many members etcd has.
    pub etcd_members: usize,
    /// The availability zone of each cell.
    pub zones: Vec<&'static str>,
    /// How many brokers there are.
    pub brokers: usize,
    /// Whether there is a router. Without one, no provision ever ends well.
    pub router: bool,
    /// Whether the brokers are lenient.
    pub lenient: bool,
    /// After how many seconds of silence a cell counts as down.
    pub heartbeat_ttl: u32,
    /// How many nodes a cell may hold.
    pub capacity: u32,
    /// Whether PostgreSQL waits for its disk.
    pub durable: bool,
    /// Which Patroni the cells run.
    pub patroni: Patroni,
    /// More variables, for every process.
    pub variables: Vec<(&'static str, String)>,
}

impl Default for Options {
    /// Three cells in two zones, a router and a strict broker.
    fn default() -> Self {
        Self {
            etcd_members: 1,
            zones: vec!["z1", "z1", "z2"],
            brokers: 1,
            router: true,
            lenient: false,
            heartbeat_ttl: 30,
            capacity: 20,
            durable: false,
            patroni: Patroni::Distribution,
            variables: Vec::new(),
        }
    }
}

/// Addresses, paths and choices, from which every process's configuration follows.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) network: Network,
    pub(super) directory: PathBuf,
    pub(super) kvstore: String,
    pub(super) options: Options,
}

impl Settings {
    pub(super) fn cells(&self) -> Vec<CellServer> {
        let numbered = (1u8..).zip(&self.options.zones);
        numbered.map(|(number, zone)| self.cell(number, zone)).collect()
    }

    /// A cell is configured by variables that name the file, and by those that are its own.
    fn cell(&self, number: u8, zone: &str) -> CellServer {
        let address = self.network.address(100 + number).to_string();
        let data = self.directory.join(format!("c{number}"));
        let mut variables = self.common();
        let mut set = |key: &str, value: String| {
            variables.insert(format!("PATRONI_BROKER_CELL_{key}"), value);
        };
        set("GUID", address.clone());
        set("ADDRESS", address.clone());
        set("AVAILABILITY_ZONE", zone.to_owned());
        set("DATA_DIRECTORY", data.display().to_string());
        set("HEARTBEAT_TTL", self.options.heartbeat_ttl.to_string());
        set("CAPACITY", self.options.capacity.to_string());
        set("PATRONI_COMMAND", self.options.patroni.command(&self.directory));
        if !self.options.durable {
            let fast = r#"{"fsync": "off", "synchronous_commit": "off"}"#;
            set("POSTGRESQL_PARAMETERS", fast.to_owned());
        }
        variables.insert("PATRONI_BROKER_CONFIG".to_owned(), example());
        let url = format!("http://{address}:8889");
        let server = self.server(&format!("cell-{number}"), &["cell"], variables);
        CellServer {
            guid: address,
            data,
            server: server.answering(url, "/v2/service_instances"),
        }
    }

    pub(super) fn router(&self) -> Option<Server> {
        let mut variables = self.common();
        let state = self.directory.join("router");
        let mut set = |key: &str, value: String| {
            variables.insert(format!("PATRONI_BROKER_ROUTER_{key}"), value);
        };
        set("BIND_ADDRESS", self.hostname());
        set("STATE_DIRECTORY", state.display().to_string());
        let server = self.server("router", &["router", "--config", &example()], variables);
        self.options.router.then_some(server)
    }

    pub(super) fn brokers(&self) -> Vec<Server> {
        let broker = |number: usize| {
            let address = self
                .network
                .address(u8::try_from(10 + number).unwrap())
                .to_string();
            let mut variables = self.common();
            let posture = if self.options.lenient { "lenient" } else { "strict" };
            variables.insert("PATRONI_BROKER_BROKER_POSTURE".to_owned(), posture.to_owned());
            variables.insert("PATRONI_BROKER_BROKER_BIND_ADDRESS".to_owned(), address.clone());
            let name = format!("broker-{}", number + 1);
            let server = self.server(&name, &["broker", "--config", &example()], variables);
            server.answering(format!("http://{address}:8888"), "/v2/catalog")
        };
        (0..self.options.brokers).map(broker).collect()
    }

    /// Where clients of the clusters connect to.
    fn hostname(&self) -> String {
        self.network.address(1).to_string()
    }

    pub(super) fn common(&self) -> Variables {
        let mut variables = Variables::new();
        let mut set = |name: &str, value: &str| {
            variables.insert(format!("PATRONI_BROKER_{name}"), value.to_owned());
        };
        set("BACKENDS", "[]");
        set("KVSTORE_MACHINES", &self.kvstore);
        set("ROUTER_HOSTNAME", &self.hostname());
        set("CELL_USERNAME", "containers");
        set("CELL_PASSWORD", "containers");
        for (name, value) in &self.options.variables {
            set(name, value);
        }
        variables
    }

    fn server(&self, name: &str, arguments: &[&str], variables: Variables) -> Server {
        let arguments = arguments.iter().copied().map(str::to_owned).collect();
        let log = self.directory.join(format!("logs/{name}.log"));
        Server::new(&binaries::path("local-runner"), arguments, variables, log)
    }
}

pub(super) fn example() -> String {
    repository_file("config/bosh-lite.example.yml")
}

/// A function has no file: everything that it needs is in its environment. Nothing of a stack is in here.
#[must_use]
pub fn function_variables(kvstore: &str) -> Variables {
    let pairs = [
        ("KVSTORE_MACHINES", kvstore),
        ("ROUTER_HOSTNAME", "127.0.0.1"),
        ("CELL_USERNAME", "containers"),
        ("CELL_PASSWORD", "containers"),
        ("BROKER_USERNAME", USER),
        ("BROKER_PASSWORD", USER),
        ("CATALOG_SERVICES", CATALOG),
        (
            "SECRETS_MASTER_KEYS",
            r#"[{"id": "one", "environment": "PATRONI_BROKER_MASTER_KEY"}]"#,
        ),
        ("MASTER_KEY", "nPVFZvwyr4NmTxQ7E/u3vCylvHb6xn8NWzoqN3RiVlo="),
    ];
    let named = |(name, value): (&str, &str)| (format!("PATRONI_BROKER_{name}"), value.to_owned());
    pairs.map(named).into()
}

/// The example's catalog, as far as tests need it.
const CATALOG: &str = r#"[{
    "id": "0f5c1670-6dc3-11e5-bc08-6c4008a663f0", "name": "postgresql", "description": "PostgreSQL", "bindable": true,
    "plans": [{
        "id": "1545e30e-6dc3-11e5-826a-6c4008a663f0", "name": "cluster", "description": "A leader and replicas",
        "cluster": {"nodes": {"default": 2, "max": 8}}
    }]
}]"#;
