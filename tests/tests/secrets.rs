//! Where passwords must not be: in the logs of all programs, in what a process list shows, and in etcd.
//!
//! The search is tried on texts that were put there on purpose: it finds those.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use shared::master_keys::Kind;
use tests::{
    child::Child,
    keys::Keys,
    osb::{Osb, PLAN, SERVICE, fresh_id, nodes, send},
    psql::{self, Session},
    stack::{Options, Stack},
    wait::eventually,
};

const LONG: Duration = Duration::from_secs(60);

/// Every command line of every process that is seen while this runs.
struct ProcessList {
    over: Arc<AtomicBool>,
    seen: JoinHandle<BTreeSet<String>>,
}

impl ProcessList {
    fn watch() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let seen = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !until.load(Ordering::SeqCst) {
                let entries = fs::read_dir("/proc").unwrap().flatten();
                // What is no process, or has ended, has none.
                seen.extend(entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()));
                thread::sleep(Duration::from_millis(5));
            }
            seen.iter()
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect()
        });
        Self { over, seen }
    }

    fn stop(self) -> BTreeSet<String> {
        self.over.store(true, Ordering::SeqCst);
        self.seen.join().unwrap()
    }
}

/// All files that a program writes its log to, and what is in them.
fn logs(stack: &Stack) -> BTreeMap<PathBuf, String> {
    fn collect(directory: &Path, logs: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("home/data") {
                collect(&path, logs);
            } else if path.to_string_lossy().contains("log") && path.is_file() {
                let text = fs::read(&path).unwrap_or_default();
                logs.insert(path, String::from_utf8_lossy(&text).into_owned());
            }
        }
    }
    let mut logs = BTreeMap::new();
    collect(stack.directory(), &mut logs);
    logs
}

/// The names of those that hold a text.
fn holders<'t>(texts: impl IntoIterator<Item = (String, &'t String)>, wanted: &str) -> Vec<String> {
    let texts = texts.into_iter().filter(|(_, text)| text.contains(wanted));
    texts.map(|(name, _)| name).collect()
}

/// The passwords that the nodes and the broker use, by the role that each belongs to.
fn system_passwords(stack: &Stack, instance: &str) -> BTreeMap<&'static str, String> {
    let (broker, record) = (stack.broker(), stack.record(instance).unwrap());
    let kinds = [
        ("postgres", Kind::Superuser),
        ("replication", Kind::Replication),
        ("rewind", Kind::Rewind),
        ("rest", Kind::Rest),
    ];
    let password = |kind| broker.password(&record, kind).unwrap().expose_secret().to_owned();
    kinds.map(|(role, kind)| (role, password(kind))).into()
}

/// Binds, uses, repeats, rotates and unbinds; answers the passwords of the bindings, and the text that it has planted in the
/// broker's log.
async fn life(osb: &Osb, instance: &str) -> (Vec<String>, String) {
    let mut passwords = Vec::new();
    for (binding, parameters) in [("b1", json!({})), ("b2", json!({"read_only": true}))] {
        let body = json!({"service_id": SERVICE, "plan_id": PLAN, "parameters": parameters});
        let answer = osb.bind_with(instance, binding, &body).await;
        let credentials = &answer.expect(201).body["credentials"];
        passwords.push(credentials["password"].as_str().unwrap().to_owned());
        osb.bind_with(instance, binding, &body).await.expect(200);
        let session = Session::open(credentials).await.unwrap();
        session.try_to("SELECT nothing").await.unwrap_err();
        let wrong = credentials["uri"]
            .as_str()
            .unwrap()
            .replace("://b_", "://nobody_");
        Session::open(&json!({"uri": wrong})).await.unwrap_err();
    }
    let path = format!("/v2/service_instances/{instance}/service_bindings/b1");
    send(osb.request(reqwest::Method::GET, &path)).await.expect(200);
    osb.unbind(instance, "b1").await.expect(200);
    let planted = format!("planted-{}", fresh_id());
    let request = osb.request(reqwest::Method::GET, &path);
    let request = request.header("X-Broker-API-Originating-Identity", &planted);
    send(request).await.expect(404);
    (passwords, planted)
}

#[tokio::test]
async fn no_password_is_in_a_log_or_a_process_list_or_in_etcd() {
    // PostgreSQL is told to log as much as it can. The cell does not let it.
    let chatty = r#"{"fsync": "off", "log_connections": "on", "log_disconnections": "on", "log_statement": "all",
        "log_min_duration_statement": "0", "log_min_error_statement": "debug5", "log_replication_commands": "on"}"#;
    let list = ProcessList::watch();
    let mut stack = Stack::start(Options {
        zones: vec!["z1", "z2"],
        durable: true,
        variables: vec![("CELL_POSTGRESQL_PARAMETERS", chatty.to_owned())],
        ..Options::default()
    })
    .await;
    let (osb, instance) = (&stack.osb(), &fresh_id());
    osb.make(instance, &nodes(2)).await;
    let (mut secrets, planted) = life(osb, instance).await;
    let system = system_passwords(&stack, instance);
    let port = stack.record(instance).unwrap().port.owned().unwrap();
    let host = stack.address(1);
    let superuser =
        |password: &str| json!({"uri": format!("postgres://postgres:{password}@{host}:{port}/postgres")});
    // They are the real ones.
    Session::open(&superuser(&system["postgres"])).await.unwrap();
    psql::assert_refused(&superuser("another")).await;
    let files = fs::read_dir(stack.cells[0].nodes_directory()).unwrap().flatten();
    let files: Vec<Value> = files
        .map(|node| fs::read_to_string(node.path().join("patroni.yml")).unwrap())
        .map(|text| serde_saphyr::from_str(&text).unwrap())
        .collect();
    assert_eq!(files.len(), 1, "one node on each cell");
    let roles = &files[0]["postgresql"]["authentication"];
    for (role, name) in [
        ("postgres", "superuser"),
        ("replication", "replication"),
        ("rewind", "rewind"),
    ] {
        assert_eq!(roles[name]["password"], system[role], "{name}");
    }
    secrets.extend(system.into_values());

    // A failover, a restart of everything of ours, an update.
    stack.cells[0].cut_power();
    stack.cells[0].server.restart().await;
    stack.brokers[0].restart().await;
    stack.router.as_mut().unwrap().restart().await;
    let osb = &stack.osb();
    eventually("the cluster again", LONG, async || {
        let answer = osb.bind(instance, "b3").await;
        (answer.status < 300).then_some(())
    })
    .await;
    let answer = osb.bind(instance, "b3").await;
    let credentials = answer.expect(200).body["credentials"].clone();
    secrets.push(credentials["password"].as_str().unwrap().to_owned());
    let session = Session::open(&credentials).await.unwrap();
    let column = format!("planted_{}", fresh_id().replace('-', "_"));
    session.try_to(&format!("SELECT {column}")).await.unwrap_err();
    let line = format!("planted-{}", fresh_id());
    let script = format!("sleep 600; : {line}");
    let nowhere = stack.directory().join("planted.out");
    let _planted = Child::start("sh", &["-c".to_owned(), script], &nowhere);
    let etcd = Keys::below(&stack.etcd, "").0;

    let named = |logs: &BTreeMap<PathBuf, String>, text: &str| {
        let all = logs.iter().map(|(path, text)| (path.display().to_string(), text));
        holders(all, text)
    };
    eventually("what was planted in PostgreSQL's log", LONG, async || {
        (!named(&logs(&stack), &column).is_empty()).then_some(())
    })
    .await;
    let logs = logs(&stack);
    for kind in [
        "broker-1.log",
        "cell-1.log",
        "cell-2.log",
        "router.log",
        "patroni.log",
        "postgresql-",
    ] {
        let of_kind = logs
            .iter()
            .filter(|(path, _)| path.to_string_lossy().contains(kind));
        assert!(of_kind.clone().count() > 0, "no log of {kind}: {:?}", logs.keys());
        assert!(of_kind.into_iter().any(|(_, text)| !text.is_empty()), "{kind}");
    }
    assert!(
        named(&logs, &planted).concat().ends_with("broker-1.log"),
        "{planted}"
    );
    assert!(named(&logs, &column).concat().contains("postgresql-"), "{column}");
    osb.unmake(instance).await;
    let logs = [logs, self::logs(&stack)];
    let processes = list.stop();
    let seen = |wanted: &str| processes.iter().any(|process| process.contains(wanted));
    assert!(
        seen(&line) && seen("patroni.yml") && seen("haproxy"),
        "{processes:?}"
    );

    assert_eq!(secrets.len(), 7);
    let verifier = "SCRAM-SHA-256$".to_owned();
    for secret in secrets.iter().chain([&verifier]) {
        for logs in &logs {
            assert_eq!(named(logs, secret), Vec::<String>::new(), "{secret} is in logs");
        }
        assert!(!seen(secret), "{secret} is in a process list");
        let held = etcd.iter().map(|(key, value)| (key.clone(), value));
        assert_eq!(holders(held, secret), Vec::<String>::new(), "{secret} is in etcd");
    }
}
