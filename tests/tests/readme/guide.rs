//! The operator's guide: its units start a working installation, and its commands repair one.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tests::{
    binaries::repository_file,
    osb::{OPERATION, Osb, PLAN, SERVICE},
    processes,
    psql::Session,
    readme::{Told, blocks},
    stack::{CellServer, Options, Server},
    wait::eventually,
};

use super::{START, scene::Scene, shown_in};

const GUIDE: &str = "config/README.md";

/// A lenient body.
fn nodes(count: u32) -> Value {
    json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": {"node-count": count}})
}

async fn answers(address: &str) -> Osb {
    let osb = Osb::new(&format!("http://{address}:8888"));
    eventually("the broker", START, async || {
        let request = osb.bare(reqwest::Method::GET, "/v2/catalog");
        request.send().await.ok().map(drop)
    })
    .await;
    osb
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_of_the_guide_are_an_installation() {
    let mut scene = Scene::start_with(Options {
        zones: Vec::new(),
        router: false,
        brokers: 0,
        ..Options::default()
    })
    .await;
    // The example with what the guide says: no cells but the one that announces itself, called by its credentials.
    let example = fs::read_to_string(scene.directory.join("config/bosh-lite.example.yml")).unwrap();
    let (before, rest) = example.split_once("backends:").unwrap();
    let (_, after) = rest.split_once("kvstore:").unwrap();
    let cell = "cell:\n  username: containers\n  password: containers\n";
    let config = scene.directory.join("config/broker.yml");
    fs::write(config, format!("{before}kvstore:{after}{cell}")).unwrap();

    let guide = fs::read_to_string(repository_file(GUIDE)).unwrap();
    let files = blocks(&guide, "ini");
    for unit in ["patroni-broker-cell", "patroni-broker-router", "patroni-broker"] {
        let text = fs::read_to_string(repository_file(&format!("config/systemd/{unit}.service"))).unwrap();
        // What systemd puts there is a copy of what it was told.
        let text = text.replace("%d/", "/etc/patroni-broker/");
        let of =
            |key: &str| -> Vec<&str> { text.lines().filter_map(|line| line.strip_prefix(key)).collect() };
        let file = of("EnvironmentFile=");
        let heading = format!("# {}", file[0].trim_start_matches('-'));
        let shown = files.iter().find(|lines| lines[0] == heading).unwrap();
        let variables: Vec<_> = of("Environment=")
            .into_iter()
            .chain(shown[1..].iter().map(String::as_str))
            .map(|pair| scene.shell.localized(pair))
            .collect();
        let variables: Vec<_> = variables
            .iter()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        let commands = of("ExecStart=");
        let [command] = commands.as_slice() else {
            panic!("{unit}: {commands:?}")
        };
        let command = scene.shell.localized(command);
        scene.serve_with(&command, &variables);
    }
    let osb = answers(&scene.stack.address(20)).await;
    eventually("the cell's heartbeat", START, async || {
        let cell = format!("/cells/{}", scene.stack.address(110));
        scene.stack.keys().0.contains_key(&cell).then_some(())
    })
    .await;
    osb.make("u1", &nodes(1)).await;
    let bound = osb.bind("u1", "b").await;
    let credentials = &bound.expect(201).body["credentials"];
    assert_eq!(credentials["host"], scene.stack.address(1));
    let session = Session::open(credentials).await.unwrap();
    assert_eq!(session.ask("1 + 1").await.unwrap(), "2");
    drop(session);
    osb.unmake("u1").await;
    for server in scene.servers.iter_mut().rev() {
        server.terminate();
    }
}

/// The guide's commands, which are taken one after the other.
struct Commands(std::vec::IntoIter<String>);

impl Commands {
    /// Runs the next one, which must begin like this.
    #[track_caller]
    fn next(&mut self, scene: &mut Scene, known_by: &str) -> Told {
        let line = self.0.next().expect("another command in the guide");
        assert!(line.starts_with(known_by), "{line}");
        tokio::task::block_in_place(|| scene.shell.run(&line))
    }
}

/// The variable that names master keys by id: the one that the guide makes, and that of the example.
fn master_keys(scene: &Scene, ids: &[&str]) -> String {
    let example = fs::read_to_string(repository_file("config/bosh-lite.example.yml")).unwrap();
    let (_, rest) = example.split_once("value_for_development: ").unwrap();
    let development = rest.lines().next().unwrap();
    let key = |id: &&str| match *id {
        "new" => json!({"id": "new", "file": scene.directory.join("master.key")}),
        id => json!({"id": id, "value_for_development": development}),
    };
    json!(ids.iter().map(key).collect::<Vec<_>>()).to_string()
}

/// Starts another broker with these master keys.
async fn broker_with(scene: &mut Scene, number: u8, keys: &[&str]) -> Osb {
    let (address, keys) = (scene.stack.address(number), master_keys(scene, keys));
    let variables = [
        ("PATRONI_BROKER_CONFIG", "config/bosh-lite.example.yml"),
        ("PATRONI_BROKER_BROKER_BIND_ADDRESS", &address),
        ("PATRONI_BROKER_SECRETS_MASTER_KEYS", &keys),
    ];
    scene.serve_with("local-runner broker", &variables);
    answers(&address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guide_put_things_right() {
    let mut scene = Scene::start().await;
    let osb = scene.stack.osb();
    let mut commands = Commands(shown_in(GUIDE).into_iter());
    let exports = [
        "export ETCD_CLUSTER=http://10.244.21.4:4001".to_owned(),
        format!(
            "export BROKER_URI=http://starkandwayne:starkandwayne@{}:8888",
            osb.address().ip()
        ),
        "export PATRONI_BROKER_KVSTORE_MACHINES=http://10.244.21.4:4001".to_owned(),
    ];
    for export in exports {
        tokio::task::block_in_place(|| scene.shell.run(&export));
    }
    commands.next(&mut scene, "openssl rand -base64 32 >master.key");
    osb.make("f1", &nodes(2)).await;
    let answer = osb.bind("f1", "test").await;
    let credentials = answer.expect(201).body["credentials"].clone();

    let guid = a_lost_cell(&mut scene, &mut commands).await;
    a_destroyed_cell(&mut scene, &mut commands, &guid).await;
    // What was there is there, for those who could log in.
    Session::open(&credentials).await.unwrap();

    a_lost_instance(&mut scene, &mut commands, &guid).await;

    let others = |cell: &&mut CellServer| cell.guid != guid;
    commands.next(&mut scene, "local-runner export >export.json");
    let stack = &mut scene.stack;
    stack.brokers.iter_mut().for_each(Server::kill);
    stack.etcd.lose_everything().await;
    commands.next(&mut scene, "local-runner import export.json");
    for cell in scene.stack.cells.iter_mut().filter(others) {
        cell.server.restart().await;
    }
    for server in scene.stack.router.iter_mut().chain(&mut scene.stack.brokers) {
        server.restart().await;
    }
    logs_in(&credentials).await;

    // The master key is rotated, ...
    let rotated = broker_with(&mut scene, 21, &["new", "development"]).await;
    // Those who lack it would do nothing for its instances.
    scene.stack.brokers.clear();
    // The router cuts the port off until Patroni has written its leader key again, up to a loop later.
    eventually("the binding through the same port", OPERATION, async || {
        let answer = rotated.bind("f1", "test").await;
        if answer.status == 503 {
            return None;
        }
        assert_eq!(answer.expect(200).body["credentials"], credentials);
        Some(())
    })
    .await;
    rotated.make("f2", &nodes(1)).await;
    rotated.bind("f2", "test").await.expect(201);
    let keys = master_keys(&scene, &["new", "development"]);
    let export = format!("export PATRONI_BROKER_SECRETS_MASTER_KEYS='{keys}'");
    tokio::task::block_in_place(|| scene.shell.run(&export));
    let told = commands.next(
        &mut scene,
        "PATRONI_BROKER_CONFIG=config/bosh-lite.example.yml local-runner rotate-credentials --all",
    );
    let lines: Vec<&str> = told.lines().into_iter().collect();
    assert_eq!(
        lines,
        [
            "instance f1: nodes and broker have other passwords now",
            "instance f1: binding test depends on the master key 'development' until it is unbound",
        ]
    );
    let told = commands.next(&mut scene, "curl -s \"${ETCD_CLUSTER}/v2/keys/serviceinstances?");
    let counts: Vec<&str> = told.lines().into_iter().map(str::trim).collect();
    assert_eq!(counts, ["1 development", "3 new"]);
    assert_eq!(commands.0.next(), None, "a command that nothing runs");

    // ... and then lost.
    let poor = broker_with(&mut scene, 22, &["development"]).await;
    for answer in [poor.bind("f1", "other").await, poor.unbind("f1", "test").await] {
        let description = answer.expect(500).description();
        assert!(description.contains("lacks a key"), "{description}");
    }
    logs_in(&credentials).await;
    // The others know the key and would help.
    scene.servers.drain(..1).for_each(drop);
    poor.unmake("f1").await;
    poor.unmake("f2").await;
    Session::open(&credentials)
        .await
        .expect_err("a login to an instance that is gone");
}

/// The machine of a cell burns down, and is set up again without data. Answers where its nodes work.
async fn burn_down(scene: &mut Scene, guid: &str) -> PathBuf {
    let mut cells = scene.stack.cells.iter_mut();
    let cell = cells.find(|cell| cell.guid == guid).unwrap();
    cell.server.kill();
    let nodes = cell.nodes_directory();
    let data = nodes.parent().unwrap();
    processes::kill_below(data).unwrap();
    fs::remove_dir_all(data).unwrap();
    cell.server.restart().await;
    nodes
}

/// The machine of an instance of one node burns down, and is set up again without data.
async fn a_lost_instance(scene: &mut Scene, commands: &mut Commands, dead: &str) {
    let osb = scene.stack.osb();
    osb.make("g1", &nodes(1)).await;
    let answer = osb.bind("g1", "test").await;
    let credentials = answer.expect(201).body["credentials"].clone();
    let record = scene.stack.record("g1").unwrap();
    let guid = record.nodes.values().next().unwrap().cell.to_string();
    assert_ne!(guid, dead);
    burn_down(scene, &guid).await;
    eventually("the keys run out", OPERATION, async || {
        let keys = scene.stack.keys().0;
        let left = |key: &String| {
            (key.starts_with("/service/g1/members/") && !key.ends_with('/')) || key == "/service/g1/leader"
        };
        (!keys.keys().any(left)).then_some(())
    })
    .await;
    let told = commands.next(
        scene,
        "PATRONI_BROKER_CONFIG=config/bosh-lite.example.yml local-runner recreate g1",
    );
    assert_eq!(told.lines().last(), Some(&"instance g1 stands again, empty"));
    Session::open(&credentials).await.unwrap();
    osb.unmake("g1").await;
}

/// Waits until a client can log in: Patroni may still be choosing a leader after etcd has lost everything.
async fn logs_in(credentials: &Value) {
    eventually("a session", OPERATION, async || {
        Session::open(credentials).await.ok().map(drop)
    })
    .await;
}

/// The cell of a replica burns down, and another machine takes its guid, which is answered.
async fn a_lost_cell(scene: &mut Scene, commands: &mut Commands) -> String {
    let leader = scene.stack.keys().0["/service/f1/leader"].clone();
    let record = scene.stack.record("f1").unwrap();
    let is_replica = |node: &shared::ids::NodeId| node.to_string() != leader;
    let (lost, placed) = record.nodes.iter().find(|(node, _)| is_replica(node)).unwrap();
    let guid = placed.cell.to_string();
    let nodes = burn_down(scene, &guid).await;

    let line = commands.0.next().unwrap();
    assert!(line.starts_with("guid=10.244.21.9; "), "{line}");
    let line = line.replace("10.244.21.9", &guid);
    let told = tokio::task::block_in_place(|| scene.shell.run(&line));
    assert_eq!(
        told.lines(),
        [format!("/serviceinstances/f1/nodes/{lost}/backend")]
    );
    // It is asked to run the node when that has been silent for long enough: what reports then is the new one.
    eventually("the node on the new machine", OPERATION, async || {
        let keys = scene.stack.keys().0;
        let member = keys.get(&format!("/service/f1/members/{lost}"))?;
        let member: Value = serde_json::from_str(member).unwrap();
        (nodes.join(lost.to_string()).is_dir() && member["state"] == "running").then_some(())
    })
    .await;
    let after = scene.stack.record("f1").unwrap();
    assert_eq!(
        after.nodes.keys().collect::<Vec<_>>(),
        record.nodes.keys().collect::<Vec<_>>()
    );
    guid
}

/// The other machine burns down, too, and none takes its place.
async fn a_destroyed_cell(scene: &mut Scene, commands: &mut Commands, guid: &str) {
    let mut cells = scene.stack.cells.iter_mut();
    let cell = cells.find(|cell| cell.guid == guid).unwrap();
    cell.server.kill();
    processes::kill_below(cell.nodes_directory().parent().unwrap()).unwrap();
    let heartbeat = format!("/cells/{guid}");
    eventually("the heartbeat runs out", OPERATION, async || {
        (!scene.stack.keys().0.contains_key(&heartbeat)).then_some(())
    })
    .await;

    let line = commands.0.next().unwrap();
    assert!(line.starts_with("local-runner declare-cell-destroyed "), "{line}");
    let line = line.replace("10.244.21.9", guid);
    tokio::task::block_in_place(|| scene.shell.run(&line));
    eventually("two nodes on other cells", OPERATION, async || {
        let record = scene.stack.record("f1").unwrap();
        let elsewhere = record.nodes.values().all(|node| node.cell.to_string() != guid);
        let keys = scene.stack.keys().0;
        let runs = |node: &shared::ids::NodeId| {
            let member = keys.get(&format!("/service/f1/members/{node}"));
            member.is_some_and(|text| serde_json::from_str::<Value>(text).unwrap()["state"] == "running")
        };
        (elsewhere && record.nodes.len() == 2 && record.nodes.keys().all(runs)).then_some(())
    })
    .await;
}
