//! One node's life: a task that keeps its Patroni as the record wants it, until the node is told to leave or the cell
//! stops.
//!
//! **Guarantees.** At most one Patroni runs for a node. None is started unless the record, read at that moment, names
//! the node here. Data is deleted only after the node's id was retired durably.
//! **Caveats.** While etcd cannot be read, a running Patroni goes on and a dead one stays dead.

use std::{io, path::Path, sync::Arc, time::Duration};

use rustix::process::Signal;
use shared::{
    cell_api::{NodeState, NodeStatus},
    keyspace,
    store::StoreError,
};
use tokio::{
    process::Child,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    context::Context,
    directory::{NodeDirectory, NodeFile},
    evidence,
    judgement::{Identity, Judgement},
    patroni_yaml::Configuration,
    process::{self, Process},
    registrar, socket,
};

/// How often the record is read while Patroni runs.
const CHECK: Duration = Duration::from_secs(10);
/// How often it is read for a node in quarantine.
const CHECK_QUARANTINE: Duration = Duration::from_secs(30);
/// Between the two readings that a node must be missing from before it is stopped.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// The wait before a dead Patroni is started again: doubled each time, up to the last.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// A Patroni that lived this long died for a new reason.
const HEALTHY: Duration = Duration::from_secs(60);
/// How long Patroni may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(60);
/// The same for a node whose data goes anyway.
const STOP_FOR_GOOD: Duration = Duration::from_secs(30);
/// Patroni dies of a SIGHUP that comes before it listens to it.
const YOUNG: Duration = Duration::from_secs(5);
/// Before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a running node's registration is looked at.
const REGISTRATION: Duration = Duration::from_secs(60);

/// What a node's task is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Do what the record says.
    Keep,
    /// The cell stops: stop the node, keep its data.
    Halt,
    /// The node is retired: remove it.
    Remove,
}

/// What is seen of a node's task from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It goes on.
    Goes(NodeStatus),
    /// The node is stopped, its data kept.
    Halted,
    /// Nothing of the node is left.
    Removed,
}

/// A node's task.
pub(super) struct Keeper {
    context: Arc<Context>,
    id: Identity,
    file: NodeFile,
    directory: NodeDirectory,
    orders: watch::Receiver<Order>,
    nudge: Arc<Notify>,
    life: watch::Sender<Life>,
    /// Its directory is in quarantine.
    quarantined: bool,
    /// Its id is retired, by this task's own judgement.
    condemned: bool,
    /// A judgement that was made a moment ago and saves a reading.
    fresh: Option<Judgement>,
    nofailover: bool,
    child: Option<Child>,
    delay: Duration,
    /// What was wrong last time, so that it is logged once.
    trouble: Option<String>,
}

/// What a node's task starts from.
pub(super) struct Origin {
    /// What the cell keeps about it.
    pub(super) file: NodeFile,
    /// Its directory is in quarantine.
    pub(super) quarantined: bool,
    /// What the record said when the node was admitted, if that was just now.
    pub(super) fresh: Option<Judgement>,
}

/// The ends of the channels that a node's task holds.
pub(super) struct Wires {
    /// What it is told.
    pub(super) orders: watch::Receiver<Order>,
    /// Makes it look at the record at once.
    pub(super) nudge: Arc<Notify>,
    /// What is seen of it.
    pub(super) life: watch::Sender<Life>,
}

/// A Patroni that runs.
struct Running {
    process: Process,
    since: Instant,
    /// It may not know yet what its configuration file says.
    reload_due: bool,
}

/// Why a node's task looks up from waiting.
enum Woken {
    Ended,
    Order,
    Check,
}

impl Keeper {
    /// A task for a node that is on disk.
    pub(super) fn new(context: Arc<Context>, origin: Origin, wires: Wires) -> Self {
        let id = context.identity(&origin.file.parameters);
        let directory = context.directory.node(id.node);
        Self {
            context,
            id,
            file: origin.file,
            directory,
            orders: wires.orders,
            nudge: wires.nudge,
            life: wires.life,
            quarantined: origin.quarantined,
            condemned: false,
            fresh: origin.fresh,
            nofailover: false,
            child: None,
            delay: FIRST_DELAY,
            trouble: None,
        }
    }

    /// Lives until the node is removed, or stopped with the cell.
    pub(super) async fn live(mut self) {
        let end = loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Order::Remove => break self.remove().await,
                _ if self.condemned => break self.remove().await,
                Order::Halt => break self.halt().await,
                Order::Keep if self.quarantined => self.rest().await,
                Order::Keep => self.keep().await,
            }
        };
        self.life.send_replace(end);
    }

    fn show(&self, state: NodeState) {
        let status = self.context.status(&self.file, state);
        self.life.send_if_modified(|life| {
            let now = Life::Goes(status);
            let changed = *life != now;
            *life = now;
            changed
        });
    }

    /// One Patroni process from its start, or its adoption, to its end.
    async fn keep(&mut self) {
        match self.context.program.running(&self.directory) {
            Ok(Some(process)) => {
                tracing::info!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, "adopted a running Patroni");
                self.attend(Running {
                    process,
                    since: Instant::now(),
                    reload_due: true,
                })
                .await;
            }
            Ok(None) => {
                self.show(NodeState::Waiting);
                let judgement = match self.fresh.take() {
                    Some(judgement) => Some(judgement),
                    None => self.judge().await,
                };
                match judgement {
                    Some(Judgement::Run { nofailover }) => self.start(nofailover).await,
                    Some(other) => self.leave(other).await,
                    None => self.pause(RETRY).await,
                }
            }
            Err(error) => self.fail("looking for its Patroni", &error).await,
        }
    }

    async fn start(&mut self, nofailover: bool) {
        self.nofailover = nofailover;
        if let Err(error) = self.prepare().await {
            return self.fail("preparing the start of its Patroni", &error).await;
        }
        let (process, child) = match self.context.program.start(&self.directory) {
            Ok(started) => started,
            Err(error) => return self.fail("starting its Patroni", &error).await,
        };
        tracing::info!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, address = self.address(), "started Patroni");
        self.child = Some(child);
        self.attend(Running {
            process,
            since: Instant::now(),
            reload_due: false,
        })
        .await;
    }

    /// Everything that must be in place before Patroni starts.
    async fn prepare(&mut self) -> io::Result<()> {
        let (home, uid) = (self.directory.home(), self.context.account.uid());
        process::clear_stragglers(&home, uid).await?;
        let address = self.context.settings.address;
        let postgresql_runs = !process::working_in(&home, uid)?.is_empty();
        if !postgresql_runs && !self.file.ports.is_free(address) {
            let first = self.context.settings.first_port;
            let pair = self
                .context
                .ports
                .claim(self.id.node, address, first)
                .ok_or_else(no_port)?;
            tracing::warn!(instance = %self.id.instance, node = %self.id.node, old = self.file.ports.postgresql, new = pair.postgresql, "the node's ports are in use by another program; it moves to others");
            self.file.ports = pair;
            self.context.directory.update(self.id.node, &self.file)?;
            self.show(NodeState::Waiting);
        }
        socket::prepare(&self.socket_directory(), &self.context.account)?;
        let text = self.configuration();
        self.context.directory.write_patroni_yml(self.id.node, &text)
    }

    fn socket_directory(&self) -> std::path::PathBuf {
        socket::directory(&self.directory.home(), self.id.node, &self.context.account)
    }

    fn configuration(&self) -> String {
        Configuration {
            settings: &self.context.settings,
            parameters: &self.file.parameters,
            ports: self.file.ports,
            home: &self.directory.home(),
            postgres_bin: self.context.program.postgres_bin(),
            socket_directory: &self.socket_directory(),
            nofailover: self.nofailover,
        }
        .render()
    }

    fn address(&self) -> String {
        self.context.settings.advertised(self.file.ports.postgresql)
    }

    /// Stands by a running Patroni until it has ended, or must end.
    async fn attend(&mut self, mut running: Running) {
        self.show(NodeState::Running);
        let mut registration = Instant::now();
        let mut check = Instant::now() + CHECK;
        loop {
            if Instant::now() >= registration {
                let done = unless_ordered(&self.orders, self.register()).await == Some(true);
                registration = Instant::now() + if done { REGISTRATION } else { RETRY };
            }
            let woken = tokio::select! {
                _ = running.process.ended() => Woken::Ended,
                _ = self.orders.changed() => Woken::Order,
                () = self.nudge.notified() => Woken::Check,
                () = sleep_until(check.min(registration)) => Woken::Check,
            };
            match woken {
                Woken::Order => return,
                Woken::Ended => return self.mourn(running).await,
                Woken::Check => (),
            }
            check = Instant::now() + CHECK;
            match self.judge().await {
                Some(Judgement::Run { nofailover }) => {
                    self.nofailover = nofailover;
                    if let Err(error) = self.reconfigure(&mut running) {
                        tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "changing Patroni's configuration failed; it is tried again");
                    }
                    if running.reload_due {
                        check = Instant::now() + YOUNG;
                    }
                }
                Some(other) => return self.leave(other).await,
                None => (),
            }
        }
    }

    /// Writes Patroni's configuration when it is another one now, and makes Patroni read it.
    fn reconfigure(&mut self, running: &mut Running) -> io::Result<()> {
        let text = self.configuration();
        if std::fs::read(self.directory.patroni_yml()).ok().as_deref() != Some(text.as_bytes()) {
            self.context.directory.write_patroni_yml(self.id.node, &text)?;
            running.reload_due = true;
            tracing::info!(instance = %self.id.instance, node = %self.id.node, nofailover = self.nofailover, "changed Patroni's configuration");
        }
        if running.reload_due && running.since.elapsed() >= YOUNG {
            running.process.signal(Signal::HUP)?;
            running.reload_due = false;
        }
        Ok(())
    }

    async fn register(&self) -> bool {
        let store = self.context.store.as_ref();
        match registrar::register(store, &self.id.cell, self.id.node, &self.address()).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(instance = %self.id.instance, node = %self.id.node, %error, "the node's address could not be registered; it is tried again");
                false
            }
        }
    }

    /// After Patroni died by itself.
    async fn mourn(&mut self, running: Running) {
        self.show(NodeState::Waiting);
        let status = match self.child.take() {
            Some(mut child) => child.wait().await.map(|status| status.to_string()).ok(),
            None => None,
        };
        if running.since.elapsed() >= HEALTHY {
            self.delay = FIRST_DELAY;
        }
        tracing::warn!(
            instance = %self.id.instance,
            node = %self.id.node,
            pid = running.process.id().pid,
            status = status.unwrap_or_else(|| "unknown".to_owned()),
            said = last_line(&self.directory.output()),
            log = %self.directory.home().join("log").display(),
            "Patroni died; starting it again in {} s", self.delay.as_secs()
        );
        self.back_off().await;
    }

    async fn fail(&mut self, doing: &'static str, error: &io::Error) {
        tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "{doing} failed; trying again in {} s", self.delay.as_secs());
        self.back_off().await;
    }

    async fn back_off(&mut self) {
        let delay = self.delay;
        self.delay = (delay * 2).min(LAST_DELAY);
        self.pause(delay).await;
    }

    /// Waits, unless there is a reason to look at once.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => (),
            _ = self.orders.changed() => (),
            () = self.nudge.notified() => (),
        }
    }

    /// What the record says; `None` when it cannot be read now, or the node is told something else meanwhile.
    async fn judge(&mut self) -> Option<Judgement> {
        let orders = self.orders.clone();
        unless_ordered(&orders, self.judge_undisturbed()).await.flatten()
    }

    /// What would stop a running node must be read twice.
    async fn judge_undisturbed(&mut self) -> Option<Judgement> {
        let judgement = self.read().await?;
        if judgement != Judgement::SetAside || self.quarantined {
            return Some(judgement);
        }
        tracing::warn!(instance = %self.id.instance, node = %self.id.node, "no record names the node on this cell; looking again before it is set aside");
        sleep(LOOK_AGAIN).await;
        self.read().await
    }

    async fn read(&mut self) -> Option<Judgement> {
        match evidence::consult(self.context.store.as_ref(), &self.id).await {
            Ok(judgement) => {
                if self.trouble.take().is_some() {
                    tracing::info!(instance = %self.id.instance, node = %self.id.node, "the instance's record can be read again");
                }
                Some(judgement)
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.is_none() {
                    tracing::warn!(instance = %self.id.instance, node = %self.id.node, error = text, "the instance's record cannot be read: the node stays as it is, and is not started when it is down");
                }
                self.trouble = Some(text);
                None
            }
        }
    }

    /// Obeys a judgement by which the node must not run.
    async fn leave(&mut self, judgement: Judgement) {
        match judgement {
            Judgement::Run { .. } => (),
            Judgement::Remove => {
                tracing::warn!(instance = %self.id.instance, node = %self.id.node, "etcd says that the node is gone for good; removing it with its data");
                match self.context.directory.retire(self.id.node) {
                    Ok(()) => self.condemned = true,
                    Err(error) => self.fail("remembering that the node is retired", &error).await,
                }
            }
            Judgement::SetAside => {
                if let Err(error) = self.set_aside().await {
                    self.fail("setting the node aside", &error).await;
                }
            }
        }
    }

    async fn set_aside(&mut self) -> io::Result<()> {
        self.show(NodeState::Stopping);
        self.stop(STOP).await?;
        self.deregister().await;
        let seconds = self.context.unix_time();
        let place = self.context.directory.set_aside(self.id.node, seconds)?;
        self.quarantined = true;
        self.show(NodeState::Quarantined);
        tracing::warn!(instance = %self.id.instance, node = %self.id.node, place = %place.display(), "no record names the node on this cell: it is stopped and its directory set aside; nothing was deleted");
        Ok(())
    }

    /// In quarantine, until something names the node again, or names it as gone for good.
    async fn rest(&mut self) {
        self.show(NodeState::Quarantined);
        match self.judge().await {
            Some(Judgement::Run { .. }) => match self.context.directory.take_back(self.id.node) {
                Ok(()) => {
                    self.quarantined = false;
                    tracing::info!(instance = %self.id.instance, node = %self.id.node, "a record names the node again: it leaves the quarantine");
                }
                Err(error) => self.fail("taking the node out of quarantine", &error).await,
            },
            Some(Judgement::Remove) => self.leave(Judgement::Remove).await,
            Some(Judgement::SetAside) | None => self.pause(CHECK_QUARANTINE).await,
        }
    }

    /// Stops everything that works for the node, cleanly if that is possible in time.
    async fn stop(&mut self, bound: Duration) -> io::Result<()> {
        if let Some(process) = self.context.program.running(&self.directory)? {
            process.signal(Signal::TERM)?;
            if !process.ended_within(bound).await {
                tracing::warn!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, "Patroni did not stop within {} s; it is killed", bound.as_secs());
                process.signal(Signal::KILL)?;
                process.ended_within(Duration::from_secs(10)).await;
            }
        }
        // Also what a paused Patroni leaves running, and what a dead one left behind.
        process::clear(&self.directory.home(), self.context.account.uid()).await?;
        if let Some(mut child) = self.child.take() {
            let _ = child.wait().await;
        }
        Ok(())
    }

    async fn halt(&mut self) -> Life {
        if !self.quarantined {
            self.show(NodeState::Stopping);
            if let Err(error) = self.stop(STOP).await {
                tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "stopping the node failed; some of its processes may be left");
            }
            self.deregister().await;
        }
        Life::Halted
    }

    /// Removes the node with its data, however often that takes.
    async fn remove(&mut self) -> Life {
        self.show(NodeState::Stopping);
        while let Err(error) = self.stop(STOP_FOR_GOOD).await {
            tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "stopping the node failed; it is tried again");
            sleep(RETRY).await;
        }
        self.deregister().await;
        let member = keyspace::member(&self.id.instance, self.id.node);
        self.insist("removing the node's member key", || {
            registrar::remove(self.context.store.as_ref(), &member)
        })
        .await;
        while let Err(error) = self.delete().await {
            tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "deleting the node's data failed; it is tried again");
            sleep(RETRY).await;
        }
        self.context.ports.release(self.id.node);
        tracing::info!(instance = %self.id.instance, node = %self.id.node, "removed the node with its data");
        Life::Removed
    }

    async fn delete(&self) -> io::Result<()> {
        socket::remove(&self.socket_directory(), &self.directory.home())?;
        let (context, node) = (Arc::clone(&self.context), self.id.node);
        tokio::task::spawn_blocking(move || context.directory.delete(node)).await?
    }

    async fn deregister(&self) {
        let store = self.context.store.as_ref();
        self.insist("removing the node's registration", || {
            registrar::deregister(store, &self.id.cell, self.id.node)
        })
        .await;
    }

    /// Tries a few times to tidy up in etcd. It is no reason to keep a node: what stays is swept at the next start, or
    /// runs out by itself.
    async fn insist<F>(&self, doing: &'static str, mut attempt: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        for _ in 0..2 {
            if attempt().await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        if let Err(error) = attempt().await {
            tracing::warn!(instance = %self.id.instance, node = %self.id.node, %error, "{doing} failed; it stays until it is swept or runs out");
        }
    }
}

/// Does something, unless the node is told something meanwhile, or was just now. Leaves the order unseen.
async fn unless_ordered<T>(orders: &watch::Receiver<Order>, work: impl Future<Output = T>) -> Option<T> {
    let mut orders = orders.clone();
    tokio::select! {
        biased;
        _ = orders.changed() => None,
        done = work => Some(done),
    }
}

fn no_port() -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        "no two free ports are left for the node",
    )
}

/// The last line of a file, shortened: enough to see why a program refused to start.
fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .last()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}
