//! What is decided, by table.

mod fuzz;

use serde_json::json;
use shared::record::Node;
use uuid::Uuid;

use super::{super::super::fixture, *};

fn node(number: u128) -> NodeId {
    Uuid::from_u128(number).into()
}

fn id() -> Identity {
    Identity {
        cell: "c1".parse().unwrap(),
        instance: "i1".parse().unwrap(),
        incarnation: Uuid::from_u128(1).into(),
        node: node(10),
    }
}

/// A leader and two replicas, the first of them synchronous.
struct Case {
    record: Option<Record>,
    keys: BTreeMap<String, (Value, Option<u64>)>,
    answers: BTreeMap<String, Answer>,
    last: Option<u64>,
}

const INDEX: u64 = 77;

fn placed(cell: &str, phase: Phase) -> Node {
    fixture::node(phase, &cell.parse().unwrap())
}

fn name(number: u128) -> String {
    node(number).to_string()
}

fn member(role: &str) -> Value {
    json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": role,
        "timeline": 3, "xlog_location": 5000,
    })
}

impl Case {
    fn new() -> Self {
        let mut record = fixture::record(&id().instance, id().incarnation);
        record.bootstrapped = true;
        record.failover = Some(Failover::Promote);
        for (number, cell) in [(10, "c1"), (11, "c2"), (12, "c3")] {
            record.nodes.insert(node(number), placed(cell, Phase::Running));
        }
        let answer = Answer {
            running: true,
            replica: true,
            position: 5000,
        };
        let members = [(10, "master"), (11, "replica"), (12, "replica")];
        let members = members.map(|(number, role)| {
            let key = format!("members/{}", name(number));
            (key, (member(role), Some(25)))
        });
        let mut keys = BTreeMap::from(members);
        keys.insert("leader".into(), (json!(name(10)), Some(25)));
        keys.insert(
            "config".into(),
            (json!({"synchronous_mode": true, "ttl": 30}), None),
        );
        keys.insert("status".into(), (json!({"optime": 5000}), None));
        let sync = json!({"leader": name(10), "sync_standby": name(11)});
        keys.insert("sync".into(), (sync, None));
        Self {
            record: Some(record),
            keys,
            answers: [11, 12].map(|number| (name(number), answer.clone())).into(),
            last: None,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn recorded(self, change: impl FnOnce(&mut Record)) -> Self {
        self.with(|case| change(case.record.as_mut().unwrap()))
    }

    fn key(self, key: &str, value: Value) -> Self {
        self.with(|case| {
            let ttl = case.keys.get(key).and_then(|(_, ttl)| *ttl);
            case.keys.insert(key.to_owned(), (value, ttl));
        })
    }

    fn without(self, key: &str) -> Self {
        self.with(|case| drop(case.keys.remove(key)))
    }

    fn member(self, number: u128, change: impl FnOnce(&mut Value)) -> Self {
        self.with(|case| {
            let key = format!("members/{}", name(number));
            change(&mut case.keys.get_mut(&key).unwrap().0);
        })
    }

    fn answer(self, number: u128, change: impl FnOnce(&mut Answer)) -> Self {
        self.with(|case| change(case.answers.get_mut(&name(number)).unwrap()))
    }

    fn silent(self, number: u128) -> Self {
        self.with(|case| case.answers.retain(|who, _| *who != name(number)))
    }

    fn asynchronous(self) -> Self {
        self.key("config", json!({"ttl": 30})).without("sync")
    }

    fn verdict(&self) -> Verdict {
        let leaf = |(key, (value, ttl)): (&String, &(Value, Option<u64>))| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let entry = Entry {
                value: text,
                index: Index::new(if key == "leader" { INDEX } else { 5 }).unwrap(),
                ttl: ttl.map(Duration::from_secs),
            };
            (format!("/service/i1/{key}"), entry)
        };
        let tree = Tree {
            leaves: self.keys.iter().map(leaf).collect(),
            ..Tree::default()
        };
        verdict(&Facts {
            id: &id(),
            record: self.record.as_ref(),
            tree: (!self.keys.is_empty()).then_some(&tree),
            answers: &self.answers,
            last: self.last.map(Duration::from_secs),
        })
    }
}

const PROMOTE: Verdict = Verdict::Promote(Index::new(INDEX).unwrap());

fn restarts(reason: Reason, cases: Vec<(&str, Case)>) {
    for (what, case) in cases {
        assert_eq!(case.verdict(), Verdict::Restart(reason), "{what}");
    }
}

#[test]
fn a_dead_leader_with_somebody_to_follow_it_gives_its_place_up() {
    let plan = |failover| move |record: &mut Record| record.failover = failover;
    for (what, case) in [
        ("synchronous", Case::new()),
        ("synchronous, by default", Case::new().recorded(plan(None))),
        ("asynchronous, as the plan says", Case::new().asynchronous()),
        (
            "the words of Patroni 4",
            Case::new()
                .member(10, |member| member["role"] = json!("primary"))
                .member(11, |member| member["replication_state"] = json!("streaming")),
        ),
        (
            "a switchover that is done",
            Case::new().key("failover", json!({})),
        ),
        (
            "more than a minute later",
            Case::new().with(|case| case.last = Some(60)),
        ),
        (
            "the other replica is of no use",
            Case::new().member(12, |member| member["state"] = json!("stopped")),
        ),
        (
            "within the lag that the plan accepts",
            Case::new()
                .key("status", json!({"optime": 5000 + (1 << 20)}))
                .answer(12, |answer| answer.position = 0),
        ),
        ("no status yet", Case::new().without("status")),
        (
            "a leader on its way out",
            Case::new().recorded(|record| drop(record.nodes.insert(node(10), placed("c1", Phase::Leaving)))),
        ),
        (
            "two synchronous standbys",
            Case::new()
                .key(
                    "sync",
                    json!({"leader": name(10), "sync_standby": format!("{},{}", name(12), name(11))}),
                )
                .silent(12),
        ),
    ] {
        assert_eq!(case.verdict(), PROMOTE, "{what}");
    }
}

#[test]
fn what_the_plan_prefers_counts() {
    let restart = |record: &mut Record| record.failover = Some(Failover::Restart);
    restarts(
        Reason::Preferred,
        vec![
            ("synchronous", Case::new().recorded(restart)),
            ("asynchronous", Case::new().asynchronous().recorded(restart)),
            (
                "asynchronous, by default",
                Case::new()
                    .asynchronous()
                    .recorded(|record| record.failover = None),
            ),
        ],
    );
    let seconds = |ago| Case::new().with(|case| case.last = Some(ago));
    restarts(
        Reason::Recent,
        vec![("now", seconds(0)), ("just now", seconds(59))],
    );
}

#[test]
fn a_node_that_does_not_certainly_lead_keeps_off() {
    restarts(
        Reason::NotHere,
        vec![
            ("no record", Case::new().with(|case| case.record = None)),
            (
                "not named",
                Case::new().recorded(|record| drop(record.nodes.remove(&node(10)))),
            ),
            (
                "on another cell",
                Case::new()
                    .recorded(|record| drop(record.nodes.insert(node(10), placed("c2", Phase::Running)))),
            ),
            (
                "another incarnation",
                Case::new().recorded(|record| record.incarnation = Uuid::from_u128(2).into()),
            ),
            (
                "deleting",
                Case::new().recorded(|record| record.state = State::Deleting),
            ),
            (
                "it never stood",
                Case::new().recorded(|record| record.bootstrapped = false),
            ),
        ],
    );
    restarts(
        Reason::NotLeader,
        vec![
            ("no cluster", Case::new().with(|case| case.keys.clear())),
            ("no leader", Case::new().without("leader")),
            ("another leader", Case::new().key("leader", json!(name(11)))),
        ],
    );
}

#[test]
fn a_cluster_that_somebody_else_has_a_hand_in_is_left_alone() {
    let config = |value: Value| Case::new().key("config", value);
    restarts(
        Reason::Unreadable,
        vec![
            ("no configuration", Case::new().without("config")),
            ("not JSON", config(json!("{"))),
            ("not a configuration", config(json!({"ttl": "x"}))),
            ("an unknown mode", config(json!({"synchronous_mode": "quorum"}))),
        ],
    );
    restarts(
        Reason::Paused,
        vec![
            ("paused", config(json!({"synchronous_mode": true, "pause": true}))),
            ("paused in other words", config(json!({"pause": "on"}))),
            (
                "a standby cluster",
                config(json!({"standby_cluster": {"host": "h"}})),
            ),
        ],
    );
    restarts(
        Reason::UnderWay,
        vec![
            (
                "to somebody",
                Case::new().key("failover", json!({"member": name(12)})),
            ),
            (
                "at some time",
                Case::new().key(
                    "failover",
                    json!({"leader": name(10), "scheduled_at": "2030-01-01T00:00:00Z"}),
                ),
            ),
            ("not understood", Case::new().key("failover", json!("x:y"))),
        ],
    );
}

#[test]
fn the_timeline_must_be_known_and_the_synchronous_standbys_certain() {
    let own = |change: fn(&mut Value)| Case::new().member(10, change);
    restarts(
        Reason::UnknownTimeline,
        vec![
            (
                "no timeline",
                own(|member| drop(member.as_object_mut().unwrap().remove("timeline"))),
            ),
            ("not a primary", own(|member| member["role"] = json!("replica"))),
            ("no key", Case::new().without(&format!("members/{}", name(10)))),
        ],
    );
    let sync = |value: Value| Case::new().key("sync", value);
    restarts(
        Reason::NotSynchronous,
        vec![
            ("none", Case::new().without("sync")),
            ("nobody", sync(json!({"leader": name(10), "sync_standby": null}))),
            (
                "of another leader",
                sync(json!({"leader": name(12), "sync_standby": name(11)})),
            ),
            ("of no leader", sync(json!({"sync_standby": name(11)}))),
            ("not JSON", sync(json!("{"))),
        ],
    );
}

#[test]
fn somebody_must_be_able_to_take_over() {
    let only = |change: &dyn Fn(&mut Value)| Case::new().member(11, change);
    let mut cases = vec![
        ("gone", Case::new().without(&format!("members/{}", name(11)))),
        ("stopped", only(&|member| member["state"] = json!("stopped"))),
        (
            "being made",
            only(&|member| member["role"] = json!("uninitialized")),
        ),
        (
            "on another timeline",
            only(&|member| member["timeline"] = json!(2)),
        ),
        (
            "it must not",
            only(&|member| member["tags"] = json!({"nofailover": true})),
        ),
        (
            "it does not stream",
            only(&|member| member["replication_state"] = json!("in archive recovery")),
        ),
        (
            "without an API",
            only(&|member| drop(member.as_object_mut().unwrap().remove("api_url"))),
        ),
        (
            "it leaves",
            Case::new().recorded(|record| drop(record.nodes.insert(node(11), placed("c2", Phase::Leaving)))),
        ),
        (
            "it is not the record's",
            Case::new().recorded(|record| drop(record.nodes.remove(&node(11)))),
        ),
        (
            "stale",
            Case::new().with(|case| case.keys.get_mut(&format!("members/{}", name(11))).unwrap().1 = Some(9)),
        ),
        (
            "for ever",
            Case::new().with(|case| case.keys.get_mut(&format!("members/{}", name(11))).unwrap().1 = None),
        ),
    ];
    // Only the synchronous one counts, though the other one could.
    cases.push((
        "one node only",
        Case::new().asynchronous().with(|case| {
            case.keys.remove(&format!("members/{}", name(11)));
            case.keys.remove(&format!("members/{}", name(12)));
        }),
    ));
    restarts(Reason::NoCandidate, cases);
}

#[test]
fn who_may_take_over_must_confirm_it() {
    let only = |change: fn(&mut Answer)| Case::new().answer(11, change);
    restarts(
        Reason::NoAnswer,
        vec![
            ("silent", Case::new().silent(11)),
            ("not running", only(|answer| answer.running = false)),
            ("a primary", only(|answer| answer.replica = false)),
            (
                "too far behind",
                Case::new()
                    .key("status", json!({"optime": 5001 + (1 << 20)}))
                    .answer(11, |answer| answer.position = 0),
            ),
        ],
    );
}
