//! The commands of the README and of the operator's guide, as they stand, against running installations.
//!
//! They are run line by line, in their order, in a copy of `config/`. Nothing is replaced in them but the placeholders
//! `<node>` and `<host>`; in what they export, and in files, addresses and directories are. In place of `watch` there is a
//! script that ends when the operation has ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod guide;
mod lines;
mod scene;
mod up;

use std::{fs, time::Duration};

use tests::{binaries::repository_file, osb::Osb, readme::commands, wait::eventually};

use self::{lines::LINES, scene::Scene};

/// How long a server may take to do something on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The commands of a document, without those that are for the whole repository: what `make` starts is tested elsewhere,
/// and the PATH is the test's own. Nor are those run that need a container engine or another architecture.
fn shown_in(document: &str) -> Vec<String> {
    let text = fs::read_to_string(repository_file(document)).unwrap();
    let lines = commands(&text).into_iter();
    let others = ["make ", "export PATH=", "podman ", "rustup "];
    lines
        .filter(|line| !line.is_empty() && !others.iter().any(|other| line.starts_with(other)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_do_what_it_says() {
    let mut scene = Scene::start().await;
    let before = scene.stack.keys();
    let mut checks = LINES.iter();
    for line in shown_in("README.md") {
        eprintln!("$ {line}");
        match line.as_str() {
            // The other test's.
            up::LINE => {}
            "dingo-postgresql-broker broker" => {
                scene.serve(&line);
                let osb = Osb::new(&format!("http://{}:8888", scene.stack.address(20)));
                eventually("the broker", START, async || {
                    let request = osb.bare(reqwest::Method::GET, "/v2/catalog");
                    request.send().await.ok().map(drop)
                })
                .await;
            }
            "dingo-postgresql-broker service-status --watch" => {
                let log = scene.serve(&line);
                eventually("a second look", START, async || {
                    let text = fs::read_to_string(&log).unwrap();
                    (text.matches(" master running\n").count() >= 2).then_some(())
                })
                .await;
                scene.servers.pop().unwrap().terminate();
            }
            _ => {
                let (known_by, check) = checks.next().unwrap_or_else(|| panic!("nothing checks: {line}"));
                assert!(
                    line.starts_with(known_by),
                    "this line is checked:\n{known_by}\nThis one comes:\n{line}"
                );
                let filled = scene.filled(&line);
                let told = tokio::task::block_in_place(|| scene.shell.run(&filled));
                check(&mut scene, &told);
            }
        }
    }
    assert_eq!(
        checks.next().map(|(line, _)| *line),
        None,
        "the README lacks a line"
    );
    scene.servers.clear();
    scene.stack.assert_gone(&before).await;
}
