//! A whole installation: etcd, cells, router and brokers, each a process of its own, on addresses of its own.
//!
//! **Guarantees.** When a stack is dropped, also by a panic, none of its processes is left, Patroni's and PostgreSQL's
//! included, nor its directory; after a panic the directory stays, and the ends of all logs are printed. When the test
//! process is killed, the [`Reaper`] does the same.
//! **Assumes.** The workspace was built, and etcd, Patroni, PostgreSQL and HAProxy are installed.

mod cell;
mod logs;
mod reaper;
mod server;
mod settings;

pub use self::{
    cell::CellServer,
    server::Server,
    settings::{Options, function_variables},
};

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use shared::{broker::Broker, config::Config, ids::InstanceId, keyspace, record::Record, setup};
use tempfile::TempDir;

use self::{reaper::Reaper, settings::Settings};
use crate::{
    binaries::repository_file,
    etcd::{self, EtcdCluster, EtcdServer},
    keys::Keys,
    network::Network,
    osb::Osb,
    processes::{self, Process},
};

/// How long tidying up may take after an instance is gone. A marker that came too late is left alone for some seconds.
const TIDY: Duration = Duration::from_secs(45);

/// A running installation.
#[derive(Debug)]
pub struct Stack {
    /// Where all state is.
    pub etcd: EtcdServer,
    /// The other members of the same etcd.
    pub more_etcd: Vec<EtcdServer>,
    /// The cells, in the order of [`Options::zones`].
    pub cells: Vec<CellServer>,
    /// The router, if there is one.
    pub router: Option<Server>,
    /// The brokers.
    pub brokers: Vec<Server>,
    settings: Settings,
    directory: Option<TempDir>,
    reaper: Reaper,
}

impl Stack {
    /// Starts everything, and answers when brokers and cells do.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(options: Options) -> Self {
        let directory = directory();
        let reaper = Reaper::start(directory.path());
        let (etcd, more_etcd) = if options.etcd_members > 1 {
            let mut members = EtcdCluster::start(options.etcd_members).await.members;
            (members.remove(0), members)
        } else {
            let etcd_options = etcd::Options {
                directory: Some(subdirectory(directory.path(), "etcd")),
                ..etcd::Options::default()
            };
            (EtcdServer::start_with(etcd_options).await, Vec::new())
        };
        let machines = [&etcd].into_iter().chain(&more_etcd).map(EtcdServer::url);
        let settings = Settings {
            network: Network::take(),
            directory: directory.path().to_owned(),
            kvstore: machines.collect::<Vec<_>>().join(","),
            options,
        };
        subdirectory(directory.path(), logs::OWN);
        let mut stack = Self {
            etcd,
            more_etcd,
            cells: settings.cells(),
            router: settings.router(),
            brokers: settings.brokers(),
            settings,
            directory: Some(directory),
            reaper,
        };
        for server in stack.servers() {
            server.launch();
        }
        stack.ready().await;
        stack
    }

    fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        let cells = self.cells.iter_mut().map(|cell| &mut cell.server);
        cells.chain(&mut self.router).chain(&mut self.brokers)
    }

    async fn ready(&mut self) {
        for server in self.servers() {
            server.ready().await;
        }
    }

    /// Gives a variable of [`Options::variables`] another value. Processes have it when they are started again.
    pub fn set_variable(&mut self, name: &'static str, value: &str) {
        self.settings.options.variables.push((name, value.to_owned()));
        let variable = format!("PATRONI_BROKER_{name}");
        for server in self.servers() {
            server.set_variable(&variable, value);
        }
    }

    /// The process of the cell with this guid.
    ///
    /// # Panics
    /// When there is none.
    pub fn server_of(&mut self, guid: &str) -> &mut Server {
        let mut cells = self.cells.iter_mut();
        &mut cells
            .find(|cell| cell.guid == guid)
            .expect("a cell with this guid")
            .server
    }

    /// A client of the first broker.
    #[must_use]
    pub fn osb(&self) -> Osb {
        self.osb_of(0)
    }

    /// A client of one of the brokers.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn osb_of(&self, broker: usize) -> Osb {
        Osb::new(self.brokers[broker].url())
    }

    /// An address of the stack's own network: 1 is the router's, brokers have those from 10 on, cells those from 101.
    #[must_use]
    pub fn address(&self, number: u8) -> String {
        self.settings.network.address(number).to_string()
    }

    /// What a cell has logged.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn log_of_cell(&self, cell: usize) -> String {
        let log = format!("logs/cell-{}.log", cell + 1);
        fs::read_to_string(self.settings.directory.join(log)).unwrap()
    }

    /// The directory that everything works in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// The variables of a function beside this stack, which reaches etcd at this URL.
    #[must_use]
    pub fn function_variables(&self, kvstore: &str) -> BTreeMap<String, String> {
        // What is the stack's own goes before what any function has.
        let mut variables = function_variables(kvstore);
        variables.extend(self.settings.common());
        variables.insert("PATRONI_BROKER_KVSTORE_MACHINES".to_owned(), kvstore.to_owned());
        variables
    }

    /// A broker inside the test, configured as those of the stack are.
    ///
    /// # Panics
    /// When the configuration is not usable.
    #[must_use]
    pub fn broker(&self) -> Broker {
        let text = fs::read_to_string(settings::example()).unwrap();
        let variables = self.settings.common();
        let variables = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        setup::broker(Config::parse("the example", &text, variables).unwrap()).unwrap()
    }

    /// The variables of a command that is configured as the stack's brokers are.
    #[must_use]
    pub fn command_variables(&self) -> BTreeMap<String, String> {
        let mut variables = self.settings.common();
        let config = repository_file("config/bosh-lite.example.yml");
        variables.insert("PATRONI_BROKER_CONFIG".to_owned(), config);
        variables
    }

    /// All keys in etcd that say something.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::below(&self.etcd, "").without_hints()
    }

    /// The record of an instance; `None` when there is no such instance.
    ///
    /// # Panics
    /// When etcd does not answer, or the record cannot be read.
    #[must_use]
    pub fn record(&self, instance: &str) -> Option<Record> {
        let id: InstanceId = instance.parse().unwrap();
        let key = keyspace::record(&id);
        let keys = Keys::below(&self.etcd, &key);
        keys.0.get(&key).map(|value| Record::parse(value).unwrap())
    }

    /// Processes that belong to nodes: Patroni and PostgreSQL.
    #[must_use]
    pub fn node_processes(&self) -> Vec<Process> {
        self.cells
            .iter()
            .flat_map(|cell| processes::below(&cell.nodes_directory()))
            .collect()
    }

    /// What the cells have on their disks, quarantine included: `<cell>/<directory>/<node>`.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn node_directories(&self) -> Vec<String> {
        self.cells.iter().flat_map(CellServer::node_directories).collect()
    }

    /// Asserts that no instance is there: no key in etcd beyond those of `before`, no process and no directory of a node.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn assert_unchanged(&self, before: &Keys, why: &str) {
        let before = before.clone().without_markers_of_nothing();
        let changes = self.keys().without_markers_of_nothing().changes_since(&before);
        assert!(changes.is_empty(), "{why} left in etcd:\n{}", changes.join("\n"));
        self.assert_no_node(why);
    }

    /// Asserts that nothing is left of instances that were taken away, beyond what that leaves on purpose. Whoever
    /// finished it may be a moment behind with tidying up, and with markers of requests that came too late a bit more.
    ///
    /// # Panics
    /// With what is left.
    pub async fn assert_gone(&self, before: &Keys) {
        self.assert_no_node("a deprovision");
        let deadline = Instant::now() + TIDY;
        loop {
            let keys = self.keys().without_markers_of_nothing().without_remains();
            let changes = keys.changes_since(before);
            if changes.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left in etcd:\n{}", changes.join("\n"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asserts that no process and no directory of a node is there.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn assert_no_node(&self, why: &str) {
        let processes = self.node_processes();
        assert!(processes.is_empty(), "{why} left processes: {processes:?}");
        let directories = self.node_directories();
        assert!(directories.is_empty(), "{why} left directories: {directories:?}");
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let directory = self.settings.directory.clone();
        for server in self.servers() {
            server.kill();
        }
        // Together with Patroni, so that the ends of the logs do not tell of this end.
        let left = processes::kill_below(&directory).err().unwrap_or_default();
        self.etcd.kill();
        if thread::panicking() {
            logs::print_ends(&directory);
            eprintln!("processes that could not be killed: {left:?}");
            eprintln!("everything is still in {}", directory.display());
            self.directory.take().map(TempDir::keep);
        } else {
            assert!(left.is_empty(), "processes that could not be killed: {left:?}");
            drop(self.directory.take());
        }
        self.reaper.dismiss();
    }
}

/// A directory that any user can enter, PostgreSQL's included.
fn directory() -> TempDir {
    let directory = tempfile::Builder::new()
        .prefix("pb-")
        .tempdir_in("/var/tmp")
        .expect("a directory in /var/tmp");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("a new directory");
    directory
}

fn subdirectory(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).expect("a directory in a new one");
    path
}
