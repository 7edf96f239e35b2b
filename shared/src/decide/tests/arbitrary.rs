//! Any situation at all, also ones that make no sense. Names come from small sets, so that they meet.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::fixture::{Case, at, cell, guid, node, plan, port};
use crate::{
    cluster::{Cluster, Member},
    database::{NodeSettings, Reach},
    decide::placement::CellView,
    effect::{Facts, PortFact, StartAnswer},
    ids::{CellGuid, NodeId, OperationId, Port},
    record::{
        Failover, FormerCredentials, Node, Operation, OperationKind, OperationState, Phase, PlanChange,
        PortClaim, Record, State,
    },
    roll::{Presence, Roll},
    store::Index,
};

/// Any situation, and more often than chance would have it one in which a cluster stands.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    prop_oneof![4 => anything(), 1 => clusters_that_stand(), 1 => clusters_that_change()]
}

/// A cluster that is brought to other settings, and nothing else is the matter with it.
fn clusters_that_change() -> impl Strategy<Value = Case> {
    let plan_change = option::weighted(0.2, plan_changes());
    let what = (
        2u32..5,
        settings((1..=4).map(node).collect()),
        0i64..900,
        plan_change,
    );
    what.prop_map(|(count, settings, now, plan_change)| {
        Case::update(count, count).after(now).with(|case| {
            case.record.plan_change = plan_change;
            case.plan = plan_of_version("v2");
            case.cluster.config = Some(Value::Object(case.plan.clone()));
            case.facts.settings = settings;
        })
    })
}

/// The plan with settings of this version.
fn plan_of_version(version: &str) -> Map<String, Value> {
    let mut plan = plan();
    let parameters = json!({"parameters": {"max_connections": 200, "patroni_broker.settings": version}});
    plan.insert("postgresql".to_owned(), parameters);
    plan
}

fn settings(ids: Vec<NodeId>) -> impl Strategy<Value = Option<BTreeMap<NodeId, NodeSettings>>> {
    let version = prop_oneof![1 => Just("v1"), 9 => Just("v2")];
    let limit = select(vec![100i64, 200, 300]);
    let runs_with = (version, any::<bool>(), limit).prop_map(|(version, pending, limit)| NodeSettings {
        version: version.to_owned(),
        pending,
        limits: [("max_connections".to_owned(), limit)].into(),
    });
    let of_all: Vec<_> = ids.into_iter().map(|id| (Just(id), runs_with.clone())).collect();
    option::weighted(0.9, of_all.prop_map(BTreeMap::from_iter))
}

/// A cluster that nobody is at work on, some nodes of which do not report.
fn clusters_that_stand() -> impl Strategy<Value = Case> {
    let facts = facts((1..=4).map(node).collect());
    (2u32..4, btree_set(2u128..4, 0..2), facts, 0i64..900).prop_map(|(count, silent, facts, now)| {
        let case = Case::standing(count).idle().after(now);
        let case = case.with(|case| case.facts = facts);
        silent.into_iter().fold(case, Case::silent)
    })
}

fn anything() -> impl Strategy<Value = Case> {
    (seeds(), clusters(), times())
        .prop_flat_map(|(seed, cluster, now)| {
            (
                records(ids(seed)),
                Just(cluster),
                facts(ids(seed)),
                prop_oneof![2 => Just(plan()), 1 => Just(plan_of_version("v2"))],
                (Just(now), Just(seed)),
            )
        })
        .prop_map(|(record, cluster, facts, plan, (now, seed))| Case {
            record,
            cluster,
            facts,
            plan,
            now,
            seed,
        })
}

fn seeds() -> impl Strategy<Value = Uuid> {
    (0u128..3).prop_map(Uuid::from_u128)
}

/// Ids of nodes, among them some that a pass with this seed would think of.
fn ids(seed: Uuid) -> Vec<NodeId> {
    let case = Case::claimed(1).with(|case| case.seed = seed);
    let fresh = (0..4).map(|n| case.situation().fresh_node(n));
    (1..=4).map(node).chain(fresh).collect()
}

/// Nodes lead and publish more often than strangers do.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => (1u128..=4).prop_map(|n| node(n).to_string()),
        1 => Just("stranger".to_owned()),
    ]
}

fn times() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
        20 => (-200i64..900).prop_map(at),
    ]
}

fn guids() -> impl Strategy<Value = CellGuid> {
    select(vec!["c1", "c2", "c3", "c4", "c5", "c6"]).prop_map(guid)
}

fn zones() -> impl Strategy<Value = String> {
    select(vec!["z1", "z2", "z3"]).prop_map(str::to_owned)
}

fn port_numbers() -> impl Strategy<Value = Port> {
    (30000u16..30003).prop_map(port)
}

fn claims() -> impl Strategy<Value = PortClaim> {
    prop_oneof![
        2 => (port_numbers(), prop_oneof![Just(0u32), Just(u32::MAX)])
            .prop_map(|(port, misses)| PortClaim::Candidate { port, misses }),
        5 => port_numbers().prop_map(|port| PortClaim::Owned { port }),
        1 => Just(PortClaim::Released),
    ]
}

fn nodes() -> impl Strategy<Value = Node> {
    let phases = select(vec![
        Phase::Assigned,
        Phase::Running,
        Phase::Running,
        Phase::Leaving,
    ]);
    let missing = option::weighted(0.2, times());
    (
        guids(),
        zones(),
        phases,
        times(),
        missing,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(cell, availability_zone, phase, assigned, missing_since, credentials_due)| Node {
                cell,
                availability_zone,
                phase,
                assigned,
                missing_since,
                credentials_due,
            },
        )
}

fn operations() -> impl Strategy<Value = Operation> {
    let kinds = select(vec![
        OperationKind::Provision,
        OperationKind::Update,
        OperationKind::Deprovision,
        OperationKind::Recreate,
        OperationKind::Rotate,
    ]);
    let states = select(vec![
        OperationState::InProgress,
        OperationState::Succeeded,
        OperationState::Failed,
    ]);
    (any::<u128>(), kinds, states, times(), times()).prop_map(|(id, kind, state, started, deadline)| {
        Operation {
            id: OperationId::from(Uuid::from_u128(id)),
            kind,
            state,
            description: String::new(),
            started,
            deadline,
            ended: None,
            originating_identity: None,
        }
    })
}

fn records(ids: Vec<NodeId>) -> impl Strategy<Value = Record> {
    let placed = btree_map(select(ids.clone()), nodes(), 0..5);
    let what = (
        0u32..5,
        option::weighted(0.3, vec(guids(), 0..5)),
        claims(),
        placed,
        subsequence(ids, 0..4),
    );
    let states = prop_oneof![3 => Just(State::Active), 1 => Just(State::Deleting)];
    let known = option::of(select(vec!["v1".to_owned(), "v2".to_owned()]));
    let plan_change = option::weighted(0.2, plan_changes());
    let how = (
        (states, known, any::<bool>(), plan_change),
        any::<bool>(),
        times(),
        prop_oneof![0u32..5, Just(u32::MAX)],
        option::of(times()),
        option::weighted(0.7, operations()),
        option::of(operations()),
    );
    (what, how).prop_map(|(what, how)| {
        let mut record = Case::claimed(what.0).record;
        let changing;
        (_, record.cells, record.port, record.nodes, record.retired) = what;
        // No id is both.
        record.retired.retain(|id| !record.nodes.contains_key(id));
        (
            (record.state, record.settings, changing, record.plan_change),
            record.bootstrapped,
            record.bootstrap_started,
            record.bootstrap_restarts,
            record.scope_cleared,
            record.operation,
            record.last_operation,
        ) = how;
        record.former_credentials = changing.then(|| FormerCredentials {
            master_key: "older".to_owned(),
            generation: 0,
        });
        record
    })
}

fn plan_changes() -> impl Strategy<Value = PlanChange> {
    let failover = select(vec![Failover::Promote, Failover::Restart]);
    failover.prop_map(|failover| PlanChange {
        from: "former".to_owned(),
        failover,
    })
}

fn members() -> impl Strategy<Value = Member> {
    let states = prop_oneof![
        4 => Just("running"),
        1 => select(vec!["stopped", "starting", "creating replica", "crashed", "unknown", ""]),
    ];
    let roles = select(vec![
        "replica", "replica", "master", "primary", "promoted", "demoted", "?",
    ]);
    let streams = option::of(select(vec!["streaming", "streaming", "in archive recovery"]));
    (
        states,
        roles,
        option::of(1u64..3),
        streams,
        any::<bool>(),
        option::of(Just(Index::MIN)),
    )
        .prop_map(|(state, role, timeline, streams, nofailover, index)| Member {
            state: state.to_owned(),
            role: role.to_owned(),
            timeline,
            address: None,
            api: None,
            replication_state: streams.map(str::to_owned),
            position: None,
            nofailover,
            index,
        })
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let configurations = prop_oneof![
        3 => Just(Some(Value::Object(plan()))),
        1 => select(vec!["v1", "v2"]).prop_map(|version| Some(Value::Object(plan_of_version(version)))),
        1 => select(vec![
            None,
            Some(Value::Null),
            Some(json!([1])),
            Some(json!({"ttl": {"loop_wait": 1}})),
            Some(json!({"ttl": 30, "loop_wait": 2})),
        ]),
    ];
    let keys = || select(vec!["/service/f1/a", "/service/f1/b"]).prop_map(str::to_owned);
    let leaves = vec((keys(), Just(Index::MIN)), 0..3);
    (
        option::weighted(0.8, select(vec!["", "73", "74"])),
        option::weighted(0.8, names()),
        btree_map(names(), members(), 0..6),
        configurations,
        leaves,
        vec(keys(), 0..2),
        any::<bool>(),
    )
        .prop_map(
            |(initialize, leader, members, config, leaves, directories, exists)| Cluster {
                initialize: initialize.map(str::to_owned),
                leader,
                members,
                config,
                synchronous: vec![],
                leaves,
                directories,
                exists,
            },
        )
}

fn views() -> impl Strategy<Value = Vec<CellView>> {
    btree_map(guids(), (zones(), 0u32..3, any::<bool>()), 0..6).prop_map(|cells| {
        let view = |(guid, (zone, load, alive)): (CellGuid, (String, u32, bool))| {
            let mut view = cell(guid.as_str(), &zone);
            view.room = view.room.filter(|_| alive).map(|mut room| {
                (room.load, room.capacity) = (load, 2);
                room
            });
            view
        };
        cells.into_iter().map(view).collect()
    })
}

fn rolls() -> impl Strategy<Value = Roll> {
    let since = prop_oneof![1 => times(), 3 => Just(at(-1000))];
    let presence = (option::weighted(0.3, since), prop::bool::weighted(0.1));
    btree_map(guids(), presence, 3..6).prop_map(|cells| {
        let presence = |(missing_since, destroyed): (Option<Timestamp>, bool)| Presence {
            missing_since,
            destroyed: missing_since.filter(|_| destroyed),
            needed: None,
        };
        Roll {
            looked: at(0),
            cells: cells
                .into_iter()
                .map(|(guid, what)| (guid, presence(what)))
                .collect(),
        }
    })
}

fn port_facts() -> impl Strategy<Value = PortFact> {
    prop_oneof![
        4 => Just(PortFact::Unknown),
        3 => port_numbers().prop_map(PortFact::Ours),
        3 => (port_numbers(), port_numbers())
            .prop_filter("a port does not follow itself", |(port, next)| port != next)
            .prop_map(|(port, next)| PortFact::Taken { port, next }),
        1 => Just(PortFact::Exhausted),
    ]
}

fn answers() -> impl Strategy<Value = StartAnswer> {
    prop_oneof![
        option::of(0..4u32).prop_map(StartAnswer::Accepted),
        Just(StartAnswer::Refused("no".to_owned())),
        Just(StartAnswer::Unclear("?".to_owned())),
    ]
}

fn facts(ids: Vec<NodeId>) -> impl Strategy<Value = Facts> {
    let prepared = prop_oneof![
        1 => Just(None),
        4 => Just(Some(Ok(()))),
        1 => Just(Some(Err("refused".to_owned()))),
    ];
    let logins = select(vec![None, Some(Ok(())), Some(Err("refused".to_owned()))]);
    let passwords = select(vec![
        None,
        Some(Ok(Reach::All)),
        Some(Ok(Reach::Leader)),
        Some(Err("refused".to_owned())),
    ]);
    let streams = select(vec!["streaming".to_owned(), "catchup".to_owned()]);
    (
        (
            option::of(views()),
            option::weighted(0.5, rolls()),
            settings(ids.clone()),
        ),
        port_facts(),
        btree_map(select(ids.clone()), answers(), 0..3),
        btree_set(select(ids.clone()), 0..5),
        btree_map(select(ids), Just("why".to_owned()), 0..2),
        prepared,
        option::of(btree_map(names(), streams, 0..4)),
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            logins,
            passwords,
        ),
    )
        .prop_map(
            |((cells, roll, settings), port, started, removed, not_removed, prepared, replication, done)| {
                Facts {
                    cells,
                    roll,
                    port,
                    started,
                    removed,
                    not_removed,
                    prepared,
                    replication,
                    settings,
                    logins: done.4,
                    passwords: done.5,
                    port_released: done.0,
                    bindings_dropped: done.1,
                    marked: done.3,
                    gone: done.2,
                    troubles: vec![],
                }
            },
        )
}
