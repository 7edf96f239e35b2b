//! HAProxy as a process: taken over or started, reloaded, ended.
//!
//! **Guarantees.** At most one HAProxy serves a state directory: what an earlier router left is taken over when it
//! answers and killed when it does not, before another one is started. A reload refuses no connection and ends no
//! session. A configuration that HAProxy does not take leaves the worker that runs as it is.
//! **Assumes.** Linux (`/proc`, pidfd), HAProxy 2.4 or later in master-worker mode.
//! **Caveats.** Dropping it leaves HAProxy running, as a crash of the router does: clients should not notice either.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::fd::OwnedFd,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};
use shared::ids::Port;
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{
    account::{self, Account},
    applied::{Applied, HaproxyError, Refusal},
    command_line::CommandLine,
    haproxy_config::{self, Config, Targets},
    haproxy_log::{HaproxyLog, blamed},
    listen_port,
    master::{LOADING, Master},
    processes,
    settings::Settings,
    state_directory::{self, StateDirectory},
    worker::Worker,
};

/// How long a HAProxy that was found may take to answer.
const GREETING: Duration = Duration::from_secs(3);
/// How long the system may take to take back the ports of a process that has ended.
const RELEASE: Duration = Duration::from_secs(1);
/// How long a port is left out that HAProxy has refused itself.
const MISTRUST: Duration = Duration::from_secs(60);
/// Between two looks at HAProxy while it loads.
const PAUSE: Duration = Duration::from_millis(5);
/// How often ports that HAProxy has named as the reason of its refusal are taken out before giving up for now.
const ATTEMPTS: usize = 5;

/// A master process that runs.
#[derive(Debug)]
enum Running {
    Child(Child),
    /// Started by an earlier router: a pidfd.
    Adopted(AsyncFd<OwnedFd>),
}

/// HAProxy in a state directory.
#[derive(Debug)]
pub(crate) struct Haproxy {
    settings: Arc<Settings>,
    directory: Arc<StateDirectory>,
    account: Option<Account>,
    running: Option<Running>,
    /// The number of the last worker's socket. Each configuration has a socket of its own, so that nobody but its
    /// worker can answer there.
    number: u64,
    /// The ports that it listens on.
    bound: BTreeSet<Port>,
    /// The ports that it has refused itself, although nothing seemed to be in the way.
    blamed: BTreeMap<Port, Refusal>,
}

impl Haproxy {
    /// Takes over what an earlier router left in the directory.
    pub(crate) async fn take_over(settings: Arc<Settings>, directory: Arc<StateDirectory>) -> Self {
        let mut haproxy = Self {
            settings,
            account: account::of_workers(),
            running: None,
            number: directory.last_worker(),
            bound: BTreeSet::new(),
            blamed: BTreeMap::new(),
            directory,
        };
        let found = processes::of(&haproxy.directory);
        if found.is_empty() {
            return haproxy;
        }
        let masters: Vec<_> = found.iter().filter(|process| process.master).collect();
        let adopted = match masters.as_slice() {
            [master] => haproxy.adopt(master.pid).await,
            _ => Err(io::Error::other("not exactly one master process")),
        };
        match adopted {
            Ok((running, bound)) => {
                tracing::info!(ports = bound.len(), "took over the HAProxy of an earlier router");
                haproxy.running = Some(running);
                haproxy.bound = bound;
            }
            Err(error) => {
                tracing::warn!(%error, "the HAProxy of an earlier router is of no use: it is killed");
                haproxy.bound = haproxy_config::ports(&haproxy.directory.read(state_directory::CONFIG));
                processes::kill(&haproxy.directory).await;
            }
        }
        haproxy
    }

    async fn adopt(&self, pid: Pid) -> io::Result<(Running, BTreeSet<Port>)> {
        let running = Running::Adopted(watchable(pid)?);
        let master = self.master();
        let processes = master.settled(GREETING).await?;
        let mut bound = BTreeSet::new();
        for worker in processes.current {
            bound.extend(master.ports(worker).await?);
        }
        Ok((running, bound))
    }

    /// Waits until HAProxy has ended; for ever when it does not run. Can be dropped at any time.
    pub(crate) async fn ended(&mut self) {
        match &mut self.running {
            // An error means in both cases that there is nothing to wait for: look after the process.
            Some(Running::Child(child)) => drop(child.wait().await),
            Some(Running::Adopted(handle)) => drop(handle.ready(Interest::READABLE).await),
            None => std::future::pending().await,
        }
    }

    /// Whether it runs.
    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Makes HAProxy listen on these ports, by a reload or a start. Those that cannot be listened on are left out. With
    /// `anew`, what runs is killed before.
    ///
    /// # Errors
    /// When it serves the former ports still, or, if it has ended, none.
    pub(crate) async fn apply(&mut self, targets: Targets, anew: bool) -> Result<Applied, HaproxyError> {
        if anew {
            self.kill().await;
        }
        self.reap().await;
        let mut attempts = ATTEMPTS;
        loop {
            if self.running.is_none() {
                self.clear_ground().await?;
            }
            let refused = self.obstacles(&targets).await?;
            let mut serving = targets.clone();
            serving.retain(|port, _| !refused.contains_key(port));
            let error = match self.load(&serving).await {
                Ok(worker) => {
                    self.bound = serving.keys().copied().collect();
                    return Ok(Applied {
                        worker,
                        serving,
                        refused,
                    });
                }
                Err(error) => error,
            };
            let mut blamed = match &error {
                HaproxyError::Refused(log) | HaproxyError::Ended { log, .. } => blamed(log),
                HaproxyError::Io(_) | HaproxyError::Stuck => BTreeMap::new(),
            };
            blamed.retain(|port, _| serving.contains_key(port));
            if blamed.keys().any(|port| self.bound.contains(port)) {
                // The worker has not handed over the sockets that it listens on: it hangs.
                self.kill().await;
            }
            let process_at_fault = self.running.is_none() && !self.bound.is_empty();
            attempts -= 1;
            if attempts == 0 || (blamed.is_empty() && !process_at_fault) {
                return Err(error);
            }
            if !process_at_fault {
                let again = Instant::now() + MISTRUST;
                let blamed = blamed.into_iter();
                self.blamed
                    .extend(blamed.map(|(port, reason)| (port, Refusal { reason, again })));
            }
        }
    }

    /// Sees to it that nothing of a HAProxy that has ended is left. Its workers end with it, and their sockets with them,
    /// but maybe not yet.
    async fn clear_ground(&mut self) -> io::Result<()> {
        processes::kill(&self.directory).await;
        let deadline = Instant::now() + RELEASE;
        let mut held: Vec<Port> = std::mem::take(&mut self.bound).into_iter().collect();
        while !held.is_empty() && Instant::now() < deadline {
            held = self.obstructed(held).await?.into_keys().collect();
            if !held.is_empty() {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Ends sessions of replaced workers that do not go where `targets` say; answers whether such workers are left.
    ///
    /// # Errors
    /// When that is not certain.
    pub(crate) async fn sweep(&mut self, targets: &Targets) -> io::Result<bool> {
        let master = self.master();
        let (ended, left) = tokio::select! {
            swept = master.sweep(targets) => swept?,
            () = self.ended() => return Err(io::Error::other("HAProxy has ended")),
        };
        if ended > 0 {
            tracing::info!(
                sessions = ended,
                "ended sessions to former leaders in replaced workers"
            );
        }
        Ok(left)
    }

    /// Takes note of the end of the process; answers with what status it has ended.
    pub(crate) async fn reap(&mut self) -> Option<String> {
        let status = match self.running.as_mut()? {
            Running::Child(child) => child.try_wait().ok()??.to_string(),
            Running::Adopted(handle) => {
                let ended = timeout(Duration::ZERO, handle.ready(Interest::READABLE)).await;
                ended.ok().map(|_| "started by an earlier router".to_owned())?
            }
        };
        self.running = None;
        Some(status)
    }

    async fn kill(&mut self) {
        processes::kill(&self.directory).await;
        self.reap().await;
    }

    /// Ends HAProxy and removes its files.
    pub(crate) async fn stop(mut self) {
        processes::end(&self.directory).await;
        if self.running.is_some() {
            // The processes are gone: this takes note of it, so that the system can forget them, too.
            self.ended().await;
        }
        self.directory.clear();
    }

    fn master(&self) -> Master {
        let socket = state_directory::MASTER.to_owned();
        Master::new(CommandLine::new(Arc::clone(&self.directory), socket))
    }

    /// The ports that are new and cannot be listened on.
    async fn obstacles(&mut self, targets: &Targets) -> io::Result<BTreeMap<Port, Refusal>> {
        let now = Instant::now();
        self.blamed
            .retain(|port, refusal| refusal.again > now && targets.contains_key(port));
        let fresh = targets.keys().filter(|port| !self.bound.contains(port));
        let obstructed = self.obstructed(fresh.copied().collect()).await?.into_iter();
        let mut refused: BTreeMap<_, _> = obstructed
            .map(|(port, reason)| (port, Refusal { reason, again: now }))
            .collect();
        refused.extend(self.blamed.clone());
        Ok(refused)
    }

    /// Which of these ports cannot be listened on, and why.
    async fn obstructed(&self, ports: Vec<Port>) -> io::Result<BTreeMap<Port, String>> {
        let address = self.settings.bind_address;
        let look = move || {
            let obstacle = |port| Some((port, listen_port::obstacle(address, port)?));
            ports.into_iter().filter_map(obstacle).collect()
        };
        tokio::task::spawn_blocking(look).await.map_err(io::Error::other)
    }

    /// Has a configuration loaded by the process that runs, or by a new one.
    async fn load(&mut self, targets: &Targets) -> Result<Worker, HaproxyError> {
        self.number += 1;
        let socket = state_directory::worker(self.number);
        let config = Config {
            bind_address: self.settings.bind_address,
            socket: &socket,
            max_connections: self.settings.max_connections,
            descriptors: getrlimit(Resource::Nofile).maximum,
            memory: memory(),
            account: self.account,
            targets,
        };
        self.directory.write(state_directory::CONFIG, &config.render())?;
        let (mut log, writer) = HaproxyLog::open(&self.directory)?;
        let reloading = self.running.is_some();
        if reloading {
            let master = self.master();
            let asked = tokio::select! {
                asked = master.reload() => asked,
                () = self.ended() => Ok(()),
            };
            if asked.is_err() {
                self.kill().await;
                return Err(HaproxyError::Stuck);
            }
        } else {
            self.spawn(writer)?;
        }
        let worker = Worker::new(CommandLine::new(Arc::clone(&self.directory), socket));
        let loaded = self.loaded(&worker, reloading).await;
        match loaded {
            Ok(()) => {
                self.directory.forget_workers(Some(self.number));
                Ok(worker)
            }
            Err(Unloaded::Refused) => Err(HaproxyError::Refused(log.alerts())),
            Err(Unloaded::Ended(status)) => {
                let log = log.alerts();
                // A master that dies while it loads may leave workers behind for a moment.
                processes::kill(&self.directory).await;
                Err(HaproxyError::Ended { status, log })
            }
            Err(Unloaded::Stuck) => {
                self.kill().await;
                Err(HaproxyError::Stuck)
            }
        }
    }

    /// Waits until the new worker answers, or the configuration has been refused.
    async fn loaded(&mut self, worker: &Worker, reloading: bool) -> Result<(), Unloaded> {
        let deadline = Instant::now() + LOADING;
        let master = self.master();
        while Instant::now() < deadline {
            if worker.answers().await {
                return Ok(());
            }
            if let Some(status) = self.reap().await {
                return Err(Unloaded::Ended(status));
            }
            if reloading {
                let processes = master.processes().await;
                if processes.is_ok_and(|processes| processes.failed_reloads > 0) {
                    return Err(Unloaded::Refused);
                }
            }
            sleep(PAUSE).await;
        }
        Err(Unloaded::Stuck)
    }

    fn spawn(&mut self, log: File) -> io::Result<()> {
        let child = Command::new(&self.settings.haproxy)
            .args([
                "-W",
                "-S",
                processes::MASTER_ADDRESS,
                "-f",
                state_directory::CONFIG,
            ])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's Ctrl-C is for the router, which then ends HAProxy in order.
            .process_group(0)
            .spawn()?;
        self.running = Some(Running::Child(child));
        Ok(())
    }
}

/// How loading a configuration went wrong.
enum Unloaded {
    Refused,
    Ended(String),
    Stuck,
}

/// How many bytes of memory the machine has.
fn memory() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram.saturating_mul(u64::from(system.mem_unit))
}

// What makes this function unsound is a type whose descriptor changes or is not open; OwnedFd is not one.
#[allow(deprecated)]
fn watchable(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}
