//! The place where lines are run.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    binaries::{self, repository_file},
    child::Child,
    readme::Shell,
    stack::{Options, Stack},
};

/// Shows each new answer, like `watch`; ends when the operation has.
const WATCH: &str = r#"#!/bin/bash
while true; do
  if answer=$("$@"); then
    [ "$answer" = "$last" ] || echo "$answer"
    last=$answer
    [[ $answer == *'"in progress"'* ]] || exit 0
  fi
  sleep 0.2
done
"#;

/// The place where lines are run, and what is known about what they have done.
pub(crate) struct Scene {
    pub(crate) stack: Stack,
    pub(crate) shell: Shell,
    pub(crate) directory: PathBuf,
    pub(crate) servers: Vec<Child>,
    /// The credentials of the binding `test` of `b1`.
    pub(crate) bound: Option<Value>,
}

impl Scene {
    /// Four cells, a router and a lenient broker.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options {
            zones: vec!["z1", "z1", "z2", "z2"],
            lenient: true,
            ..Options::default()
        })
        .await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let stack = Stack::start(options).await;
        let etcd = stack.etcd.url().trim_start_matches("http://").to_owned();
        // Where the README says that `up` is, there is the stack; and there is a broker that the README starts.
        let (first, second) = (stack.address(10), stack.address(20));
        let mut addresses = vec![
            ("10.244.21.4:4001", etcd.clone()),
            ("127.0.0.1:4001", etcd),
            ("127.0.0.1", first),
            ("10.244.21.4", second.clone()),
            ("0.0.0.0", second),
            ("10.244.21.2", stack.address(1)),
        ];
        let cells = stack.cells.iter().map(|cell| cell.guid.clone());
        addresses.extend(
            ["10.244.21.6", "10.244.21.7", "10.244.21.8", "10.244.21.9"]
                .into_iter()
                .zip(cells),
        );
        let directory = stack.directory().join("readme");
        let path = |below: &str| directory.join(below).display().to_string();
        addresses.extend([
            ("10.244.21.10", stack.address(110)),
            ("/usr/local/bin", path("bin")),
            ("/etc/patroni-broker", path("config")),
            ("/var/lib/patroni-broker", path("var")),
        ]);
        let shell = Shell::new(&directory, addresses);
        copy_config(&directory, &shell);
        let program = binaries::path("local-runner");
        for name in ["local-runner", "dingo-postgresql-broker"] {
            symlink(&program, directory.join("bin").join(name)).unwrap();
        }
        script(&directory.join("bin/watch"), WATCH);
        Self {
            stack,
            shell,
            directory,
            servers: Vec::new(),
            bound: None,
        }
    }

    /// Starts a line that does not end by itself; answers where it prints.
    pub(crate) fn serve(&mut self, line: &str) -> PathBuf {
        self.serve_with(line, &[])
    }

    /// The same with more variables.
    pub(crate) fn serve_with(&mut self, line: &str, variables: &[(&str, &str)]) -> PathBuf {
        let log = self
            .stack
            .directory()
            .join(format!("logs/readme-{}.log", self.servers.len()));
        let there = self.directory.display();
        let arguments = ["-c".to_owned(), format!("cd {there} && exec {line}")];
        let mut environment = self.shell.environment();
        let more = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        environment.extend(more);
        let server = Child::start_in(&environment, "bash", &arguments, &log);
        self.servers.push(server);
        log
    }

    /// A line with real names in the places of `<node>` and `<host>`.
    pub(crate) fn filled(&self, line: &str) -> String {
        let record = self.stack.record("f1");
        let Some((node, placed)) = record.as_ref().and_then(|record| record.nodes.iter().next()) else {
            return line.to_owned();
        };
        line.replace("<node>", &node.to_string())
            .replace("<host>", placed.cell.as_str())
    }

    pub(crate) fn assert_nodes(&self, instance: &str, count: usize) {
        assert_eq!(
            self.stack.record(instance).unwrap().nodes.len(),
            count,
            "{instance}"
        );
    }
}

pub(crate) fn copy_config(directory: &Path, shell: &Shell) {
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::create_dir(directory.join("config")).unwrap();
    for entry in fs::read_dir(repository_file("config")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            continue;
        }
        let to = directory.join("config").join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        if to.extension().is_some_and(|extension| extension == "yml") {
            let text = fs::read_to_string(&to).unwrap();
            fs::write(&to, shell.localized(&text)).unwrap();
        }
    }
}

pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}
