//! Processes, told apart for certain: by number, start time and boot, and signalled through a descriptor.
//!
//! **Guarantees.** A signal reaches the process that was meant or none, also when its number was given to another one
//! meanwhile. A zombie counts as ended.
//! **Assumes.** Linux 5.4 or later, with `/proc`.
//! **Caveats.** "Works in a directory" means: its current directory lies there, and it is the given user's. Everything
//! that Patroni starts inherits that, and PostgreSQL works in its data directory; so does a shell in which somebody of
//! that user looks around, and [`clear`] ends it too.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout},
};

use crate::blocking::blocking;

/// Which process, for certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub(crate) started: u64,
    /// During which run of the kernel.
    pub(crate) boot: String,
}

impl ProcessId {
    /// The process that has this number now; `None` when it has ended.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = read_stat(pid)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid,
            started: stat.started,
            boot: boot()?,
        }))
    }

    /// Whether it has not ended. A zombie has.
    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        Ok(Self::of(self.pid)?.as_ref() == Some(self))
    }
}

/// A process that can be signalled and waited for, whoever its parent is.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    descriptor: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a process; `None` when it has ended.
    pub(crate) fn open(id: ProcessId) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(id.pid) else {
            return Ok(None);
        };
        let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Only now: from here on the descriptor is bound to a process, and this tells whether it is the right one.
        if !id.is_alive()? {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "sound for a descriptor that is owned and never replaced; its successor is unsafe"
        )]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Some(Self { id, descriptor }))
    }

    /// Which one it is.
    pub(crate) fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Sends a signal. That it has ended already is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it has ended. Cancel-safe.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.descriptor.readable().await.map(drop)
    }

    /// Waits until it has ended, or a time is over; answers whether it has.
    pub(crate) async fn ended_within(&self, bound: Duration) -> bool {
        matches!(timeout(bound, self.ended()).await, Ok(Ok(())))
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pid: i32,
    command: String,
    parent: i32,
    started: u64,
}

impl Stat {
    fn is_postgres(&self) -> bool {
        self.command == "postgres"
    }

    /// Whether both are the same process; its parent and its command may have changed.
    fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// What it is among `all` processes that it belongs to.
    pub(crate) fn kind(&self, all: &[Self]) -> Kind {
        let started_it = |other: &Self| other.is_postgres() && other.pid == self.parent;
        if all.iter().any(started_it) {
            Kind::PostgresChild
        } else if self.is_postgres() {
            Kind::Postmaster
        } else {
            Kind::Other
        }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Which process it is.
    pub(crate) fn id(&self) -> io::Result<ProcessId> {
        Ok(ProcessId {
            pid: self.pid,
            started: self.started,
            boot: boot()?,
        })
    }

    /// When it started, in clock ticks since boot.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Its arguments, the program first.
    pub(crate) fn arguments(&self) -> Vec<Vec<u8>> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }
}

/// What a process is to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its first process.
    Postmaster,
    /// Started by it.
    PostgresChild,
    /// Something else.
    Other,
}

/// One line of `/proc/<pid>/stat`; `None` for a process that has ended, or is a zombie.
fn parse_stat(line: &str) -> Option<Stat> {
    // The command may hold anything, blanks and parentheses included.
    let (pid, rest) = line.split_once(" (")?;
    let (command, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X" | "x") {
        return None;
    }
    Some(Stat {
        pid: pid.parse().ok()?,
        command: command.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// What is known of the process that has this number now; `None` when it has ended.
pub(crate) fn read_stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(line) => Ok(parse_stat(&line)),
        Err(error) if has_ended(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Which processes of a user work in a directory or below it. Those that cannot be looked at do not count.
pub(crate) fn working_in(directory: &Path, uid: u32) -> io::Result<Vec<Stat>> {
    walk(directory, uid, |_| Ok(false))
}

/// The same, for whoever concludes something from there being none.
///
/// # Errors
/// When a process of the user cannot be looked at, or what is seen are the processes of another PID namespace.
pub(crate) fn certainly_working_in(directory: &Path, uid: u32) -> io::Result<Vec<Stat>> {
    let own = fs::read_link("/proc/self")?;
    if own.to_str().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Err(io::Error::other("/proc is that of another PID namespace"));
    }
    walk(directory, uid, |error| {
        if has_ended(&error) { Ok(false) } else { Err(error) }
    })
}

/// `unseen`: whether a process counts although looking at it has failed.
fn walk(directory: &Path, uid: u32, unseen: impl Fn(io::Error) -> io::Result<bool>) -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at is none.
        let owned = entry.metadata().map(|metadata| metadata.uid() == uid);
        if !owned.or_else(&unseen)? {
            continue;
        }
        let works_there = fs::read_link(entry.path().join("cwd")).map(|cwd| cwd.starts_with(directory));
        if works_there.or_else(&unseen)? {
            found.extend(read_stat(pid)?);
        }
    }
    Ok(found)
}

/// One of these looks at the process table, which takes its time on a busy machine.
pub(crate) async fn look(
    directory: &Path,
    uid: u32,
    scan: fn(&Path, u32) -> io::Result<Vec<Stat>>,
) -> io::Result<Vec<Stat>> {
    let directory = directory.to_owned();
    blocking(move || scan(&directory, uid)).await
}

/// Those of the processes in a directory that a Patroni which died left behind half-way: an `initdb` or a
/// `pg_basebackup` would go on writing below the next one. PostgreSQL itself, and what it started, are not among them.
fn stragglers(directory: &Path, uid: u32) -> io::Result<Vec<Stat>> {
    let all = working_in(directory, uid)?;
    let is_server = |pid: i32| all.iter().any(|other| other.pid == pid && other.is_postgres());
    let left = |stat: &&Stat| !stat.is_postgres() && !is_server(stat.parent);
    Ok(all.iter().filter(left).cloned().collect())
}

/// Ends what a dead Patroni left behind half-way, but not PostgreSQL.
pub(crate) async fn clear_stragglers(directory: &Path, uid: u32) -> io::Result<()> {
    for attempt in 0..20 {
        let left = look(directory, uid, stragglers).await?;
        if left.is_empty() {
            return Ok(());
        }
        let signal = if attempt == 0 { Signal::TERM } else { Signal::KILL };
        end(&left, |_| signal, Duration::from_secs(1)).await?;
    }
    Err(io::Error::other(
        "leftovers of an earlier Patroni process do not end",
    ))
}

/// Ends everything of a user that works in a directory: PostgreSQL by a fast shutdown, then by an immediate one, then
/// all of it by force.
///
/// # Errors
/// When something does not even end by force.
pub(crate) async fn clear(directory: &Path, uid: u32) -> io::Result<()> {
    let fast = |stat: &Stat| {
        if stat.is_postgres() {
            Signal::INT
        } else {
            Signal::TERM
        }
    };
    let immediate = |stat: &Stat| {
        if stat.is_postgres() {
            Signal::QUIT
        } else {
            Signal::KILL
        }
    };
    end(&look(directory, uid, tops).await?, fast, Duration::from_secs(10)).await?;
    end(
        &look(directory, uid, tops).await?,
        immediate,
        Duration::from_secs(5),
    )
    .await?;
    for _ in 0..20 {
        let left = look(directory, uid, working_in).await?;
        if left.is_empty() {
            return Ok(());
        }
        end(&left, |_| Signal::KILL, Duration::from_secs(1)).await?;
    }
    Err(io::Error::other("some processes do not even end by force"))
}

/// Ends by force those of a user that work in a directory and are `known`: Patroni first, so that it does not start again
/// what it finds dead. Answers whether nothing is left, of which two looks in a row must agree: what somebody started
/// meanwhile is left alone, and so is what does not end within the bound (it may be waiting for a disk).
///
/// # Errors
/// As of [`certainly_working_in`], and when something cannot be signalled.
pub(crate) async fn kill_known(
    known: &[Stat],
    directory: &Path,
    uid: u32,
    bound: Duration,
) -> io::Result<bool> {
    let deadline = Instant::now() + bound;
    let mut empty = 0;
    while empty < 2 {
        let mut left = look(directory, uid, certainly_working_in).await?;
        if left.is_empty() {
            empty += 1;
            continue;
        }
        let is_known = |stat: &Stat| known.iter().any(|other| stat.is_same(other));
        if !left.iter().all(is_known) || Instant::now() >= deadline {
            return Ok(false);
        }
        empty = 0;
        left.sort_by_key(Stat::is_postgres);
        end(&left, |_| Signal::KILL, Duration::from_millis(100)).await?;
    }
    Ok(true)
}

/// The processes in a directory that no other process in it is the parent of: of PostgreSQL its postmaster.
fn tops(directory: &Path, uid: u32) -> io::Result<Vec<Stat>> {
    let all = working_in(directory, uid)?;
    let is_top = |stat: &&Stat| !all.iter().any(|other| other.pid == stat.parent);
    Ok(all.iter().filter(is_top).cloned().collect())
}

/// Signals processes and waits a while for all of them to end.
async fn end(stats: &[Stat], signal: impl Fn(&Stat) -> Signal, bound: Duration) -> io::Result<()> {
    let mut signalled = Vec::new();
    for stat in stats {
        if let Some(process) = Process::open(stat.id()?)? {
            process.signal(signal(stat))?;
            signalled.push(process);
        }
    }
    // That some do not end in time is seen by whoever looks next.
    let _ = timeout(bound, async {
        for process in &signalled {
            let _ = process.ended().await;
        }
    })
    .await;
    Ok(())
}

#[cfg(test)]
mod tests;
