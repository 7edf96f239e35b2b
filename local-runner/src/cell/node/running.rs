//! A node while its Patroni is started, runs and dies.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use shared::{
    cell_api::{NodeParameters, NodeState},
    record::FIRST_GENERATION,
};
use tokio::time::{Instant, sleep_until};

use super::{
    super::{
        directory::NodeFile,
        failover,
        judgement::Judgement,
        patroni_rest::{self, TakenOver},
        patroni_yaml::Configuration,
        process::{self, Process},
        registrar, socket,
    },
    FIRST_DELAY, Keeper, LAST_DELAY, RETRY, lockout, unless_ordered,
};
use crate::blocking::blocking;

/// Patroni dies of a SIGHUP that comes before it listens to it.
const YOUNG: Duration = Duration::from_secs(5);
/// How often a running node's registration is looked at.
const REGISTRATION: Duration = Duration::from_secs(60);
/// A Patroni that lived this long died for a new reason.
const HEALTHY: Duration = Duration::from_secs(60);
/// Before Patroni is asked again for something that it does within a loop.
const SOON: Duration = Duration::from_secs(1);
/// How many looks, [`SOON`] after each other, a Patroni is given that does not reach its PostgreSQL.
const STUCK: u32 = 10;
/// How long Patroni is not made to read its file for the sake of a PostgreSQL that starts. What else is in the file must
/// reach it at last, and a replica that is locked out by this is found later.
const HOLD: Duration = Duration::from_secs(60);
/// How often the record is read while Patroni runs.
const CHECK: Duration = Duration::from_secs(10);

/// A Patroni that runs.
pub(super) struct Running {
    process: Process,
    since: Instant,
    /// Since when it may not know what its configuration file says.
    reload_due: Option<Instant>,
    /// How many times in a row it was found to have taken passwords over half.
    stuck: u32,
}

/// Why a node's task looks up from waiting.
enum Woken {
    Ended,
    Order,
    Check,
}

impl Running {
    /// One that was found running: whether it knows its configuration file as it is now is not certain.
    pub(super) fn adopted(process: Process) -> Self {
        Self {
            process,
            since: Instant::now(),
            reload_due: Some(Instant::now()),
            stuck: 0,
        }
    }
}

impl Keeper {
    pub(super) async fn start(&mut self, nofailover: bool) {
        self.nofailover = nofailover;
        let postgresql_runs = match self.prepare().await {
            Ok(runs) => runs,
            Err(error) => return self.fail("preparing the start of its Patroni", &error).await,
        };
        // PostgreSQL may have gone on without Patroni, and have been killed since it was looked at last.
        if self.give_up_place().await.is_none() {
            return;
        }
        let (process, child) = match self.context.program.start(&self.directory) {
            Ok(started) => started,
            Err(error) => return self.fail("starting its Patroni", &error).await,
        };
        // Whether it gets in to a PostgreSQL that has gone on is to be seen.
        self.in_force = match postgresql_runs {
            true => 0,
            false => self.file.parameters.credential_generation,
        };
        tracing::info!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, address = self.address(), "started Patroni");
        self.child = Some(child);
        self.attend(Running {
            process,
            since: Instant::now(),
            reload_due: None,
            stuck: 0,
        })
        .await;
    }

    /// Takes over the passwords that the cell was told, if they are later ones. They are on disk before anything has them.
    async fn take_over(&mut self) -> io::Result<()> {
        let told = self.told.borrow_and_update().clone();
        let own = &self.file.parameters;
        let Some(told) = told.filter(|told| told.credential_generation > own.credential_generation) else {
            return Ok(());
        };
        let file = NodeFile {
            parameters: NodeParameters {
                patroni_config: own.patroni_config.clone(),
                ..told
            },
            ..self.file.clone()
        };
        self.write_down(&file).await?;
        self.file = file;
        let generation = self.file.parameters.credential_generation;
        tracing::info!(instance = %self.id.instance, node = %self.id.node, generation, "took other passwords over");
        Ok(())
    }

    /// Writes down what the cell was told of the node.
    async fn write_down(&self, file: &NodeFile) -> io::Result<()> {
        let (node, file) = (self.id.node, file.clone());
        self.context.on_disk(move |disk| disk.update(node, &file)).await
    }

    /// Writes Patroni's configuration.
    async fn configure(&self, text: String) -> io::Result<()> {
        let node = self.id.node;
        self.context
            .on_disk(move |disk| disk.write_patroni_yml(node, &text))
            .await
    }

    /// Everything that must be in place before Patroni starts. Answers whether PostgreSQL runs already.
    async fn prepare(&mut self) -> io::Result<bool> {
        self.take_over().await?;
        let (home, uid) = (self.directory.home(), self.context.account.uid());
        process::clear_stragglers(&home, uid).await?;
        let address = self.context.settings.address;
        let mut postgresql_runs = !process::look(&home, uid, process::working_in).await?.is_empty();
        if postgresql_runs && self.is_locked_out().await {
            tracing::warn!(instance = %self.id.instance, node = %self.id.node, "PostgreSQL refuses the passwords that its leader has; it is stopped, to be started as that one's replica");
            self.witness.settle();
            process::clear(&home, uid).await?;
            postgresql_runs = false;
        }
        if !postgresql_runs && !self.file.ports.is_free(address) {
            let first = self.context.settings.first_port;
            let pair = self
                .context
                .ports
                .claim(self.id.node, address, first)
                .ok_or_else(no_port)?;
            tracing::warn!(instance = %self.id.instance, node = %self.id.node, old = self.file.ports.postgresql, new = pair.postgresql, "the node's ports are in use by another program; it moves to others");
            self.file.ports = pair;
            self.write_down(&self.file).await?;
            self.show(NodeState::Waiting);
        }
        socket::prepare(&self.socket_directory(), &self.context.account)?;
        self.configure(self.configuration()).await?;
        Ok(postgresql_runs)
    }

    /// Whether nothing but a start of PostgreSQL helps, as Patroni has died more than once over the one that runs.
    async fn is_locked_out(&self) -> bool {
        let (store, address) = (self.context.store.as_ref(), self.context.settings.address);
        self.has_other_passwords()
            && self.delay > 2 * FIRST_DELAY
            && lockout::is_locked_out(store, address, &self.file).await
    }

    pub(super) fn socket_directory(&self) -> PathBuf {
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
    pub(super) async fn attend(&mut self, mut running: Running) {
        self.show(NodeState::Running);
        self.witness.look();
        let mut registration = Instant::now();
        let mut check = Instant::now() + CHECK;
        loop {
            if Instant::now() >= registration {
                let done = unless_ordered(&self.orders, self.register()).await == Some(true);
                registration = Instant::now() + if done { REGISTRATION } else { RETRY };
            }
            let woken = tokio::select! {
                _ = running.process.ended() => Woken::Ended,
                () = self.witness.tend() => continue,
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
                    if let Err(error) = self.reconfigure(&mut running).await {
                        tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "changing Patroni's configuration failed; it is tried again");
                        check = Instant::now() + YOUNG;
                    } else if running.reload_due.is_some() {
                        check = Instant::now() + YOUNG;
                    } else if !self.has_passwords(&mut running).await {
                        check = Instant::now() + SOON;
                    }
                }
                Some(other) => return self.leave(other).await,
                None => (),
            }
        }
    }

    /// Whether Patroni has the passwords of its configuration file.
    async fn has_passwords(&mut self, running: &mut Running) -> bool {
        let wanted = &self.file.parameters;
        let generation = wanted.credential_generation;
        if self.in_force < generation {
            let address = self.context.settings.advertised(self.file.ports.rest);
            let asked = patroni_rest::taken_over(&self.context.http, &address, &wanted.restapi_password);
            match unless_ordered(&self.orders, asked).await {
                Some(TakenOver::Everything) => {
                    self.in_force = generation;
                    self.show(NodeState::Running);
                }
                // What has never changed cannot be taken over half.
                Some(TakenOver::Api) if self.has_other_passwords() => {
                    running.stuck += 1;
                    if running.stuck == STUCK {
                        tracing::warn!(instance = %self.id.instance, node = %self.id.node, "Patroni has other passwords and does not reach its PostgreSQL; it is started again, PostgreSQL goes on");
                        if let Err(error) = running.process.signal(Signal::KILL) {
                            tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "Patroni could not be ended");
                        }
                    }
                    return false;
                }
                Some(TakenOver::Api | TakenOver::Nothing) => {
                    running.stuck = 0;
                    return false;
                }
                Some(TakenOver::Unanswered) | None => return false,
            }
        }
        true
    }

    /// Writes Patroni's configuration when it is another one now, and makes Patroni read it.
    async fn reconfigure(&mut self, running: &mut Running) -> io::Result<()> {
        self.take_over().await?;
        let (text, written) = (self.configuration(), self.directory.patroni_yml());
        let written = blocking(move || Ok(fs::read(written).ok())).await?;
        if written.as_deref() != Some(text.as_bytes()) {
            self.configure(text).await?;
            running.reload_due = Some(Instant::now());
            tracing::info!(instance = %self.id.instance, node = %self.id.node, nofailover = self.nofailover, "changed Patroni's configuration");
        }
        if let Some(due) = running.reload_due
            && running.since.elapsed() >= YOUNG
            && (due.elapsed() >= HOLD || !self.waits_for_postgresql().await)
        {
            running.process.signal(Signal::HUP)?;
            running.reload_due = None;
        }
        Ok(())
    }

    /// Whether other passwords may be due, and PostgreSQL still starts. Its roles may be as they were before it stopped: a
    /// Patroni that took the new passwords over meanwhile could not ask it any more once it has started, and so would not tell
    /// it how to follow the leader, from where the roles come.
    async fn waits_for_postgresql(&self) -> bool {
        if !self.has_other_passwords() || self.in_force >= self.file.parameters.credential_generation {
            return false;
        }
        let address = self.context.settings.advertised(self.file.ports.rest);
        let asked = patroni_rest::may_be_starting(&self.context.http, &address);
        unless_ordered(&self.orders, asked).await.unwrap_or(true)
    }

    /// Whether the passwords are not the first that the instance had.
    fn has_other_passwords(&self) -> bool {
        self.file.parameters.credential_generation > FIRST_GENERATION
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
        if running.since.elapsed() >= HEALTHY && running.stuck < STUCK {
            self.delay = FIRST_DELAY;
        }
        let restart = Instant::now() + self.delay;
        tracing::warn!(
            instance = %self.id.instance,
            node = %self.id.node,
            pid = running.process.id().pid,
            status = status.unwrap_or_else(|| "unknown".to_owned()),
            said = last_line(&self.directory.output()),
            log = %self.directory.home().join("log").display(),
            "Patroni died; starting it again in {} s", self.delay.as_secs()
        );
        self.delay = (self.delay * 2).min(LAST_DELAY);
        // It may have been killed a moment before PostgreSQL is. Later than this, that is seen when Patroni is started.
        tokio::select! {
            () = self.witness.ended() => {
                if self.give_up_place().await.is_some() {
                    self.pause(restart.saturating_duration_since(Instant::now())).await;
                }
            }
            () = sleep_until(restart) => {}
            _ = self.orders.changed() => {}
            () = self.nudge.notified() => {}
        }
    }

    /// Lets a replica take over at once, if PostgreSQL was killed and that is right; `None` when the node was told something
    /// meanwhile.
    async fn give_up_place(&mut self) -> Option<()> {
        let attempt = failover::attempt(&self.context, &self.id, &self.directory, &mut self.witness);
        unless_ordered(&self.orders, attempt).await
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
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .last()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}
