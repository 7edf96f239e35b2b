//! A real etcd, a router with its HAProxy, and servers that stand in for PostgreSQL by saying their names.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use shared::{
    etcd::Etcd,
    ids::{InstanceId, Port},
    keyspace,
    store::{Read, Store},
};
use tempfile::TempDir;
use tests::{etcd::EtcdServer, ports::free_port, wait::eventually};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::router::{
    Router, Settings,
    processes::{self, Process},
    state_directory::StateDirectory,
};

/// How long anything may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const INCARNATION: &str = "0f5c1670-6dc3-41e5-bc08-6c4008a663f0";

/// Ends whatever HAProxy a test leaves in its directory.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("router-").tempdir().unwrap())
    }

    /// A path that is longer than the address of a socket may be.
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("x".repeat(100)).join("state")
    }

    pub(super) fn haproxies(&self) -> Vec<Process> {
        StateDirectory::peek(&self.path()).map_or_else(|_| Vec::new(), |directory| processes::of(&directory))
    }

    pub(super) fn master(&self) -> Pid {
        let masters = self.haproxies().into_iter().filter(|process| process.master);
        let [master] = masters.collect::<Vec<_>>()[..] else {
            panic!("not one master: {:?}", self.haproxies());
        };
        master.pid
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for process in self.haproxies() {
            let _ = kill_process(process.pid, Signal::KILL);
        }
    }
}

/// A server that says its name to whoever connects, and keeps the connection open.
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// What its Patroni answers: whether it takes writes.
    pub(super) writable: Arc<AtomicBool>,
    api: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    pub(super) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let greeting = format!("{name}\n");
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let greeting = greeting.clone();
                clients.spawn(async move {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut client, greeting.as_bytes()).await;
                    let _ = client.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        let writable = Arc::new(AtomicBool::new(true));
        let patroni = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
        let api = patroni.local_addr().unwrap();
        let state = Arc::clone(&writable);
        let status = axum::routing::get(async move || {
            let role = if state.load(Ordering::SeqCst) {
                "primary"
            } else {
                "replica"
            };
            format!(r#"{{"state":"running","role":"{role}"}}"#)
        });
        let app = axum::Router::new().route("/patroni", status);
        let rest = tokio::spawn(async move { axum::serve(patroni, app).await.unwrap() });
        Self {
            name: name.to_owned(),
            address,
            writable,
            api,
            tasks: [task, rest],
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A client's session.
pub(super) struct Session {
    stream: TcpStream,
    pub(super) server: String,
}

impl Session {
    /// Connects to a public port; an error when nobody listens, or the connection is closed before a server has said
    /// its name.
    pub(super) async fn open(port: Port) -> io::Result<Self> {
        let attempt = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port.number())).await?;
            let mut server = String::new();
            loop {
                match stream.read_u8().await? {
                    b'\n' => return Ok(Self { stream, server }),
                    letter => server.push(char::from(letter)),
                }
            }
        };
        let opened = timeout(PATIENCE, attempt).await;
        opened.unwrap_or_else(|_| panic!("a connection to port {port} hangs"))
    }

    /// Whether the session is still open.
    pub(super) fn is_open(&self) -> bool {
        let mut buffer = [0];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => panic!("the server said more than its name"),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Waits until the session has ended.
    pub(super) async fn ends(&mut self) {
        let end = timeout(PATIENCE, self.stream.read_u8()).await;
        assert!(end.expect("the session goes on").is_err());
    }
}

/// Who is reached through a port; `None`: nobody.
pub(super) async fn reached(port: Port) -> Option<String> {
    Session::open(port).await.ok().map(|session| session.server)
}

/// Waits until a port leads to this server.
pub(super) async fn leads_to(port: Port, server: &Server) -> Session {
    let what = format!("port {port} leads to {}", server.name);
    eventually(&what, PATIENCE, async || {
        let session = Session::open(port).await.ok()?;
        (session.server == server.name).then_some(session)
    })
    .await
}

/// Waits until a port leads to nobody.
pub(super) async fn leads_nowhere(port: Port) {
    eventually(&format!("port {port} leads to nobody"), PATIENCE, async || {
        reached(port).await.is_none().then_some(())
    })
    .await;
}

/// A port for an instance.
pub(super) fn port() -> Port {
    Port::new(free_port()).unwrap()
}

/// Writes what the broker and Patroni write.
#[derive(Clone)]
pub(super) struct Keys(pub(super) Arc<Etcd>);

impl Keys {
    pub(super) async fn set(&self, key: &str, value: &str) {
        self.0.set(key, value, None).await.unwrap();
    }

    pub(super) async fn remove(&self, key: &str) {
        let entry = self.0.get(key, Read::Quorum).await.unwrap().unwrap();
        self.0.compare_and_delete(key, entry.index).await.unwrap();
    }

    pub(super) async fn allocate(&self, instance: &str, port: Port) {
        let id: InstanceId = instance.parse().unwrap();
        self.set(&keyspace::port(port), &format!("{id} {INCARNATION}"))
            .await;
        self.set(&keyspace::allocation(&id), &port.to_string()).await;
    }

    pub(super) async fn release(&self, instance: &str, port: Port) {
        self.remove(&format!("/routing/allocation/{instance}")).await;
        self.set(&keyspace::port(port), "quarantine").await;
    }

    pub(super) async fn member(&self, instance: &str, server: &Server, role: &str) {
        let key = format!("/service/{instance}/members/{}", server.name);
        let value = format!(
            r#"{{"conn_url":"postgres://{}/postgres","api_url":"http://{}/patroni","state":"running","role":"{role}","version":"4.1.5","timeline":1}}"#,
            server.address, server.api
        );
        self.set(&key, &value).await;
    }

    pub(super) async fn lead(&self, instance: &str, server: &Server) {
        self.set(&format!("/service/{instance}/leader"), &server.name)
            .await;
    }

    /// An instance with a leader and a replica.
    pub(super) async fn cluster(&self, instance: &str, port: Port, leader: &Server, replica: &Server) {
        self.member(instance, leader, "primary").await;
        self.member(instance, replica, "replica").await;
        self.lead(instance, leader).await;
        self.allocate(instance, port).await;
    }
}

/// What a member publishes that has no REST API.
pub(super) fn member(address: SocketAddr, role: &str) -> String {
    format!(
        r#"{{"conn_url":"postgres://{address}/postgres","state":"running","role":"{role}","version":"4.1.5","timeline":1}}"#
    )
}

/// A router with this state directory.
pub(super) fn settings(directory: &Path) -> Settings {
    Settings {
        bind_address: "127.0.0.1".parse().unwrap(),
        haproxy: "/usr/sbin/haproxy".into(),
        state_directory: directory.to_owned(),
        max_connections: 500,
    }
}

/// A router that runs in a task.
pub(super) struct Running {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    ready: watch::Receiver<bool>,
}

impl Running {
    /// Starts a router.
    pub(super) async fn start(directory: &Path, keys: &Keys) -> Self {
        Self::start_with(settings(directory), keys).await
    }

    pub(super) async fn start_with(settings: Settings, keys: &Keys) -> Self {
        let router = Router::start(settings, keys.0.clone()).await.unwrap();
        let ready = router.ready();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(router.run(async {
            let _ = stopped.await;
        }));
        Self { task, stop, ready }
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until it is ready.
    pub(super) async fn ready(mut self) -> Self {
        timeout(PATIENCE, self.ready.wait_for(|ready| *ready))
            .await
            .expect("the router becomes ready")
            .expect("the router runs");
        self
    }

    /// Ends the router as a crash would: HAProxy stays.
    pub(super) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task)
            .await
            .expect("the router stops")
            .unwrap();
    }
}

/// Everything.
pub(super) struct Bench {
    // Dropped in this order: the router before HAProxy and etcd.
    pub(super) router: Option<Running>,
    pub(super) directory: Directory,
    pub(super) keys: Keys,
    pub(super) etcd: EtcdServer,
}

impl Bench {
    /// An etcd and a router that is ready, with no instance.
    pub(super) async fn start() -> Self {
        let mut bench = Self::without_router().await;
        bench.start_router().await;
        bench
    }

    pub(super) async fn without_router() -> Self {
        // Shown by the test runner when the test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let etcd = EtcdServer::start().await;
        let keys = Keys(Arc::new(etcd.client()));
        Self {
            router: None,
            directory: Directory::new(),
            keys,
            etcd,
        }
    }

    pub(super) async fn start_router(&mut self) {
        let router = Running::start(&self.directory.path(), &self.keys).await;
        self.router = Some(router.ready().await);
    }

    /// Waits until workers that were replaced have ended; answers the two processes that are left.
    pub(super) async fn settled(&self) -> Vec<Process> {
        eventually("one master with one worker is left", PATIENCE, async || {
            Some(self.directory.haproxies()).filter(|processes| processes.len() == 2)
        })
        .await
    }

    /// What is left in the state directory.
    pub(super) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(router) = self.router.take() {
            router.task.abort();
        }
    }
}
