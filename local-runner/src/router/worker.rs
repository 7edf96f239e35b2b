//! The worker process of HAProxy that accepts connections, and its runtime socket.

use std::{io, net::SocketAddr, time::Duration};

use shared::ids::Port;

use super::{
    command_line::{CommandLine, lines},
    haproxy_config::{SERVER, section},
};

/// A worker answers within a millisecond; one that takes longer than this is of no use.
const LIMIT: Duration = Duration::from_secs(5);

/// Why a worker did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// It cannot be reached.
    #[error("HAProxy's worker cannot be reached")]
    Unreachable(#[from] io::Error),
    /// It refused a command.
    #[error("HAProxy's worker refused a command: {0}")]
    Refused(String),
}

/// The worker that accepts connections.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    command_line: CommandLine,
}

impl Worker {
    /// The worker behind a runtime socket.
    pub(crate) fn new(command_line: CommandLine) -> Self {
        Self { command_line }
    }

    /// Whether it answers.
    pub(crate) async fn answers(&self) -> bool {
        let info = self.command_line.ask("show info", LIMIT).await;
        info.is_ok_and(|info| info.contains("Pid:"))
    }

    /// Points ports at other servers, or at none, and ends the sessions that they had.
    ///
    /// # Errors
    /// When it is not certain that all was done.
    pub(crate) async fn point(&self, targets: &[(Port, Option<SocketAddr>)]) -> Result<(), WorkerError> {
        for line in lines(targets.iter().map(|(port, target)| command(*port, *target))) {
            let answer = self.command_line.ask(&line, LIMIT).await?;
            check(&answer)?;
        }
        Ok(())
    }
}

/// New sessions first: a client whose session was ended comes back at once.
fn command(port: Port, target: Option<SocketAddr>) -> String {
    let server = format!("{}/{SERVER}", section(port));
    let point = match target {
        Some(address) => format!(
            "set server {server} addr {} port {};set server {server} state ready",
            address.ip(),
            address.port()
        ),
        None => format!("set server {server} state maint"),
    };
    format!("{point};shutdown sessions server {server}")
}

/// Commands answer nothing, or what they have changed.
fn check(answer: &str) -> Result<(), WorkerError> {
    let done =
        |line: &str| line.is_empty() || line.contains("changed") || line.starts_with("no need to change");
    match answer.lines().map(str::trim).find(|line| !done(line)) {
        None => Ok(()),
        Some(line) => Err(WorkerError::Refused(line.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_gets_its_new_server_before_its_sessions_end() {
        let port = Port::new(31000).unwrap();
        assert_eq!(
            command(port, Some("[::1]:5433".parse().unwrap())),
            "set server instance_31000/leader addr ::1 port 5433;set server instance_31000/leader state ready;\
             shutdown sessions server instance_31000/leader"
        );
        assert_eq!(
            command(port, None),
            "set server instance_31000/leader state maint;shutdown sessions server instance_31000/leader"
        );
    }

    #[test]
    fn refusals_are_told_from_changes() {
        for fine in [
            "",
            "\n\n\n",
            "no need to change the addr, port changed from '21001' to '21002' by 'stats socket command'\n\n\n",
            "no need to change the addr, no need to change the port by 'stats socket command'\n\n",
        ] {
            assert!(check(fine).is_ok(), "{fine:?}");
        }
        for refusal in [
            "No such backend.\n\n",
            "\nNo such server.\n\n",
            "Permission denied\n\n",
            "Proxy is disabled.\n\n",
        ] {
            assert!(check(refusal).is_err(), "{refusal:?}");
        }
    }
}
