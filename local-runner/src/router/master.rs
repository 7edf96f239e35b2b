//! The master process of HAProxy: it reloads the configuration, and passes commands on to workers, also to those that
//! were replaced and only wait for their last sessions to end.

use std::{
    io,
    time::{Duration, Instant},
};

use shared::ids::Port;
use tokio::time::sleep;

use super::{
    command_line::{CommandLine, lines},
    haproxy_config::{Targets, port_of},
    session,
};

/// The master answers at once, but not while it loads a configuration.
const LIMIT: Duration = Duration::from_secs(3);
/// How long it may take to listen again after a load.
const SETTLING: Duration = Duration::from_secs(10);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(5);
/// How long HAProxy may take to load a configuration: 10,000 instances take about a second on an idle machine.
pub(crate) const LOADING: Duration = Duration::from_secs(30);

/// The processes of HAProxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Processes {
    /// How many reloads have failed in a row.
    pub(crate) failed_reloads: u32,
    /// The worker that accepts connections.
    pub(crate) current: Vec<i32>,
    /// Those that were replaced.
    pub(crate) former: Vec<i32>,
}

/// The master's command line.
#[derive(Debug, Clone)]
pub(crate) struct Master {
    command_line: CommandLine,
}

impl Master {
    /// The master behind its socket.
    pub(crate) fn new(command_line: CommandLine) -> Self {
        Self { command_line }
    }

    /// Which processes there are.
    ///
    /// # Errors
    /// When the master does not answer now.
    pub(crate) async fn processes(&self) -> io::Result<Processes> {
        let answer = self.command_line.ask("show proc", LIMIT).await?;
        processes(&answer).ok_or_else(|| io::Error::other("HAProxy's master does not name its processes"))
    }

    /// Which processes there are, as soon as the master answers: for a moment after a load it does not listen yet.
    ///
    /// # Errors
    /// When the master does not answer within `limit`.
    pub(crate) async fn settled(&self, limit: Duration) -> io::Result<Processes> {
        let deadline = Instant::now() + limit;
        loop {
            match self.processes().await {
                Ok(processes) => return Ok(processes),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Asks for a reload. How it goes is not in the answer.
    ///
    /// # Errors
    /// When the master does not answer for long.
    pub(crate) async fn reload(&self) -> io::Result<()> {
        self.settled(SETTLING).await?;
        // Versions before 2.7 cut the connection when they begin; later ones answer when all is done.
        let _ = self.command_line.ask("reload", LOADING).await;
        Ok(())
    }

    /// The ports that a worker listens on, or that it listened on last.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn ports(&self, worker: i32) -> io::Result<Vec<Port>> {
        let answer = self.ask(worker, "show servers state").await?;
        let sections = answer.lines().filter_map(|line| line.split_whitespace().nth(1));
        Ok(sections.filter_map(port_of).collect())
    }

    /// Ends the sessions of workers that were replaced, unless they go where `targets` say. Answers how many it has
    /// ended, and whether there still are such workers.
    ///
    /// # Errors
    /// When the master does not answer.
    pub(crate) async fn sweep(&self, targets: &Targets) -> io::Result<(usize, bool)> {
        let processes = self.settled(SETTLING).await?;
        let mut ended = 0;
        for worker in &processes.former {
            // `shutdown sessions server` is refused by a worker that has stopped listening: each one by its name.
            let listing = self.ask(*worker, "show sess all").await?;
            let stale = session::parse(&listing).into_iter().filter(|session| {
                let wanted = targets.get(&session.port).copied().flatten();
                wanted.is_none() || session.server != wanted
            });
            let commands: Vec<_> = stale
                .map(|session| format!("@!{worker} shutdown session {}", session.id))
                .collect();
            ended += commands.len();
            for line in lines(commands) {
                self.command_line.ask(&line, LIMIT).await?;
            }
        }
        Ok((ended, !processes.former.is_empty()))
    }

    async fn ask(&self, worker: i32, command: &str) -> io::Result<String> {
        self.command_line
            .ask(&format!("@!{worker} {command}"), LIMIT)
            .await
    }
}

/// Reads `show proc`.
fn processes(answer: &str) -> Option<Processes> {
    let mut processes = Processes::default();
    let mut former = false;
    let mut found = false;
    for line in answer.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#", "workers"] => former = false,
            ["#", "old", "workers"] => former = true,
            [_, "master", rest @ ..] => {
                found = true;
                let failed = rest.iter().position(|word| *word == "[failed:");
                let failed = failed.and_then(|at| rest.get(at + 1)?.trim_end_matches(']').parse().ok());
                processes.failed_reloads = failed.unwrap_or(0);
            }
            [pid, "worker", ..] => {
                let pids = if former {
                    &mut processes.former
                } else {
                    &mut processes.current
                };
                pids.extend(pid.parse::<i32>());
            }
            _ => {}
        }
    }
    found.then_some(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_as_haproxy_2_6_prints_them() {
        let text = "\
#<PID>          <type>          <reloads>       <uptime>        <version>
10937           master          2 [failed: 1]   0d00h00m00s     2.6.12-1+deb12u4
# workers
10952           worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
10943           worker          1               0d00h00m00s     2.6.12-1+deb12u4
10944           worker          2               0d00h00m00s     2.6.12-1+deb12u4
# programs

";
        let expected = Processes {
            failed_reloads: 1,
            current: vec![10952],
            former: vec![10943, 10944],
        };
        assert_eq!(processes(text), Some(expected));
        assert_eq!(processes(""), None);
    }

    #[test]
    fn processes_are_read_as_haproxy_2_4_prints_them() {
        let text = "\
#<PID>          <type>          <relative PID>  <reloads>       <uptime>        <version>
1162            master          0               5               0d00h02m07s     2.4.0
# workers
1271            worker          1               0               0d00h00m00s     2.4.0
";
        let expected = Processes {
            failed_reloads: 0,
            current: vec![1271],
            former: vec![],
        };
        assert_eq!(processes(text), Some(expected));
    }
}
