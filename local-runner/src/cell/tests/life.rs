//! The life of a cluster on two cells.

use std::path::Path;

use serde_json::Value;
use shared::{ids::NodeId, keyspace, record::Phase};
use tests::wait::eventually;

use super::{
    super::stage::{Instance, LONG, SECRETS, SUPERUSER_PASSWORD, Site, Stage, kill, new_node, walk, workers},
    DEBIAN, NEWEST, refusal,
};

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
async fn streams(stage: &Stage, leading: &Site, leader: NodeId) {
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
