//! Cells on loopback for tests, with real etcd, Patroni and PostgreSQL.
//!
//! **Guarantees.** Each stage has addresses of its own, and nothing that worked for it outlives it, also when a test
//! panics.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shared::{
    cell_api::{CellStatus, NodeStatus},
    etcd::Etcd,
    ids::{Incarnation, InstanceId, NodeId},
    keyspace,
    record::{Phase, Record},
    store::{Read, Store},
};
use tempfile::TempDir;
use tests::{
    etcd::{EtcdServer, Options},
    wait::eventually,
};
use tokio::{sync::oneshot, task::JoinHandle};
use uuid::Uuid;

use super::{
    Settings,
    account::Account,
    directory,
    error::CellError,
    fixture,
    process::working_in,
    service::Cell,
    settings::{EtcdAccess, PatroniSettings},
};

pub(super) const PASSWORD: &str = "the-cells-password";
pub(super) const SUPERUSER_PASSWORD: &str = "sesame-of-the-superuser";
/// Every password that must not be seen where it does not belong.
pub(super) const SECRETS: [&str; 5] = [
    PASSWORD,
    SUPERUSER_PASSWORD,
    "sesame-of-replication",
    "sesame-of-rewind",
    "sesame-of-rest",
];
/// Longer than anything takes on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(60);

static ADDRESSES: AtomicU8 = AtomicU8::new(1);

/// etcd, and a place for the cells' directories.
pub(super) struct Stage {
    pub(super) etcd: EtcdServer,
    pub(super) store: Arc<Etcd>,
    pub(super) http: reqwest::Client,
    pub(super) top: TempDir,
}

/// A cell that serves.
pub(super) struct Site {
    pub(super) settings: Settings,
    pub(super) uri: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), CellError>>,
}

/// An instance of a test.
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) record: Record,
}

pub(super) fn new_node() -> NodeId {
    Uuid::new_v4().into()
}

impl Stage {
    pub(super) async fn set() -> Self {
        Self::set_with(|_| Options::default()).await
    }

    /// With an etcd of one's own making; the options may refer to files in the directory given.
    pub(super) async fn set_with(options: impl FnOnce(&Path) -> Options) -> Self {
        let top = tempfile::Builder::new().prefix("cell-").tempdir().unwrap();
        std::fs::set_permissions(top.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let etcd = EtcdServer::start_with(options(top.path())).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            store: Arc::new(etcd.client()),
            etcd,
            http,
            top,
        }
    }

    /// Settings of a cell with its own address and directory.
    pub(super) fn settings(&self, patroni: &str) -> Settings {
        let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, process[2].max(1), process[3], number);
        let guid = format!("cell-{number}");
        Settings {
            data_directory: self.top.path().join(&guid),
            guid: guid.parse().unwrap(),
            address: IpAddr::V4(address),
            host: address.to_string(),
            api_port: 14_999,
            availability_zone: format!("z{number}"),
            capacity: 10,
            username: "broker".into(),
            password: PASSWORD.into(),
            first_port: 15_000,
            heartbeat_ttl: Duration::from_secs(3),
            patroni: PatroniSettings {
                command: vec![patroni.into()],
                ..PatroniSettings::default()
            },
            etcd: {
                let access = self.etcd.settings();
                EtcdAccess {
                    machines: access.machines,
                    username: access.username,
                    password: access.password,
                    ca: access.ca_file,
                    cert: access.certificate_file,
                    key: access.key_file,
                }
            },
        }
    }

    /// Opens a cell and has it serve.
    pub(super) async fn open(&self, settings: Settings) -> Site {
        self.try_open(settings).await.unwrap()
    }

    pub(super) async fn try_open(&self, settings: Settings) -> Result<Site, CellError> {
        let mut cell = Cell::open(settings.clone(), Arc::<Etcd>::clone(&self.store)).await?;
        cell.announce().await?;
        let uri = cell.uri().to_owned();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(cell.serve(async { drop(stopped.await) }));
        Ok(Site {
            settings,
            uri,
            stop,
            task,
        })
    }

    /// Writes an instance's record as it is now.
    pub(super) async fn write(&self, instance: &Instance) {
        let key = keyspace::record(&instance.id);
        self.store
            .set(&key, &instance.record.to_json(), None)
            .await
            .unwrap();
    }

    pub(super) async fn get(&self, key: &str) -> Option<String> {
        self.store
            .get(key, Read::Quorum)
            .await
            .unwrap()
            .map(|entry| entry.value)
    }

    /// The node that leads an instance's cluster, once there is one.
    pub(super) async fn leader(&self, instance: &Instance) -> NodeId {
        let key = format!("{}/leader", keyspace::scope(&instance.id));
        eventually("a leader", LONG, async || self.get(&key).await?.parse().ok()).await
    }

    /// What Patroni publishes about a node, once it satisfies a condition.
    pub(super) async fn member(
        &self,
        instance: &Instance,
        node: NodeId,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) {
        let key = keyspace::member(&instance.id, node);
        eventually(what, LONG, async || {
            let member: Value = serde_json::from_str(&self.get(&key).await?).ok()?;
            condition(&member).then_some(())
        })
        .await;
    }

    pub(super) async fn call(&self, method: reqwest::Method, url: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self
            .http
            .request(method, url)
            .basic_auth("broker", Some(PASSWORD));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(super) async fn put(&self, site: &Site, instance: &Instance, node: NodeId) -> (u16, Value) {
        self.call(reqwest::Method::PUT, &site.url(node), Some(instance.body(node)))
            .await
    }

    pub(super) async fn delete(&self, site: &Site, node: NodeId) -> (u16, Value) {
        self.call(reqwest::Method::DELETE, &site.url(node), None).await
    }

    pub(super) async fn all(&self, site: &Site) -> CellStatus {
        let (_, all) = self.call(reqwest::Method::GET, &site.uri_of_all(), None).await;
        fixture::from(all)
    }

    pub(super) async fn status(&self, site: &Site, node: NodeId) -> Option<NodeStatus> {
        let all = self.all(site).await;
        all.nodes.into_iter().find(|status| status.node_id == node)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for _ in 0..10 {
            for uid in [0, own_or_postgres()] {
                for stat in working_in(self.top.path(), uid).unwrap_or_default() {
                    if let Some(pid) = stat.id().ok().and_then(|id| Pid::from_raw(id.pid)) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
            }
        }
    }
}

impl Stage {
    fn print_logs(&self) {
        for path in walk(self.top.path()) {
            if path.ends_with("log/patroni.log") || path.ends_with("output.log") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                println!(
                    "{}\n{}",
                    path.display(),
                    lines[lines.len().saturating_sub(20)..].join("\n")
                );
            }
        }
    }
}

/// All files below a directory.
pub(super) fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // What vanishes while it is looked at is not there.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(walk(&entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => (),
        }
    }
    files
}

/// Whom Patroni runs as here.
pub(super) fn own_or_postgres() -> u32 {
    Account::choose(None).unwrap().uid()
}

impl Site {
    pub(super) fn url(&self, node: NodeId) -> String {
        format!("{}/{node}", self.uri_of_all())
    }

    fn uri_of_all(&self) -> String {
        format!("{}/v2/service_instances", self.uri)
    }

    /// Stops the cell cleanly.
    pub(super) async fn stop(self) -> Settings {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
        self.settings
    }

    /// Lets go of everything at once, as a kill does.
    pub(super) async fn kill(self) -> Settings {
        self.task.abort();
        let _ = self.task.await;
        let (lock, guid) = (&self.settings.data_directory, &self.settings.guid);
        eventually("the lock of the killed cell", LONG, async || {
            let account = Account::choose(None).unwrap();
            directory::DataDirectory::open(lock, account, guid).ok().map(drop)
        })
        .await;
        self.settings
    }

    pub(super) fn directory(&self, node: NodeId) -> PathBuf {
        self.settings.data_directory.join("nodes").join(node.to_string())
    }

    /// The number of a node's Patroni.
    pub(super) fn patroni(&self, node: NodeId) -> i32 {
        let json = std::fs::read(self.directory(node).join("process.json")).unwrap();
        let id: super::process::ProcessId = serde_json::from_slice(&json).unwrap();
        id.pid
    }

    /// The number of a node's postmaster.
    pub(super) fn postmaster(&self, node: NodeId) -> i32 {
        let text = std::fs::read_to_string(self.directory(node).join("home/data/postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }
}

pub(super) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The numbers of all processes that work below a directory.
pub(super) fn workers(directory: &Path) -> BTreeSet<i32> {
    let stats = working_in(&directory.canonicalize().unwrap(), own_or_postgres()).unwrap();
    stats.iter().map(|stat| stat.id().unwrap().pid).collect()
}

impl Instance {
    pub(super) fn new(id: &str) -> Self {
        let (id, incarnation): (InstanceId, Incarnation) = (id.parse().unwrap(), Uuid::new_v4().into());
        Self {
            record: fixture::record(&id, incarnation),
            id,
            incarnation,
        }
    }

    pub(super) fn place(&mut self, node: NodeId, site: &Site, phase: Phase) {
        self.record
            .nodes
            .insert(node, fixture::node(phase, &site.settings.guid));
    }

    /// The body of a PUT.
    pub(super) fn body(&self, node: NodeId) -> Value {
        json!({
            "service_id": "s", "plan_id": "p", "organization_guid": "o", "space_guid": "s",
            "parameters": {
                "PATRONI_SCOPE": self.id, "NODE_ID": node, "INCARNATION": self.incarnation,
                "SUPERUSER_PASSWORD": SUPERUSER_PASSWORD,
                "REPLICATION_PASSWORD": SECRETS[2],
                "REWIND_PASSWORD": SECRETS[3],
                "RESTAPI_PASSWORD": SECRETS[4],
                "PATRONI_CONFIG": {
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 5, "failsafe_mode": true,
                    "postgresql": {
                        "use_pg_rewind": true, "use_slots": true,
                        "parameters": {"max_connections": 20, "shared_buffers": "16MB", "fsync": "off"},
                    },
                },
            },
        })
    }
}
