//! HAProxy's command line on a unix socket: of its master process, or of one worker.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::state_directory::StateDirectory;

/// A line that is longer than HAProxy's buffer (16 KiB) is refused.
const LONGEST_LINE: usize = 8_000;

/// Where commands are sent.
#[derive(Debug, Clone)]
pub(crate) struct CommandLine {
    directory: Arc<StateDirectory>,
    socket: String,
}

impl CommandLine {
    /// The command line at a socket in the state directory.
    pub(crate) fn new(directory: Arc<StateDirectory>, socket: String) -> Self {
        Self { directory, socket }
    }

    /// Sends one line and answers everything that comes back. HAProxy runs the commands of one connection in order.
    ///
    /// # Errors
    /// When nobody listens, or the answer is not there within `limit`.
    pub(crate) async fn ask(&self, line: &str, limit: Duration) -> io::Result<String> {
        let path: PathBuf = self.directory.socket(&self.socket);
        let exchange = async {
            let mut stream = UnixStream::connect(path).await?;
            stream.write_all(line.as_bytes()).await?;
            stream.write_all(b"\n").await?;
            // The master keeps the connection until it sees the end.
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "HAProxy does not answer")))
    }
}

/// Joins commands to lines that HAProxy takes.
pub(crate) fn lines(commands: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for command in commands {
        match lines.last_mut() {
            Some(line) if line.len() + command.len() < LONGEST_LINE => {
                line.push(';');
                line.push_str(&command);
            }
            _ => lines.push(command),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_all_commands_in_order_and_are_short_enough() {
        let commands: Vec<_> = (0..1000).map(|number| format!("command {number:050}")).collect();
        let lines = lines(commands.clone());
        assert!(lines.iter().all(|line| line.len() <= LONGEST_LINE));
        let back: Vec<_> = lines.iter().flat_map(|line| line.split(';')).collect();
        assert_eq!(back, commands);
    }
}
