//! Cells with real etcd, Patroni and PostgreSQL.

use std::{path::Path, time::Duration};

use serde_json::Value;
use shared::{cell_api::NodeState, keyspace, record::Phase, store::Store};
use tests::{etcd::Options, pki::Pki, wait::eventually};

use super::{
    error::CellError,
    fixture,
    stage::{
        Instance, LONG, PASSWORD, SECRETS, SUPERUSER_PASSWORD, Site, Stage, kill, new_node, walk, workers,
    },
};

const DEBIAN: &str = "/usr/bin/patroni";
const NEWEST: &str = "/opt/patroni4/bin/patroni";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_and_shrinks_and_stops_with_debians_patroni() {
    life_of_a_cluster(DEBIAN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_and_shrinks_and_stops_with_patroni_4() {
    if Path::new(NEWEST).exists() {
        life_of_a_cluster(NEWEST).await;
    } else {
        println!("skipped: there is no {NEWEST}");
    }
}

async fn life_of_a_cluster(patroni: &str) {
    let stage = Stage::set().await;
    let one = stage.open(stage.settings(patroni)).await;
    let two = stage.open(stage.settings(patroni)).await;
    let mut instance = Instance::new("i1");
    let (a, b) = (new_node(), new_node());
    instance.place(a, &one, Phase::Assigned);
    instance.place(b, &two, Phase::Assigned);
    stage.write(&instance).await;

    assert_eq!(stage.put(&one, &instance, a).await.0, 201);
    assert_eq!(stage.put(&two, &instance, b).await.0, 201);
    assert_eq!(stage.put(&two, &instance, b).await.0, 200, "again");
    let leader = stage.leader(&instance).await;
    let (leading, following, follower) = if leader == a {
        (&one, &two, b)
    } else {
        (&two, &one, a)
    };
    streams(&stage, leading, leader).await;

    let address = stage.status(leading, leader).await.unwrap().address;
    let registration = keyspace::registration(&leading.settings.guid, leader);
    assert_eq!(stage.get(&registration).await, Some(address.clone()));
    accepts_only_the_password(&address).await;
    keeps_secrets(leading, &stage);

    let (patroni, postmaster) = (following.patroni(follower), following.postmaster(follower));
    kill(patroni);
    eventually("another Patroni", LONG, async || {
        (following.patroni(follower) != patroni).then_some(())
    })
    .await;
    streams(&stage, leading, leader).await;
    assert_eq!(following.postmaster(follower), postmaster, "PostgreSQL went on");

    assert_eq!(
        refusal(stage.delete(leading, leader).await),
        (409, "Leader".into())
    );
    assert_eq!(
        refusal(stage.delete(following, follower).await),
        (409, "Assigned".into())
    );
    instance.place(follower, following, Phase::Leaving);
    stage.write(&instance).await;
    stage.put(following, &instance, follower).await;
    stage
        .member(&instance, follower, "the tag nofailover", |member| {
            member["tags"]["nofailover"] == true
        })
        .await;
    let directory = following.directory(follower);
    assert_eq!(stage.delete(following, follower).await.0, 200);
    assert!(!directory.exists());
    assert_eq!(workers(&following.settings.data_directory), [].into());
    assert_eq!(stage.get(&keyspace::member(&instance.id, follower)).await, None);
    assert_eq!(
        refusal(stage.delete(following, follower).await),
        (410, "Retired".into())
    );
    assert_eq!(
        refusal(stage.put(following, &instance, follower).await),
        (410, "Retired".into())
    );

    let heartbeat = keyspace::cell(&leading.settings.guid);
    assert!(stage.get(&heartbeat).await.is_some());
    let settings = one.stop().await;
    let others = two.stop().await;
    assert_eq!(workers(&settings.data_directory), [].into());
    assert_eq!(workers(&others.data_directory), [].into());
    assert_eq!(stage.get(&heartbeat).await, None);
    assert_eq!(stage.get(&registration).await, None);
}

/// Waits until the leader says that its replica streams.
async fn streams(stage: &Stage, leading: &Site, leader: shared::ids::NodeId) {
    let url = format!(
        "http://{}/patroni",
        stage.status(leading, leader).await.unwrap().rest_address
    );
    eventually("a replica that streams", LONG, async || {
        let answer: Value = stage.http.get(&url).send().await.ok()?.json().await.ok()?;
        (answer["replication"][0]["state"] == "streaming").then_some(())
    })
    .await;
}

async fn accepts_only_the_password(address: &str) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let connect = async |password: &str| {
        let mut config = tokio_postgres::Config::new();
        config
            .host(host)
            .port(port.parse().unwrap())
            .user("postgres")
            .dbname("postgres")
            .password(password);
        config.connect(tokio_postgres::NoTls).await
    };
    assert!(connect("another").await.is_err());
    let (client, connection) = connect(SUPERUSER_PASSWORD).await.unwrap();
    tokio::spawn(connection);
    // A statement that fails although its password is right must not be logged.
    let failing = format!("CREATE ROLE postgres PASSWORD '{SUPERUSER_PASSWORD}'");
    assert!(client.batch_execute(&failing).await.is_err());
    let row = client
        .query_one("SELECT current_setting('data_checksums'), current_setting('server_encoding'), (SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator')", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), ("on", "UTF8"));
    assert!(row.get::<_, &str>(2).starts_with("SCRAM-SHA-256$"));
}

/// No password is in a process's arguments or environment, nor in a log; nor is any in etcd.
fn keeps_secrets(site: &Site, stage: &Stage) {
    let contains = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        SECRETS.iter().any(|secret| text.contains(secret))
    };
    let pids = workers(&site.settings.data_directory);
    assert!(pids.len() > 2, "Patroni, PostgreSQL and its processes: {pids:?}");
    for pid in pids {
        for file in ["cmdline", "environ"] {
            assert!(
                !contains(Path::new(&format!("/proc/{pid}/{file}"))),
                "{file} of {pid}"
            );
        }
    }
    let mut logs = 0;
    for entry in walk(&site.settings.data_directory) {
        let is_log =
            entry.parent().unwrap().ends_with("log") || entry.extension().is_some_and(|end| end == "log");
        if is_log {
            logs += 1;
            assert!(!contains(&entry), "{}", entry.display());
        }
    }
    assert!(logs >= 3, "Patroni's output and log, PostgreSQL's log");
    let (_, all) = stage.etcd.raw("GET", "/v2/keys/?recursive=true", None);
    assert!(!SECRETS.iter().any(|secret| all.contains(secret)));
}

fn refusal((status, body): (u16, Value)) -> (u16, String) {
    (status, body["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_cell_is_succeeded_and_a_node_that_nothing_names_is_kept_aside() {
    let mut stage = Stage::set().await;
    let site = stage.open(stage.settings(DEBIAN)).await;
    let mut instance = Instance::new("i1");
    let node = new_node();
    instance.place(node, &site, Phase::Running);
    stage.write(&instance).await;
    assert_eq!(stage.put(&site, &instance, node).await.0, 201);
    assert_eq!(stage.leader(&instance).await, node);

    let second = stage.try_open(site.settings.clone()).await;
    assert!(
        matches!(second, Err(CellError::Locked(_))),
        "a second cell on the same directory"
    );

    // The cell is killed and started again: Patroni is the same.
    let patroni = site.patroni(node);
    let directory = site.settings.data_directory.clone();
    let before = workers(&directory);
    let site = stage.open(site.kill().await).await;
    eventually("the node running again", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Running).then_some(())
    })
    .await;
    assert_eq!(site.patroni(node), patroni);
    assert!(workers(&directory).contains(&patroni) && before.contains(&patroni));
    assert_eq!(patronis(&site, node), 1);

    // etcd is away: nothing is admitted, nothing started, and nothing that runs is stopped.
    let postmaster = site.postmaster(node);
    stage.etcd.kill();
    let mut other = Instance::new("i2");
    let newcomer = new_node();
    other.place(newcomer, &site, Phase::Assigned);
    assert_eq!(
        refusal(stage.put(&site, &other, newcomer).await),
        (503, "StoreUnavailable".into())
    );
    assert_eq!(
        refusal(stage.delete(&site, node).await),
        (503, "StoreUnavailable".into())
    );
    kill(patroni);
    eventually("the node waiting", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Waiting).then_some(())
    })
    .await;
    assert!(workers(&directory).contains(&postmaster));
    stage.etcd.restart().await;
    eventually("another Patroni", LONG, async || {
        let running = stage.status(&site, node).await?.state == NodeState::Running;
        (running && site.patroni(node) != patroni).then_some(())
    })
    .await;

    // The record does not name the node any more: it is set aside with all its data.
    let placed = instance.record.nodes.clone();
    instance.record.nodes.clear();
    stage.write(&instance).await;
    stage.put(&site, &instance, node).await;
    eventually("the node in quarantine", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Quarantined).then_some(())
    })
    .await;
    assert_eq!(workers(&directory), [].into());
    assert!(!site.directory(node).exists());
    let aside = walk(&directory.join("quarantine"));
    assert!(aside.iter().any(|path| path.ends_with("home/data/PG_VERSION")));

    // An operator puts the record right: the node comes back.
    instance.record.nodes = placed;
    stage.write(&instance).await;
    let site = stage.open(site.stop().await).await;
    eventually("the node back", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Running).then_some(())
    })
    .await;

    // A tombstone names it: it goes for good.
    let tombstone = fixture::tombstone(instance.incarnation, &[node]).to_string();
    stage
        .store
        .set(&keyspace::tombstone(&instance.id), &tombstone, None)
        .await
        .unwrap();
    instance.record.nodes.clear();
    stage.write(&instance).await;
    stage.put(&site, &instance, node).await;
    eventually("the node gone", LONG, async || {
        stage.status(&site, node).await.is_none().then_some(())
    })
    .await;
    assert_eq!(workers(&directory), [].into());
    assert!(walk(&directory).iter().all(|path| !path.ends_with("PG_VERSION")));
    assert_eq!(
        refusal(stage.put(&site, &instance, node).await),
        (410, "Retired".into())
    );
    site.stop().await;
}

/// How many processes run a node's Patroni.
fn patronis(site: &Site, node: shared::ids::NodeId) -> usize {
    let file = site.directory(node).join("patroni.yml");
    let file = file.to_str().unwrap().as_bytes().to_vec();
    let runs = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == file)
    };
    workers(&site.settings.data_directory)
        .iter()
        .filter(|pid| runs(pid))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_order_is_refused() {
    let stage = Stage::set().await;
    let mut settings = stage.settings(DEBIAN);
    settings.capacity = 1;
    let site = stage.open(settings).await;
    let mut instance = Instance::new("i1");
    let (node, second) = (new_node(), new_node());
    let put = async |instance: &Instance, node| refusal(stage.put(&site, instance, node).await);
    let refused = |status: u16, word: &str| (status, word.to_owned());

    let anonymous = stage.http.get(site.url(node)).send().await.unwrap();
    assert_eq!(anonymous.status().as_u16(), 401);
    for (user, password) in [("broker", "wrong"), ("broke", PASSWORD), ("", "")] {
        let answer = stage
            .http
            .put(site.url(node))
            .basic_auth(user, Some(password))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{user}");
    }
    let call = async |method: reqwest::Method, path: &str| {
        refusal(stage.call(method, &format!("{}{path}", site.uri), None).await)
    };
    assert_eq!(
        call(reqwest::Method::GET, "/elsewhere").await,
        refused(404, "NotFound")
    );
    assert_eq!(
        call(reqwest::Method::POST, "/v2/service_instances").await,
        refused(405, "MethodNotAllowed")
    );
    let of_node = format!("/v2/service_instances/{node}");
    assert_eq!(
        call(reqwest::Method::GET, &of_node).await,
        refused(404, "NotFound")
    );
    assert_eq!(
        call(reqwest::Method::PUT, &of_node).await,
        refused(400, "BadRequest")
    );
    assert_eq!(
        call(reqwest::Method::DELETE, "/v2/service_instances/x").await,
        refused(400, "BadRequest")
    );
    let of_another = stage
        .call(reqwest::Method::PUT, &site.url(second), Some(instance.body(node)))
        .await;
    assert_eq!(refusal(of_another), refused(400, "BadRequest"));
    let long = serde_json::json!({"service_id": "x".repeat(100_000)});
    let long = stage
        .call(reqwest::Method::PUT, &site.url(node), Some(long))
        .await;
    assert_eq!(refusal(long), refused(400, "BadRequest"));

    assert_eq!(
        put(&instance, node).await,
        refused(409, "NotAssigned"),
        "no record"
    );
    instance.place(node, &site, Phase::Leaving);
    stage.write(&instance).await;
    assert_eq!(put(&instance, node).await, refused(409, "NotAssigned"), "leaving");
    instance.place(node, &site, Phase::Assigned);
    instance.place(second, &site, Phase::Assigned);
    stage.write(&instance).await;
    let mut earlier = Instance::new("i1");
    earlier.place(node, &site, Phase::Assigned);
    assert_eq!(
        put(&earlier, node).await,
        refused(409, "NotAssigned"),
        "another incarnation"
    );

    let garbled = Instance::new("i2");
    let key = keyspace::record(&garbled.id);
    stage.store.set(&key, "not a record", None).await.unwrap();
    assert_eq!(
        put(&garbled, new_node()).await,
        refused(503, "StoreUnavailable"),
        "a record that nobody understands"
    );

    // A DELETE may overtake its PUT.
    let overtaken = new_node();
    assert_eq!(
        refusal(stage.delete(&site, overtaken).await),
        refused(410, "Retired")
    );
    instance.place(overtaken, &site, Phase::Assigned);
    stage.write(&instance).await;
    assert_eq!(put(&instance, overtaken).await, refused(410, "Retired"));

    assert_eq!(stage.put(&site, &instance, node).await.0, 201);
    assert_eq!(put(&instance, second).await, refused(422, "Full"));
    let heartbeat = keyspace::cell(&site.settings.guid);
    eventually("a heartbeat with the load", LONG, async || {
        stage
            .get(&heartbeat)
            .await?
            .contains(r#""capacity":1,"load":1"#)
            .then_some(())
    })
    .await;

    let mut same_guid = stage.settings(DEBIAN);
    same_guid.guid = site.settings.guid.clone();
    let answer = tokio::time::timeout(Duration::from_secs(30), stage.try_open(same_guid))
        .await
        .unwrap();
    assert!(
        matches!(answer, Err(CellError::GuidTaken { .. })),
        "a second cell with the same guid"
    );

    // Deprovisioned half-way through its bootstrap.
    instance.record.state = shared::record::State::Deleting;
    stage.write(&instance).await;
    assert_eq!(stage.delete(&site, node).await.0, 200);
    assert_eq!(workers(&site.settings.data_directory), [].into());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_reaches_an_etcd_that_asks_for_a_certificate() {
    let stage = Stage::set_with(|directory| Options {
        tls: Some(Pki::new(&directory.join("pki"))),
        client_certificates: true,
        ..Options::default()
    })
    .await;
    every_patroni_gets_a_leader(&stage).await;
    let mut settings = stage.settings(DEBIAN);
    settings.etcd.key = Some("/etc/shadow".into());
    let answer = stage.try_open(settings).await;
    assert!(
        matches!(answer, Err(CellError::Unreadable { .. })),
        "a key that Patroni could not read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_reaches_an_etcd_that_asks_for_a_password() {
    let stage = Stage::set_with(|_| Options {
        root_password: Some("sesame-of-etcd".into()),
        ..Options::default()
    })
    .await;
    every_patroni_gets_a_leader(&stage).await;
}

async fn every_patroni_gets_a_leader(stage: &Stage) {
    for patroni in [DEBIAN, NEWEST] {
        if !Path::new(patroni).exists() {
            continue;
        }
        let site = stage.open(stage.settings(patroni)).await;
        let mut instance = Instance::new(site.settings.guid.as_str());
        let node = new_node();
        instance.place(node, &site, Phase::Assigned);
        stage.write(&instance).await;
        assert_eq!(stage.put(&site, &instance, node).await.0, 201);
        assert_eq!(stage.leader(&instance).await, node);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_of_a_dead_cell_elsewhere_is_outwaited() {
    let stage = Stage::set().await;
    let settings = stage.settings(DEBIAN);
    let key = keyspace::cell(&settings.guid);
    let dead = serde_json::json!({
        "guid": settings.guid, "availability_zone": "z1", "uri": "http://elsewhere:1",
        "capacity": 1, "load": 0, "version": "0",
    });
    let ttl = Some(Duration::from_secs(2));
    stage.store.set(&key, &dead.to_string(), ttl).await.unwrap();
    let site = stage.open(settings).await;
    assert!(stage.get(&key).await.unwrap().contains(&site.uri));
    site.stop().await;
    assert_eq!(stage.get(&key).await, None);
}
