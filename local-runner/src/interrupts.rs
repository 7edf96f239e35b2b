//! Being asked to stop: Ctrl-C, SIGTERM, and the end of the terminal.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that come closer together are one request: `timeout` and others signal a process and then its group.
const ECHO: Duration = Duration::from_millis(250);

/// The signals that ask the process to stop, each time they come.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under `nohup`, which is to outlive the terminal.
    hangup: Option<Signal>,
    last: Option<Instant>,
}

impl Interrupts {
    /// From here on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> io::Result<Self> {
        let hangup = if is_ignored(SignalKind::hangup()) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            last: None,
        })
    }

    /// Waits until the process is asked to stop, after the last time that this returned. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        loop {
            self.signal().await;
            if self.last.is_none_or(|last| last.elapsed() >= ECHO) {
                self.last = Some(Instant::now());
                return;
            }
        }
    }

    async fn signal(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            () = hangup => (),
        }
    }
}

/// Whether whoever started this process had it ignore a signal.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, kind.as_raw_value())
}

/// The same from the text of `/proc/<pid>/status`.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let bit = u32::try_from(signal - 1)
        .ok()
        .and_then(|bit| 1_u64.checked_shl(bit));
    mask.zip(bit).is_some_and(|(mask, bit)| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000004\n";
        assert!(ignores(status, 1) && ignores(status, 13));
        assert!(!ignores(status, 2) && !ignores(status, 3) && !ignores("", 1));
    }
}
