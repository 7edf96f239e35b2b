//! A leader's processes are killed while its cell lives: clients wait a fraction of the ttl, nothing acknowledged is lost, and no
//! two nodes are primaries at once, whoever asks them directly.
//! `FAILOVER_KILLS` says how often each version's leaders are killed, twice without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it measured"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shared::store::{Store, Watch, WatchEvent};
use tests::{
    instance::{Instance, Leader},
    osb::{OPERATION, OTHER_PLAN},
    patroni::Patroni,
    prober::Prober,
    processes::Process,
    psql::Session,
    stack::{Options, Stack},
    visitor::Visitor,
    wait::eventually,
    writer::Writer,
};

/// A cell gives a node's place up at most once in so long.
const SELDOM: Duration = Duration::from_secs(62);

/// What went before the end of a leader key.
struct KeyWatch(Box<dyn Watch>);

impl KeyWatch {
    fn begin(instance: &Instance<'_>) -> Self {
        let key = format!("/service/{}/leader", instance.id);
        Self(instance.stack.etcd.client().watch(&key))
    }

    /// Waits for the end of the key; answers whether it has run out, and did not wait for that.
    async fn ends(&mut self) -> bool {
        let removed = async {
            loop {
                if let WatchEvent::Removed { expired, .. } = self.0.next().await {
                    return expired;
                }
            }
        };
        tokio::time::timeout(OPERATION, removed)
            .await
            .expect("the end of the leader key")
    }
}

async fn stack(zones: &[&'static str], patroni: Patroni) -> Stack {
    Stack::start(Options {
        zones: zones.to_vec(),
        durable: true,
        patroni,
        ..Options::default()
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "it configures the test, not the broker")]
fn kills() -> usize {
    std::env::var("FAILOVER_KILLS").map_or(2, |text| text.parse().expect("FAILOVER_KILLS is a number"))
}

#[tokio::test]
async fn a_killed_leader_is_succeeded_at_once_with_the_distributions_patroni() {
    leaders_are_killed(Patroni::Distribution).await;
}

#[tokio::test]
async fn a_killed_leader_is_succeeded_at_once_with_patroni_4() {
    leaders_are_killed(Patroni::Four).await;
}

async fn leaders_are_killed(patroni: Patroni) {
    let mut stack = stack(&["z1", "z2", "z3"], patroni).await;
    let instance = Instance::make(&mut stack, OTHER_PLAN, 3).await;
    let writer = Writer::start(&instance.credentials).await;
    let prober = Prober::start(&instance).await;
    let visitor = Visitor::start(&instance.credentials);
    let mut outages = Vec::new();
    let mut last: BTreeMap<String, Instant> = BTreeMap::new();
    for _ in 0..kills() {
        let leader = instance.stands(2, true).await;
        if let Some(killed) = last.get(&leader.name) {
            tokio::time::sleep(SELDOM.saturating_sub(killed.elapsed())).await;
        }
        writer.goes_on(20).await;
        let idle = Session::open(&instance.credentials).await.unwrap();
        let mut key = KeyWatch::begin(&instance);
        let begun = Instant::now();
        instance.kill(&leader.name);
        last.insert(leader.name.clone(), begun);
        assert!(!key.ends().await, "nobody waited for the ttl");
        idle.ended().await;
        let next = instance.leader(Some(&leader)).await;
        assert!(next.timeline > leader.timeline, "{leader:?} {next:?}");
        writer.goes_on(20).await;
        visitor.gets_in().await;
        let outage = writer.account().outage_since(begun);
        println!("{patroni:?}: without writes for {outage:?}");
        outages.push(outage);
    }
    outages.sort_unstable();
    println!(
        "{patroni:?}: median {:?}, longest {:?} of {}",
        outages[outages.len() / 2],
        outages[outages.len() - 1],
        outages.len()
    );
    let visits = visitor.visits();
    drop(visitor);
    nothing_is_lost(writer).await;
    one_at_a_time(&prober, 2);
    assert_eq!(visits.in_recovery, 0, "sessions at a server in recovery");
}

async fn nothing_is_lost(writer: Writer) {
    let (account, lost) = writer.end().await;
    println!(
        "{} rows in {} sessions; failures: {:?}",
        account.acknowledged.len(),
        account.sessions,
        account.failures
    );
    assert_eq!(lost, Vec::<i64>::new());
    assert_eq!(account.in_recovery, 0, "sessions at a server in recovery");
}

/// Asserts that so many nodes at least have been primaries, and never two at once.
fn one_at_a_time(prober: &Prober, nodes: usize) {
    let answers = prober.answers();
    println!("{} answers of {} primaries", answers.0.len(), answers.nodes());
    assert_eq!(answers.doubled(), []);
    assert!(answers.nodes() >= nodes, "primaries that were asked");
}

/// What the command lines of a node's processes say, and whether that is Patroni or the postmaster.
const SINGLE: [&str; 7] = [
    "bin/patroni",
    "checkpointer",
    "background writer",
    "walwriter",
    "autovacuum launcher",
    "walsender",
    "logger",
];

fn is_postmaster(process: &Process) -> bool {
    process.command.contains("bin/postgres ")
}

fn is_patroni(process: &Process) -> bool {
    process.command.contains("bin/patroni")
}

/// Kills those of a leader's processes that are meant; answers them.
fn kill(instance: &Instance<'_>, leader: &Leader, meant: impl Fn(&Process) -> bool) -> Vec<Process> {
    let mut victims = instance.processes_of(&leader.name);
    victims.retain(|process| meant(process));
    assert!(!victims.is_empty(), "{:?}", instance.processes_of(&leader.name));
    victims.iter().for_each(Process::kill);
    victims
}

fn runs(process: &Process, instance: &Instance<'_>, leader: &Leader) -> bool {
    instance.processes_of(&leader.name).contains(process)
}

#[tokio::test]
async fn processes_are_killed_one_by_one_and_in_combinations() {
    let mut stack = stack(&["z1", "z2"], Patroni::Distribution).await;
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let writer = Writer::start(&instance.credentials).await;
    let prober = Prober::start(&instance).await;
    for victim in SINGLE {
        let leader = instance.stands(1, true).await;
        writer.goes_on(10).await;
        let postmaster = kill_one(&instance, &leader, victim).await;
        writer.goes_on(10).await;
        assert_eq!(
            instance.stands(1, true).await,
            leader,
            "{victim}: it leads as before"
        );
        assert!(
            runs(&postmaster, &instance, &leader),
            "{victim}: PostgreSQL goes on"
        );
    }
    // That the postmaster is dead alone is Patroni's matter.
    let leader = instance.stands(1, true).await;
    kill(&instance, &leader, is_postmaster);
    writer.goes_on(10).await;
    instance.stands(1, true).await;

    // Patroni and the postmaster: its backends would go on, and one of them is busy.
    let leader = instance.stands(1, true).await;
    let session = Session::open(&instance.credentials).await.unwrap();
    let busy = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let busy = tokio::spawn(async move { session.try_to(busy).await.is_err() });
    let backend = eventually("a busy backend", OPERATION, async || {
        let mut all = instance.processes_of(&leader.name).into_iter();
        all.find(|process| process.command.contains(" SELECT"))
    })
    .await;
    let mut key = KeyWatch::begin(&instance);
    kill(&instance, &leader, |process| {
        is_patroni(process) || is_postmaster(process)
    });
    assert!(!key.ends().await, "nobody waited for the ttl");
    assert!(
        !runs(&backend, &instance, &leader),
        "it was dead before the key was gone"
    );
    assert!(busy.await.unwrap());
    writer.goes_on(10).await;
    let next = instance.stands(1, true).await;
    assert_ne!(next.name, leader.name);

    // Patroni and a process whose end makes PostgreSQL start anew: PostgreSQL lives.
    let mut key = KeyWatch::begin(&instance);
    kill(&instance, &next, |process| {
        is_patroni(process) || process.command.contains("checkpointer")
    });
    writer.goes_on(10).await;
    assert_eq!(instance.stands(1, true).await, next, "it leads as before");

    // PostgreSQL first, and Patroni a moment later. Its cell waits longer each time before it starts Patroni again.
    eventually("Patroni is back", OPERATION, async || {
        let all = instance.processes_of(&next.name);
        all.iter().any(is_patroni).then_some(())
    })
    .await;
    kill(&instance, &next, is_postmaster);
    kill(&instance, &next, is_patroni);
    assert!(!key.ends().await, "nobody waited for the ttl");
    writer.goes_on(10).await;
    instance.leader(Some(&next)).await;
    nothing_is_lost(writer).await;
    one_at_a_time(&prober, 2);
}

/// Kills one process, and waits until there is another in its place; answers the postmaster.
async fn kill_one(instance: &Instance<'_>, leader: &Leader, victim: &str) -> Process {
    let processes = instance.processes_of(&leader.name);
    let postmaster = processes.into_iter().find(is_postmaster).unwrap();
    let dead = kill(instance, leader, |process| process.command.contains(victim));
    eventually(victim, OPERATION, async || {
        let there = instance.processes_of(&leader.name);
        let another = |process: &&Process| process.command.contains(victim) && !dead.contains(process);
        there.iter().find(another).map(drop)
    })
    .await;
    postmaster
}

/// The cell stands still from before the death until another node leads, and another time from the delete on (step 6). What
/// lies between is tried in the cell's own tests, at each step.
#[tokio::test]
async fn a_cell_that_stands_still_meanwhile_finds_another_leader() {
    let mut stack = stack(&["z1", "z2"], Patroni::Distribution).await;
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let writer = Writer::start(&instance.credentials).await;
    let prober = Prober::start(&instance).await;
    let leader = instance.stands(1, true).await;
    let cell = instance.cell_of(&leader.name);
    writer.goes_on(10).await;
    let mut key = KeyWatch::begin(&instance);
    instance.stack.cells[cell].server.pause();
    instance.kill(&leader.name);
    assert!(key.ends().await, "nobody is there who could have ended it");
    let next = instance.leader(Some(&leader)).await;
    instance.stack.cells[cell].server.resume();
    writer.goes_on(10).await;
    assert_eq!(instance.stands(1, true).await, next);

    // It stands still after the key is gone, before it starts Patroni again.
    let cell = instance.cell_of(&next.name);
    let mut key = KeyWatch::begin(&instance);
    instance.kill(&next.name);
    assert!(!key.ends().await, "nobody waited for the ttl");
    instance.stack.cells[cell].server.pause();
    let last = instance.leader(Some(&next)).await;
    writer.goes_on(10).await;
    assert_eq!(instance.processes_of(&next.name), [], "nobody started it");
    instance.stack.cells[cell].server.resume();
    assert_eq!(instance.stands(1, true).await, last);
    nothing_is_lost(writer).await;
    one_at_a_time(&prober, 2);
}

/// Waits until a cell says why it only starts a node again.
async fn is_only_started_again(instance: &Instance<'_>, cell: usize, reason: &str) {
    eventually(reason, OPERATION, async || {
        let log = instance.stack.log_of_cell(cell);
        let said = |line: &str| line.contains(&instance.id) && line.contains(reason);
        log.lines().any(said).then_some(())
    })
    .await;
}

#[tokio::test]
async fn where_it_is_not_right_the_node_is_only_started_again() {
    let mut stack = stack(&["z1", "z2"], Patroni::Distribution).await;
    {
        // There is nobody else.
        let alone = Instance::make(&mut stack, OTHER_PLAN, 1).await;
        let writer = Writer::start(&alone.credentials).await;
        let leader = alone.stands(0, false).await;
        writer.goes_on(10).await;
        alone.kill(&leader.name);
        is_only_started_again(
            &alone,
            alone.cell_of(&leader.name),
            "no synchronous standby is certain",
        )
        .await;
        writer.goes_on(10).await;
        assert_eq!(alone.stands(0, false).await.name, leader.name);
        nothing_is_lost(writer).await;
    }
    let instance = Instance::make(&mut stack, OTHER_PLAN, 2).await;
    let writer = Writer::start(&instance.credentials).await;
    let prober = Prober::start(&instance).await;
    let leader = instance.stands(1, true).await;
    writer.goes_on(10).await;

    // Patroni is paused.
    pause(&instance, json!(true)).await;
    instance.kill(&leader.name);
    is_only_started_again(&instance, instance.cell_of(&leader.name), "Patroni is paused").await;
    pause(&instance, Value::Null).await;
    writer.goes_on(10).await;

    assert_eq!(
        writer.account().in_recovery,
        0,
        "sessions at a server in recovery"
    );

    // etcd is away, and back before the key has run out: what could not be judged is judged then.
    let leader = instance.stands(1, true).await;
    writer.goes_on(10).await;
    let (cell, processes) = (
        instance.cell_of(&leader.name),
        instance.processes_of(&leader.name),
    );
    instance.stack.etcd.kill();
    processes.iter().for_each(Process::kill);
    is_only_started_again(&instance, cell, "etcd is unavailable").await;
    instance.stack.etcd.restart().await;
    instance.leader(Some(&leader)).await;
    writer.goes_on(10).await;
    instance.stands(1, true).await;
    // Nobody could tell the router that the leader starts again, and as a standby at first.
    let (_, lost) = writer.end().await;
    assert_eq!(lost, Vec::<i64>::new());
    one_at_a_time(&prober, 2);
}

/// Pauses Patroni, or lets it go on: by its configuration in etcd, as `patronictl` does.
async fn pause(instance: &Instance<'_>, value: Value) {
    let store = instance.stack.etcd.client();
    let key = format!("/service/{}/config", instance.id);
    let mut config = instance.cluster().await.config.unwrap();
    match value {
        Value::Null => drop(config.as_object_mut().unwrap().remove("pause")),
        value => config["pause"] = value,
    }
    store.set(&key, &config.to_string(), None).await.unwrap();
}
