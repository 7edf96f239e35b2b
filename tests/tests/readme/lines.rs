//! What each line of the README is known by, and what it must have told and done.

use serde_json::Value;
use tests::readme::Told;

use super::scene::Scene;

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

pub(crate) type Check = fn(&mut Scene, &Told);

/// What each line is known by, and what it must have told and done. They stand in the README's order.
pub(crate) const LINES: &[(&str, Check)] = &[
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
