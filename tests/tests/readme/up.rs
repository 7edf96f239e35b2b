//! Everything on one machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use tests::{
    binaries::{self, repository_file},
    child::Child,
    osb::Osb,
    ports::free_port,
    processes,
    readme::Shell,
    wait::eventually,
};

use super::{
    START,
    scene::{copy_config, script},
    shown_in,
};

/// The README's line for it.
pub(crate) const LINE: &str = "local-runner up";

#[tokio::test]
async fn everything_comes_up_on_one_machine_and_goes_down_again() {
    assert!(shown_in("README.md").iter().any(|line| line == LINE));
    let directory = tempfile::Builder::new()
        .prefix("pb-")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let mut everything = Everything(directory.path().to_owned());
    let shell = Shell::new(directory.path(), Vec::new());
    copy_config(directory.path(), &shell);
    // The line with this machine's free ports, where a person's `up` may be running.
    let (broker, etcd, cells, public) = (free_port(), free_port(), free_port(), free_port());
    let config = directory.path().join("config/up.yml");
    let example = fs::read_to_string(repository_file("config/bosh-lite.example.yml")).unwrap();
    let example = example.replace("range: 30000-32767", &format!("range: {public}-{public}"));
    fs::write(&config, format!("{example}\ncell: {{api_port: {cells}}}\n")).unwrap();
    let program = format!(
        "#!/bin/sh\nexec {} \"$@\" --port {broker} --etcd-port {etcd} --state-dir {} --config {}\n",
        binaries::path("local-runner"),
        directory.path().join("state").display(),
        config.display()
    );
    script(&directory.path().join("bin/local-runner"), &program);

    let log = directory.path().join("up.log");
    let arguments = ["-c".to_owned(), format!("exec {LINE}")];
    let mut up = Child::start_in(&shell.environment(), "bash", &arguments, &log);
    eventually("everything", START, async || {
        assert!(up.is_running(), "{}", up.last_words());
        let told = fs::read_to_string(&log).unwrap();
        told.contains("Ctrl-C stops everything").then_some(())
    })
    .await;
    let osb = Osb::new(&format!("http://127.0.0.1:{broker}"));
    osb.catalog().await.expect(200);
    up.terminate();
    let left = processes::below(&everything.0);
    assert!(left.is_empty(), "{left:?}");
    everything.0.clear();
}

/// Whatever works below this directory ends with the test.
struct Everything(PathBuf);

impl Drop for Everything {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = processes::kill_below(&self.0);
        }
    }
}
