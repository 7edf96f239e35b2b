//! What `last_operation` tells, in the words of the original's README.

use super::fixture::{Case, member, node};
use crate::{decide::describe, record::Phase};

/// Tells what a cluster is like whose nodes publish these states and roles, and who holds the leader key.
fn told(wanted: u32, members: &[Option<(&str, &str)>], leader: Option<u128>) -> String {
    let mut case = Case::assigned(members.len().try_into().unwrap());
    case.record.node_count = wanted;
    for (n, published) in (1..).zip(members) {
        if let Some((state, role)) = published {
            case = case.publishes(n, member(state, role));
        }
    }
    case.cluster.leader = leader.map(|n| node(n).to_string());
    describe::cluster(&case.record, &case.cluster)
}

const SILENT: Option<(&str, &str)> = None;
const STOPPED: Option<(&str, &str)> = Some(("stopped", "uninitialized"));
const REPLICA: Option<(&str, &str)> = Some(("running", "replica"));
const PATRONI_3: Option<(&str, &str)> = Some(("running", "master"));
const PATRONI_4: Option<(&str, &str)> = Some(("running", "primary"));
const PROMOTED: Option<(&str, &str)> = Some(("running", "promoted"));

#[test]
fn two_nodes_as_in_the_readme() {
    for (members, leader, expected) in [
        ([SILENT, SILENT], None, "members stopped, stopped"),
        ([STOPPED, STOPPED], None, "members stopped, stopped"),
        ([PATRONI_3, STOPPED], Some(1), "master running; replicas stopped"),
        ([PATRONI_3, REPLICA], Some(1), "master running; replicas running"),
        ([REPLICA, PATRONI_3], Some(2), "master running; replicas running"),
    ] {
        assert_eq!(told(2, &members, leader), expected);
    }
}

#[test]
fn four_nodes_as_in_the_readme() {
    let starting = Some(("starting", "replica"));
    for (members, leader, expected) in [
        ([SILENT; 4], None, "members stopped, stopped, stopped, stopped"),
        (
            [STOPPED, PATRONI_3, starting, SILENT],
            Some(2),
            "master running; replicas stopped, starting, stopped",
        ),
        (
            [REPLICA, PATRONI_3, starting, REPLICA],
            Some(2),
            "master running; replicas running, starting, running",
        ),
        (
            [REPLICA, PATRONI_3, REPLICA, REPLICA],
            Some(2),
            "master running; replicas running, running, running",
        ),
    ] {
        assert_eq!(told(4, &members, leader), expected);
    }
}

#[test]
fn two_nodes_of_patroni_4() {
    for (members, leader, expected) in [
        ([PATRONI_4, SILENT], Some(1), "master running; replicas stopped"),
        ([PATRONI_4, STOPPED], Some(1), "master running; replicas stopped"),
        ([PATRONI_4, REPLICA], Some(1), "master running; replicas running"),
        ([REPLICA, PATRONI_4], Some(2), "master running; replicas running"),
    ] {
        assert_eq!(told(2, &members, leader), expected);
    }
}

#[test]
fn four_nodes_of_patroni_4() {
    for (members, leader, expected) in [
        ([STOPPED; 4], None, "members stopped, stopped, stopped, stopped"),
        (
            [SILENT, STOPPED, SILENT, PATRONI_4],
            Some(4),
            "master running; replicas stopped, stopped, stopped",
        ),
        (
            [REPLICA, STOPPED, REPLICA, PATRONI_4],
            Some(4),
            "master running; replicas running, stopped, running",
        ),
        (
            [REPLICA, REPLICA, REPLICA, PATRONI_4],
            Some(4),
            "master running; replicas running, running, running",
        ),
    ] {
        assert_eq!(told(4, &members, leader), expected);
    }
}

/// Patroni 3.0 writes this for a moment when the first node was initialised.
#[test]
fn a_primary_that_still_starts_is_no_master_yet() {
    for role in ["master", "primary"] {
        let starting = Some(("starting", role));
        for leader in [None, Some(1)] {
            assert_eq!(told(1, &[starting], leader), "members starting");
            assert_eq!(told(2, &[starting, STOPPED], leader), "members starting, stopped");
            assert_eq!(
                told(4, &[starting, SILENT, STOPPED, SILENT], leader),
                "members starting, stopped, stopped, stopped"
            );
        }
    }
}

#[test]
fn one_node() {
    for (member, leader, expected) in [
        (SILENT, None, "members stopped"),
        (
            Some(("initializing new cluster", "uninitialized")),
            None,
            "members initializing new cluster",
        ),
        (PATRONI_3, Some(1), "master running"),
        (PATRONI_4, Some(1), "master running"),
        (PROMOTED, Some(1), "master running"),
        (Some(("crashed", "primary")), Some(1), "master crashed"),
    ] {
        assert_eq!(told(1, &[member], leader), expected);
    }
}

#[test]
fn other_states_appear_as_patroni_names_them() {
    let creating = Some(("creating replica", "uninitialized"));
    assert_eq!(
        told(2, &[PATRONI_4, creating], Some(1)),
        "master running; replicas creating replica"
    );
    assert_eq!(
        told(2, &[creating, STOPPED], None),
        "members creating replica, stopped"
    );
}

#[test]
fn nodes_that_are_not_placed_yet_count_as_stopped() {
    assert_eq!(told(2, &[], None), "members stopped, stopped");
    assert_eq!(
        told(3, &[PATRONI_4], Some(1)),
        "master running; replicas stopped, stopped"
    );
}

#[test]
fn a_primary_is_one_before_the_leader_key_exists_if_it_is_the_only_one() {
    assert_eq!(
        told(2, &[PATRONI_4, STOPPED], None),
        "master running; replicas stopped"
    );
    assert_eq!(told(2, &[PATRONI_4, PATRONI_4], None), "members running, running");
}

#[test]
fn two_primaries_are_one_master_and_whoever_has_no_leader_key() {
    assert_eq!(
        told(2, &[PATRONI_4, PATRONI_4], Some(2)),
        "master running; replicas running"
    );
}

#[test]
fn during_a_failover_there_is_no_master() {
    let demoted = Some(("stopping", "demoted"));
    assert_eq!(told(2, &[demoted, REPLICA], None), "members stopping, running");
    // The key has gone to one that is not promoted yet.
    assert_eq!(told(2, &[demoted, REPLICA], Some(2)), "members stopping, running");
}

#[test]
fn nodes_on_their_way_out_are_not_told() {
    let case = Case::standing(3).phase(3, Phase::Leaving);
    assert_eq!(
        describe::cluster(
            &case.clone().with(|case| case.record.node_count = 2).record,
            &case.cluster
        ),
        "master running; replicas running"
    );
}
