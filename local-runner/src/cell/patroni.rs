//! One node's Patroni process: finding it, starting it, checking that it can be started at all.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tokio::process::Child;

use crate::durable::write_durably;

use super::{
    account::Account,
    directory::NodeDirectory,
    error::CellError,
    process::{Process, ProcessId, working_in},
};

/// How Patroni is started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    command: Vec<String>,
    account: Account,
    postgres_bin: PathBuf,
}

impl Program {
    /// Finds the programs.
    ///
    /// # Errors
    /// When the command is empty, or PostgreSQL's programs are not where they should be.
    pub(super) fn find(
        command: &[String],
        postgres_bin: Option<&Path>,
        account: &Account,
    ) -> Result<Self, CellError> {
        if command.is_empty() {
            return Err(CellError::Settings(
                "the command that starts Patroni is empty".to_owned(),
            ));
        }
        let postgres_bin = match postgres_bin {
            Some(given) => given.to_owned(),
            None => newest(Path::new("/usr/lib/postgresql")).ok_or_else(|| CellError::Program {
                program: "PostgreSQL".to_owned(),
                reason: "no /usr/lib/postgresql/*/bin holds it: install it, or say where its programs are"
                    .to_owned(),
            })?,
        };
        if !postgres_bin.join("postgres").exists() {
            return Err(CellError::Program {
                program: "PostgreSQL".to_owned(),
                reason: format!("there is no 'postgres' in {}", postgres_bin.display()),
            });
        }
        Ok(Self {
            command: command.to_vec(),
            account: account.clone(),
            postgres_bin,
        })
    }

    /// Where PostgreSQL's programs are.
    pub(super) fn postgres_bin(&self) -> &Path {
        &self.postgres_bin
    }

    /// Runs Patroni once, for its version.
    ///
    /// # Errors
    /// When it does not run as its user.
    pub(super) async fn version(&self) -> Result<String, CellError> {
        let failed = |reason: String| CellError::Program {
            program: self.command.join(" "),
            reason,
        };
        let mut command = self.base(Path::new("/"));
        command
            .arg("--version")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let output = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(30), output)
            .await
            .map_err(|_| failed("it does not answer to --version".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or_default();
            return Err(failed(format!("{}: {last}", output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Finds a node's Patroni that runs already, started by this or an earlier cell.
    pub(super) fn running(&self, directory: &NodeDirectory) -> io::Result<Option<Process>> {
        if let Some(process) = remembered(directory)? {
            return Ok(Some(process));
        }
        // A cell that was killed between starting Patroni and writing down which process it is.
        let (home, file) = (directory.home(), directory.patroni_yml());
        let mut candidates = working_in(&home, self.account.uid())?;
        candidates.retain(|stat| is_patroni(&stat.arguments(), &file));
        // It forks for a moment now and then; the parent is older.
        match candidates.iter().min_by_key(|stat| stat.started()) {
            Some(stat) => Process::open(stat.id()?),
            None => Ok(None),
        }
    }

    /// Starts a node's Patroni.
    pub(super) fn start(&self, directory: &NodeDirectory) -> io::Result<(Process, Child)> {
        let output = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(directory.output())?;
        let mut command = self.base(&directory.home());
        command
            .arg(directory.patroni_yml())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Out of the cell's group, so that Ctrl-C in a terminal reaches the cell only, which then stops it cleanly.
            .process_group(0);
        let child = tokio::process::Command::from(command).spawn()?;
        let ended = || io::Error::other("it ended at once");
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(ended)?;
        let id = ProcessId::of(pid)?.ok_or_else(ended)?;
        write_durably(
            &directory.process_json(),
            &serde_json::to_vec(&id)?,
            0o600,
            |_| Ok(()),
        )?;
        let process = Process::open(id)?.ok_or_else(ended)?;
        Ok((process, child))
    }

    /// The command with its user and environment, without further arguments.
    fn base(&self, home: &Path) -> Command {
        let (program, arguments) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first, rest));
        let mut path = OsString::from(&self.postgres_bin);
        path.push(":/usr/bin:/bin:/usr/sbin:/sbin");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .env("HOME", home)
            // initdb's password file and the like go away with the node.
            .env("TMPDIR", home.join("tmp"))
            .current_dir(home)
            .stdin(Stdio::null());
        self.account.apply(&mut command);
        command
    }
}

/// The process that was written down, if it still runs.
fn remembered(directory: &NodeDirectory) -> io::Result<Option<Process>> {
    let bytes = match std::fs::read(directory.process_json()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // What cannot be read names no process; the search that follows still finds one.
    match serde_json::from_slice(&bytes) {
        Ok(id) => Process::open(id),
        Err(_) => Ok(None),
    }
}

/// Whether a command line is that of a Patroni with this configuration, and not of a tool that is shown the same file.
fn is_patroni(arguments: &[Vec<u8>], file: &Path) -> bool {
    let [_, .., before, last] = arguments else {
        return false;
    };
    last == file.as_os_str().as_bytes() && !before.starts_with(b"-")
}

/// The `bin` directory of the highest version below a directory of versions.
fn newest(versions: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(versions).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: Vec<u32> = entry
                .file_name()
                .to_str()?
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let bin = entry.path().join("bin");
            bin.join("postgres").exists().then_some((version, bin))
        })
        .max()
        .map(|(_, bin)| bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_chosen_by_number() {
        let top = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "8", "README"] {
            std::fs::create_dir_all(top.path().join(version).join("bin")).unwrap();
            std::fs::write(top.path().join(version).join("bin/postgres"), "").unwrap();
        }
        std::fs::create_dir_all(top.path().join("17/bin")).unwrap();
        assert_eq!(newest(top.path()), Some(top.path().join("15/bin")));
        assert_eq!(newest(Path::new("/nowhere")), None);
    }

    #[test]
    fn a_tool_with_the_same_file_is_not_patroni() {
        let file = Path::new("/d/nodes/n/patroni.yml");
        let line =
            |text: &str| -> Vec<Vec<u8>> { text.split(' ').map(|part| part.as_bytes().to_vec()).collect() };
        assert!(is_patroni(
            &line("/usr/bin/python3 /usr/bin/patroni /d/nodes/n/patroni.yml"),
            file
        ));
        assert!(!is_patroni(&line("patronictl -c /d/nodes/n/patroni.yml"), file));
        assert!(!is_patroni(
            &line("patronictl -c /d/nodes/n/patroni.yml list"),
            file
        ));
        assert!(!is_patroni(
            &line("/usr/bin/python3 /usr/bin/patroni /d/nodes/m/patroni.yml"),
            file
        ));
        assert!(!is_patroni(&line("/d/nodes/n/patroni.yml"), file));
    }
}
