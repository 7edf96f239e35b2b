//! The stack's own etcd: one process with the v2 API, its data on disk.
//!
//! **Guarantees.** At most one etcd runs on the directory: one that an earlier `up` left behind is taken over when it
//! answers, and stopped otherwise. Stopped cleanly, it loses nothing; killed, it loses nothing that it confirmed (it
//! syncs every write).
//! **Caveats.** It listens without TLS and password: for loopback addresses. An etcd of somebody else on the same
//! address is not noticed here but by whoever looked at the ports before.

mod error;

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Signal, geteuid};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

pub(crate) use self::error::EtcdError;
use super::component::{Ready, Stop};
use crate::{
    log,
    process::{Process, ProcessId, Stat, working_in},
};

/// How long it may take to answer, with much data on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(15);
/// How long one that was left behind may take to answer before it counts as broken.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For one request.
const REQUEST: Duration = Duration::from_secs(2);
/// It has no peers: this socket in its directory takes no port for them.
const PEER: &str = "unix://peer:0";

/// How etcd is run.
#[derive(Debug, Clone)]
pub(super) struct Etcd {
    /// The program: a path, or a name to look for along `PATH`.
    pub(super) program: PathBuf,
    /// Its own directory, with symbolic links resolved.
    pub(super) directory: PathBuf,
    /// Where clients reach it.
    pub(super) address: SocketAddr,
    /// Its version, as `etcd --version` says.
    pub(super) version: String,
}

/// An etcd process.
struct Running {
    process: Process,
    /// Ours, to be reaped; one that was left behind is not.
    child: Option<Child>,
}

/// What the v2 API answered.
enum Answer {
    Well,
    NoV2,
    Not,
}

impl Etcd {
    /// Finds the program, along `PATH` and where it usually is.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn find(directory: PathBuf, address: SocketAddr) -> Result<Self, EtcdError> {
        let mut refusal = String::new();
        for place in ["etcd", "/usr/bin/etcd", "/usr/local/bin/etcd"] {
            let program = PathBuf::from(place);
            let mut command = tokio::process::Command::from(bare(&program));
            match command.arg("--version").output().await {
                Ok(output) => {
                    if let Some(version) = version(&String::from_utf8_lossy(&output.stdout)) {
                        return Ok(Self {
                            program,
                            directory,
                            address,
                            version,
                        });
                    }
                    refusal = format!("{place} does not tell its version");
                }
                Err(error) if refusal.is_empty() => refusal = format!("{place}: {error}"),
                Err(_) => (),
            }
        }
        Err(EtcdError::Program(refusal))
    }

    /// Where clients reach it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("etcd.log")
    }

    /// Whether an etcd that was left behind serves the address that this one is to serve.
    pub(super) fn serves(&self, stat: &Stat) -> bool {
        let url = self.url();
        stat.arguments().iter().any(|argument| argument == url.as_bytes())
    }

    /// Runs it until it is told to stop.
    ///
    /// # Errors
    /// When it cannot be started, or ends.
    pub(super) async fn run(self, ready: Ready, stop: Stop) -> Result<(), EtcdError> {
        let mut running = match self.take_over().await? {
            Some(running) => running,
            None => self.start().await?,
        };
        let ended = tokio::select! {
            biased;
            () = stop.told() => Ok(()),
            ended = self.attend(&mut running, &ready) => ended,
        };
        self.end(running).await.map_err(|source| self.system(source))?;
        ended
    }

    fn system(&self, source: io::Error) -> EtcdError {
        let directory = self.directory.clone();
        EtcdError::System { directory, source }
    }

    /// Takes over an etcd that an earlier process left behind, or stops it when it is of no use.
    async fn take_over(&self) -> Result<Option<Running>, EtcdError> {
        let system = |source| self.system(source);
        let Some(stat) = left_behind(&self.directory).map_err(system)? else {
            return Ok(None);
        };
        let id = stat.id().map_err(system)?;
        let Some(process) = Process::open(id).map_err(system)? else {
            return Ok(None);
        };
        let running = Running { process, child: None };
        let deadline = Instant::now() + SIGN_OF_LIFE;
        while self.serves(&stat) && Instant::now() < deadline {
            if let Answer::Well = self.ask().await {
                tracing::warn!(
                    pid = running.process.id().pid,
                    "took over the etcd that an earlier process left running"
                );
                return Ok(Some(running));
            }
            sleep(LOOK_AGAIN).await;
        }
        tracing::warn!(
            pid = running.process.id().pid,
            "an earlier process left an etcd running that is of no use; stopping it"
        );
        self.end(running).await.map_err(system)?;
        Ok(None)
    }

    async fn start(&self) -> Result<Running, EtcdError> {
        let mut child = self.spawn().map_err(|source| self.system(source))?;
        match hold(&child).map_err(|source| self.system(source))? {
            Some(process) => {
                let child = Some(child);
                Ok(Running { process, child })
            }
            None => Err(self.obituary(Some(&mut child)).await),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let output = log::append(&self.log())?;
        let url = self.url();
        let mut command = bare(&self.program);
        command
            .args(["--name", "up", "--enable-v2"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER])
            .args(["--initial-cluster", &format!("up={PEER}")])
            .arg("--data-dir")
            .arg(data(&self.directory))
            .current_dir(&self.directory)
            .stdout(output.try_clone()?)
            .stderr(output)
            // Out of this process's group, so that Ctrl-C in a terminal does not reach it: it is stopped last.
            .process_group(0);
        tokio::process::Command::from(command).spawn()
    }

    /// Waits until it answers, says so, and waits for its end.
    async fn attend(&self, running: &mut Running, ready: &Ready) -> Result<(), EtcdError> {
        let answers = tokio::select! {
            biased;
            _ = running.process.ended() => return Err(self.obituary(running.child.as_mut()).await),
            answers = self.answers() => answers,
        };
        answers?;
        tracing::info!(
            url = self.url(),
            version = self.version,
            pid = running.process.id().pid,
            "etcd runs"
        );
        ready.with("");
        drop(running.process.ended().await);
        Err(self.obituary(running.child.as_mut()).await)
    }

    async fn answers(&self) -> Result<(), EtcdError> {
        let deadline = Instant::now() + START;
        loop {
            match self.ask().await {
                Answer::Well => return Ok(()),
                Answer::NoV2 => return Err(self.no_v2()),
                Answer::Not if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                Answer::Not => {
                    return Err(EtcdError::Silent {
                        url: self.url(),
                        log: self.log(),
                    });
                }
            }
        }
    }

    /// One read with a quorum.
    async fn ask(&self) -> Answer {
        let asked = async {
            let client = reqwest::Client::builder().no_proxy().timeout(REQUEST).build()?;
            client
                .get(format!("{}/v2/keys/?quorum=true", self.url()))
                .send()
                .await
        };
        match asked.await.map(|answer| answer.status().as_u16()) {
            Ok(200) => Answer::Well,
            Ok(404) => Answer::NoV2,
            _ => Answer::Not,
        }
    }

    fn no_v2(&self) -> EtcdError {
        EtcdError::NoV2 {
            version: self.version.clone(),
        }
    }

    /// Why it has ended.
    async fn obituary(&self, child: Option<&mut Child>) -> EtcdError {
        let status = match child {
            Some(child) => child.wait().await.map(|status| status.to_string()).ok(),
            None => None,
        };
        let said = last_words(&self.log());
        if said
            .iter()
            .any(|line| line.contains("flag provided but not defined"))
        {
            return self.no_v2();
        }
        EtcdError::Ended {
            status: status.unwrap_or_else(|| "nobody knows how".to_owned()),
            said: said.last().cloned().unwrap_or_default(),
            log: self.log(),
        }
    }

    async fn end(&self, mut running: Running) -> io::Result<()> {
        running.process.signal(Signal::TERM)?;
        // One that was paused would not hear it.
        running.process.signal(Signal::CONT)?;
        if !running.process.ended_within(STOP).await {
            tracing::warn!(
                pid = running.process.id().pid,
                "etcd did not stop within {} s; it is killed",
                STOP.as_secs()
            );
            running.process.signal(Signal::KILL)?;
            running.process.ended_within(STOP).await;
        }
        if let Some(child) = &mut running.child {
            child.wait().await?;
        }
        Ok(())
    }
}

/// The etcd that works in a directory, if there is one.
///
/// # Errors
/// When the processes cannot be looked at.
pub(super) fn left_behind(directory: &Path) -> io::Result<Option<Stat>> {
    // Not by a file that says which process it is: that can be lost or old, and the kernel knows.
    let found = working_in(directory, geteuid().as_raw())?;
    let data = data(directory);
    let is_etcd = |stat: &Stat| {
        let arguments = stat.arguments();
        arguments
            .iter()
            .any(|argument| argument == data.as_os_str().as_bytes())
    };
    Ok(found.into_iter().find(is_etcd))
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Takes hold of a child; `None` when it has ended already.
fn hold(child: &Child) -> io::Result<Option<Process>> {
    let id = match child.id().and_then(|pid| i32::try_from(pid).ok()) {
        Some(pid) => ProcessId::of(pid)?,
        None => None,
    };
    id.map_or(Ok(None), Process::open)
}

/// The program without those variables of the environment in which it would find settings.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"ETCD_") {
            command.env_remove(name);
        }
    }
    // etcd 3.4 runs elsewhere than on amd64 only when it is told to.
    if cfg!(target_arch = "aarch64") {
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    }
    command.stdin(Stdio::null());
    command
}

/// From the first line of `etcd --version`: `etcd Version: 3.4.23`.
fn version(output: &str) -> Option<String> {
    let version = output.lines().next()?.strip_prefix("etcd Version:")?.trim();
    Some(version.to_owned())
}

/// The last lines of a log, shortened.
fn last_words(path: &Path) -> Vec<String> {
    const LINES: usize = 40;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES));
    last.map(|line| line.chars().take(300).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read() {
        assert_eq!(
            version("etcd Version: 3.4.23\nGit SHA: x\n").as_deref(),
            Some("3.4.23")
        );
        assert_eq!(version("bash: etcd: no"), None);
    }
}
