//! The README's commands, as they stand, against a running installation.
//!
//! They are run line by line, in the README's order, in a copy of `config/`. Nothing is replaced in them but the
//! placeholders `<node>` and `<host>`; in what they export, and in the configuration file, addresses are. In place of
//! `watch` there is a script that ends when the operation has ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tests::{
    binaries::{self, repository_file},
    child::Child,
    osb::Osb,
    ports::free_port,
    processes,
    readme::{Shell, Told, commands},
    stack::{Options, Stack},
    wait::eventually,
};

/// How long a server may take to do something on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Everything on one machine.
const UP: &str = "local-runner up";

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
struct Scene {
    stack: Stack,
    shell: Shell,
    directory: PathBuf,
    servers: Vec<Child>,
    /// The credentials of the binding `test` of `b1`.
    bound: Option<Value>,
}

impl Scene {
    async fn start() -> Self {
        let stack = Stack::start(Options {
            zones: vec!["z1", "z1", "z2", "z2"],
            lenient: true,
            ..Options::default()
        })
        .await;
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
    fn serve(&mut self, line: &str) -> PathBuf {
        let log = self
            .stack
            .directory()
            .join(format!("logs/readme-{}.log", self.servers.len()));
        let there = self.directory.display();
        let arguments = ["-c".to_owned(), format!("cd {there} && exec {line}")];
        let server = Child::start_in(&self.shell.environment(), "bash", &arguments, &log);
        self.servers.push(server);
        log
    }

    /// A line with real names in the places of `<node>` and `<host>`.
    fn filled(&self, line: &str) -> String {
        let record = self.stack.record("f1");
        let Some((node, placed)) = record.as_ref().and_then(|record| record.nodes.iter().next()) else {
            return line.to_owned();
        };
        line.replace("<node>", &node.to_string())
            .replace("<host>", placed.cell.as_str())
    }

    fn assert_nodes(&self, instance: &str, count: usize) {
        assert_eq!(
            self.stack.record(instance).unwrap().nodes.len(),
            count,
            "{instance}"
        );
    }
}

fn copy_config(directory: &Path, shell: &Shell) {
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::create_dir(directory.join("config")).unwrap();
    for entry in fs::read_dir(repository_file("config")).unwrap() {
        let entry = entry.unwrap();
        let to = directory.join("config").join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        if to.extension().is_some_and(|extension| extension == "yml") {
            let text = fs::read_to_string(&to).unwrap();
            fs::write(&to, shell.localized(&text)).unwrap();
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Asserts that these descriptions are in the order that the README tells, up to the end.
#[track_caller]
fn assert_story(told: &[String], replicas: usize) {
    let running = vec!["running"; replicas].join(", ");
    assert_eq!(
        told.last().unwrap(),
        &format!("master running; replicas {running}"),
        "{told:?}"
    );
    let leaderless = told.partition_point(|text| text.starts_with("members "));
    let led = |text: &String| text.starts_with("master running; replicas ");
    assert!(told[leaderless..].iter().all(led), "{told:?}");
}

/// What `last_operation` said, time after time, under `watch`.
#[track_caller]
fn assert_watched(answers: &[Value], replicas: usize) {
    let (last, before) = answers.split_last().unwrap();
    assert_eq!(last["state"], "succeeded", "{last}");
    assert!(
        before.iter().all(|answer| answer["state"] == "in progress"),
        "{answers:?}"
    );
    let description = |answer: &Value| answer["description"].as_str().unwrap().to_owned();
    assert_story(&answers.iter().map(description).collect::<Vec<_>>(), replicas);
}

/// What `provision.sh` and `update.sh` print.
#[track_caller]
fn assert_script(told: &Told, replicas: usize) {
    let lines = told.lines();
    let (last, before) = lines.split_last().unwrap();
    assert!(last.starts_with("succeeded: "), "{told:?}");
    assert!(
        before.iter().all(|line| line.starts_with("in progress: ")),
        "{told:?}"
    );
    let text = |line: &&str| line.split_once(": ").unwrap().1.to_owned();
    assert_story(&lines.iter().map(text).collect::<Vec<_>>(), replicas);
}

#[track_caller]
fn assert_holds(told: &Told, wanted: &[&str]) {
    for line in wanted {
        assert!(told.lines().contains(line), "{line} in {told:?}");
    }
}

/// The keys below a key of etcd, as `jq` prints them.
#[track_caller]
fn assert_keys(told: &Told, below: &str, names: &[String]) {
    let mut keys: Vec<String> = names.iter().map(|name| format!("{below}/{name}")).collect();
    keys.sort();
    let mut lines = told.lines();
    lines.sort_unstable();
    assert_eq!(lines, keys);
}

#[track_caller]
fn assert_address(text: &str) {
    let (host, port) = text.rsplit_once(':').unwrap_or_else(|| panic!("{text}"));
    assert!(
        host.parse::<std::net::Ipv4Addr>().is_ok() && port.parse::<u16>().is_ok(),
        "{text}"
    );
}

type Check = fn(&mut Scene, &Told);

/// What each line is known by, and what it must have told and done. They stand in the README's order.
const LINES: &[(&str, Check)] = &[
    (
        "export BROKER_URI=http://starkandwayne:starkandwayne@127.0.0.1:8888",
        |_, _| (),
    ),
    ("curl -s ${BROKER_URI}/v2/catalog ", |_, told| {
        assert_eq!(told.lines(), ["cluster", "cluster-sync"]);
    }),
    ("config/bosh-lite.provision.sh f1 2", |scene, told| {
        assert_script(told, 1);
        scene.assert_nodes("f1", 2);
    }),
    ("psql ", |_, told| {
        assert!(told.out.contains("PostgreSQL "), "{told:?}");
    }),
    ("config/bosh-lite.update.sh f1 3", |scene, told| {
        assert_script(told, 2);
        scene.assert_nodes("f1", 3);
    }),
    ("config/bosh-lite.update.sh f1 2", |scene, told| {
        assert_script(told, 1);
        assert_eq!(scene.stack.record("f1").unwrap().staying().count(), 2);
    }),
    (
        "export PATRONI_BROKER_CONFIG=config/bosh-lite.example.yml",
        |_, _| (),
    ),
    ("dingo-postgresql-broker service-status", |_, told| {
        let lines = told.lines();
        assert!(lines.is_sorted() && lines.len() == 2, "{told:?}");
        let mut roles = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let &["f1", address, role, "running"] = words.as_slice() else {
                panic!("{line}")
            };
            assert_address(address);
            roles.push(role);
        }
        roles.sort_unstable();
        assert_eq!(roles, ["master", "replica"]);
    }),
    ("dingo-postgresql-broker show-cells", |scene, told| {
        let record = scene.stack.record("f1").unwrap();
        let count = |guid: &str| {
            let on_it = record.nodes.values().filter(|node| node.cell.as_str() == guid);
            format!("{} {guid}", on_it.count())
        };
        let mut wanted: Vec<String> = scene.stack.cells.iter().map(|cell| count(&cell.guid)).collect();
        wanted.sort_by_key(|line| line.split_once(' ').map(|(_, guid)| guid.to_owned()));
        assert_eq!(told.lines(), wanted);
    }),
    (
        "dingo-postgresql-broker service-status --output table ",
        |_, told| {
            for heading in ["instance", "leader", "timeline", "lag", "port"] {
                assert!(told.lines()[1].contains(heading), "{told:?}");
            }
        },
    ),
    (
        "dingo-postgresql-broker show-cells --output json ",
        |scene, told| {
            let [cells] = &told.documents()[..] else {
                panic!("{told:?}")
            };
            let cells = cells.as_array().unwrap();
            assert_eq!(cells.len(), scene.stack.cells.len());
            assert!(cells.iter().all(|cell| cell["capacity"] == 20), "{told:?}");
        },
    ),
    ("export ETCD_CLUSTER=", |_, _| ()),
    ("curl -s ${ETCD_CLUSTER}/v2/keys/ | jq ", |_, told| {
        assert_holds(
            told,
            &["/service", "/postgresql-patroni", "/serviceinstances", "/routing"],
        );
    }),
    (
        "curl -s \"${ETCD_CLUSTER}/v2/keys/?recursive=true\"",
        |_, told| {
            assert!(told.documents()[0]["node"]["nodes"].is_array());
            assert!(told.out.contains("/serviceinstances/f1/record"));
        },
    ),
    (
        "id=f1; curl -s ${ETCD_CLUSTER}/v2/keys/service/$id/members | jq",
        |scene, told| {
            assert_keys(told, "/service/f1/members", &nodes_of_f1(scene));
        },
    ),
    (
        "id=f1; curl -s ${ETCD_CLUSTER}/v2/keys/service/$id/members/<node> | jq",
        |_, told| {
            let member = &told.documents()[0];
            assert_eq!(member["state"], "running");
            for key in ["role", "conn_url", "api_url", "xlog_location"] {
                assert!(!member[key].is_null(), "{key} in {member}");
            }
        },
    ),
    (
        "curl -s ${ETCD_CLUSTER}/v2/keys/postgresql-patroni/ | jq",
        |scene, told| {
            let record = scene.stack.record("f1").unwrap();
            let name =
                |(node, placed): (&_, &shared::record::Node)| format!("{}:cf-{node}:5432", placed.cell);
            assert_keys(
                told,
                "/postgresql-patroni",
                &record.nodes.iter().map(name).collect::<Vec<_>>(),
            );
        },
    ),
    (
        "curl -s ${ETCD_CLUSTER}/v2/keys/postgresql-patroni/<host>:cf-<node>:5432 | jq",
        |_, told| {
            let [address] = told.lines()[..] else {
                panic!("{told:?}")
            };
            assert_address(address);
        },
    ),
    ("curl -s $ETCD_CLUSTER/v2/keys/routing | jq", |_, told| {
        assert_holds(told, &["/routing/allocation", "/routing/nextport"]);
    }),
    (
        "curl -s $ETCD_CLUSTER/v2/keys/routing/allocation | jq",
        |scene, told| {
            let allocations = told.documents();
            let [allocation] = allocations.as_slice() else {
                panic!("{told:?}")
            };
            let port = scene.stack.record("f1").unwrap().port.owned().unwrap();
            assert_eq!(allocation["key"], "/routing/allocation/f1");
            assert_eq!(allocation["value"], port.to_string());
        },
    ),
    (
        "curl -s ${ETCD_CLUSTER}/v2/keys/serviceinstances/ | jq",
        |_, told| {
            assert_eq!(told.lines(), ["/serviceinstances/f1"]);
        },
    ),
    (
        "curl -s ${ETCD_CLUSTER}/v2/keys/serviceinstances/f1/nodes/ | jq",
        |scene, told| {
            assert_keys(told, "/serviceinstances/f1/nodes", &nodes_of_f1(scene));
        },
    ),
    (
        "curl -s ${ETCD_CLUSTER}/v2/keys/serviceinstances/f1/nodes/<node> | jq",
        |scene, told| {
            let leaves = told.documents();
            let [backend] = leaves.as_slice() else {
                panic!("{told:?}")
            };
            assert!(
                backend["key"].as_str().unwrap().ends_with("/backend"),
                "{backend}"
            );
            let record = scene.stack.record("f1").unwrap();
            assert_eq!(
                backend["value"],
                record.nodes.values().next().unwrap().cell.as_str()
            );
        },
    ),
    (
        "export BROKER_URI=http://starkandwayne:starkandwayne@10.244.21.4:8888",
        |_, _| (),
    ),
    ("id=b1; nodes=2; curl -v -XPUT ", |scene, told| {
        assert_eq!(told.statuses(), ["201", "201"], "{told:?}");
        let [made, bound] = &told.documents()[..] else {
            panic!("{told:?}")
        };
        assert_eq!(made, &serde_json::json!({}));
        for key in ["uri", "host", "port", "username", "password"] {
            assert!(!bound["credentials"][key].is_null(), "{key} in {bound}");
        }
        scene.assert_nodes("b1", 2);
        scene.bound = Some(bound["credentials"].clone());
    }),
    ("id=b1; nodes=4; curl -v -XPATCH ", |scene, told| {
        assert_eq!(told.statuses(), ["200", "200"], "{told:?}");
        let [changed, bound] = &told.documents()[..] else {
            panic!("{told:?}")
        };
        assert_eq!(changed, &serde_json::json!({}));
        assert_eq!(Some(&bound["credentials"]), scene.bound.as_ref());
        scene.assert_nodes("b1", 4);
    }),
    (
        "id=b1; curl -v -XDELETE \"${BROKER_URI}/v2/service_instances/$id/service_bindings/test?",
        |_, told| {
            assert_eq!(
                (told.statuses(), told.lines()),
                (vec!["200"], vec!["{}"]),
                "{told:?}"
            );
        },
    ),
    (
        "id=b1; curl -v -XDELETE \"${BROKER_URI}/v2/service_instances/$id?",
        |scene, told| {
            assert_eq!(
                (told.statuses(), told.lines()),
                (vec!["200"], vec!["{}"]),
                "{told:?}"
            );
            assert!(scene.stack.record("b1").is_none());
        },
    ),
    ("export id=b2", |_, _| ()),
    ("nodes=2; curl -v -XPUT ", |_, told| {
        assert_eq!(told.statuses(), ["202"], "{told:?}");
        assert!(told.documents()[0]["operation"].is_string(), "{told:?}");
    }),
    ("watch curl -sf ", |scene, told| {
        assert_watched(&told.documents(), 1);
        scene.assert_nodes("b2", 2);
    }),
    ("id=b3; nodes=4; curl -v -XPUT ", |scene, told| {
        assert_eq!(told.statuses(), ["202"], "{told:?}");
        let documents = told.documents();
        assert!(documents[0]["operation"].is_string(), "{told:?}");
        assert_watched(&documents[1..], 3);
        scene.assert_nodes("b3", 4);
    }),
    (
        "for id in f1 b2 b3; do config/bosh-lite.deprovision.sh $id; done",
        |scene, told| {
            let succeeded = told
                .lines()
                .into_iter()
                .filter(|line| line.starts_with("succeeded: "));
            assert_eq!(succeeded.count(), 3, "{told:?}");
            scene.stack.assert_no_node("the README");
        },
    ),
];

fn nodes_of_f1(scene: &Scene) -> Vec<String> {
    let record = scene.stack.record("f1").unwrap();
    record.nodes.keys().map(ToString::to_string).collect()
}

fn readme() -> Vec<String> {
    let text = fs::read_to_string(repository_file("README.md")).unwrap();
    let lines = commands(&text).into_iter();
    // `make` is for the whole repository; what it starts is tested elsewhere. The PATH is the test's own.
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("make ") && !line.starts_with("export PATH="))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_do_what_it_says() {
    let mut scene = Scene::start().await;
    let before = scene.stack.keys();
    let mut checks = LINES.iter();
    for line in readme() {
        eprintln!("$ {line}");
        match line.as_str() {
            // The other test's.
            UP => {}
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

#[tokio::test]
async fn everything_comes_up_on_one_machine_and_goes_down_again() {
    assert!(readme().iter().any(|line| line == UP));
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
    let arguments = ["-c".to_owned(), format!("exec {UP}")];
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
