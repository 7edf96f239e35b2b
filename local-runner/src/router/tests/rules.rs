//! The rules that make routes, by table.

use std::{collections::BTreeSet, time::Duration};

use super::{
    bench::INCARNATION,
    view::{View, port, removed},
};
use crate::router::outage::{GRACE, SILENCE};

fn member(address: &str, role: &str) -> String {
    super::bench::member(address.parse().unwrap(), role)
}

fn cluster() -> Vec<(String, String)> {
    [
        ("/service/i1/members/a", member("10.0.0.1:5432", "primary")),
        ("/service/i1/members/b", member("10.0.0.2:5432", "replica")),
        ("/service/i1/leader", "a".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// With an instance `i1` on port 31000, and members `a` and `b`; `a` leads.
fn view_of_cluster() -> View {
    let mut view = View::new();
    view.put("/routing/ports/31000", &format!("i1 {INCARNATION}"));
    view.put("/routing/allocation/i1", "31000");
    for (key, value) in cluster() {
        view.put(&key, &value);
    }
    view
}

const A: &str = "10.0.0.1:5432";
const B: &str = "10.0.0.2:5432";

#[test]
fn the_holder_of_the_leader_key_is_served() {
    let mut view = view_of_cluster();
    assert_eq!(view.leads(31000), A);
    assert_eq!(view.put("/service/i1/leader", "b"), BTreeSet::from([port(31000)]));
    assert_eq!(view.leads(31000), B);
    // Its address changes.
    view.put("/service/i1/members/b", &member("10.0.0.3:5432", "primary"));
    assert_eq!(view.leads(31000), "10.0.0.3:5432");
    assert_eq!(view.complaints, Vec::<String>::new());
}

#[test]
fn heartbeats_change_nothing() {
    let mut view = view_of_cluster();
    for (key, value) in cluster() {
        assert_eq!(view.put(&key, &value), BTreeSet::new(), "{key}");
    }
    for key in [
        "status",
        "config",
        "initialize",
        "history",
        "failover",
        "members/x/y",
    ] {
        assert_eq!(
            view.put(&format!("/service/i1/{key}"), "{}"),
            BTreeSet::new(),
            "{key}"
        );
    }
    assert_eq!(
        view.put("/service/i1/members/b", &member(B, "primary")),
        BTreeSet::new()
    );
    assert_eq!(view.leads(31000), A);
}

#[test]
fn a_leader_whose_member_key_is_missing_is_unknown_unless_it_was_served_before() {
    let mut view = view_of_cluster();
    view.expire("/service/i1/members/a");
    assert_eq!(view.leads(31000), A);
    view.put("/service/i1/leader", "a");
    assert_eq!(view.leads(31000), A);
    view.put("/service/i1/leader", "c");
    assert_eq!(view.leads(31000), "?");
    view.put("/service/i1/leader", "a");
    assert_eq!(view.leads(31000), "?");
    view.put("/service/i1/members/a", &member(A, "primary"));
    assert_eq!(view.leads(31000), A);
}

#[test]
fn a_member_key_that_is_not_understood_counts_as_missing() {
    let mut view = view_of_cluster();
    view.put("/service/i1/members/a", "{");
    assert_eq!(view.leads(31000), A);
    view.put("/service/i1/members/b", "[]");
    view.put("/service/i1/leader", "b");
    assert_eq!(view.leads(31000), "?");
    // Each is said once.
    view.put("/service/i1/members/b", "[]");
    assert_eq!(
        view.complaints,
        [
            "/service/i1/members/a: it is not an object with a conn_url",
            "/service/i1/members/b: it is not an object with a conn_url",
        ]
    );
}

#[test]
fn a_leader_key_that_is_gone_makes_the_leader_unknown() {
    let away: [fn(&mut View); 7] = [
        |view| drop(view.remove("/service/i1/leader")),
        |view| drop(view.expire("/service/i1/leader")),
        |view| drop(view.remove("/service/i1")),
        |view| drop(view.remove("/service")),
        |view| drop(view.snapshot("/service", &cluster()[..2])),
        |view| drop(view.snapshot("/service", &[])),
        // A deletion is meant, also after an outage.
        |view| {
            view.lost();
            view.snapshot("/service", &cluster());
            view.remove("/service/i1/leader");
        },
    ];
    for (number, away) in away.iter().enumerate() {
        let mut view = view_of_cluster();
        away(&mut view);
        assert_eq!(view.leads(31000), "?", "{number}");
        assert_eq!(view.routes.deadline(), None, "{number}");
        view.put("/service/i1/members/b", &member(B, "primary"));
        view.put("/service/i1/leader", "b");
        assert_eq!(view.leads(31000), B, "{number}");
    }
}

#[test]
fn an_outage_of_etcd_cuts_no_leader_off() {
    let mut view = view_of_cluster();
    view.lost();
    view.wait(10 * GRACE);
    assert_eq!(view.leads(31000), A);

    // It is back, and nothing is left of the cluster's keys.
    assert_eq!(view.snapshot("/service", &[]), BTreeSet::new());
    assert_eq!(view.leads(31000), A);
    let deadline = view.routes.deadline().unwrap();
    assert_eq!(deadline, view.now + GRACE);
    // One that is no primary does not count against it.
    view.put("/service/i1/members/b", &member(B, "replica"));
    view.wait(GRACE - Duration::from_secs(1));
    assert_eq!(view.leads(31000), A);
    // It takes its key again, and so the end of the grace means nothing.
    view.put("/service/i1/leader", "a");
    view.wait(GRACE);
    assert_eq!(view.leads(31000), A);
    assert_eq!(view.routes.deadline(), None);
}

#[test]
fn the_grace_after_an_outage_ends() {
    let mut view = view_of_cluster();
    view.lost();
    view.snapshot("/service", &cluster());
    view.expire("/service/i1/leader");
    assert_eq!(view.leads(31000), A);
    // Nor does another snapshot, or the directory's going, cut it off.
    view.snapshot("/service", &cluster()[..2]);
    view.expire("/service/i1/members/a");
    assert_eq!(view.leads(31000), A);
    view.wait(GRACE);
    assert_eq!(view.leads(31000), "?");
    // When etcd has been well for that long, there is no grace any more.
    view.put("/service/i1/leader", "a");
    for _ in 0..10 {
        view.wait(GRACE / 10);
        view.put("/service/i1/members/a", &member(A, "primary"));
    }
    assert_eq!(view.leads(31000), A);
    view.expire("/service/i1/leader");
    assert_eq!(view.leads(31000), "?");
}

#[test]
fn the_grace_ends_when_another_leads_or_the_leader_says_that_it_is_none() {
    let mut view = view_of_cluster();
    view.lost();
    view.snapshot("/service", &cluster()[..2]);
    assert_eq!(view.leads(31000), A);
    view.put("/service/i1/leader", "b");
    assert_eq!(view.leads(31000), B);

    let mut view = view_of_cluster();
    view.lost();
    view.snapshot("/service", &cluster()[..2]);
    view.put("/service/i1/members/a", &member(A, "replica"));
    assert_eq!(view.leads(31000), "?");
    // It is not taken up again without the key.
    view.put("/service/i1/members/a", &member(A, "primary"));
    assert_eq!(view.leads(31000), "?");
}

#[test]
fn silence_of_all_members_counts_as_an_outage() {
    let mut view = view_of_cluster();
    view.wait(SILENCE + Duration::from_secs(1));
    view.expire("/service/i1/leader");
    assert_eq!(view.leads(31000), A);
    view.wait(GRACE);
    assert_eq!(view.leads(31000), "?");
}

#[test]
fn a_port_is_routed_when_allocation_and_owner_agree() {
    let mut view = view_of_cluster();
    view.remove("/routing/allocation/i1");
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", "quarantine");
    view.expire("/routing/ports/31000");
    assert_eq!(view.complaints, Vec::<String>::new());

    view.put("/routing/allocation/i1", "31000");
    view.put("/routing/allocation/i1", "31000");
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", &format!("i2 {INCARNATION}"));
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", &format!("i1 {INCARNATION}"));
    assert_eq!(view.leads(31000), A);
    view.put("/routing/ports/31000", "i1 1");
    assert_eq!(view.leads(31000), "-");
    assert_eq!(
        view.complaints,
        [
            "/routing/allocation/i1: nobody owns port 31000: it is not served",
            "/routing/allocation/i1: port 31000 is owned by i2: it is not served",
            "/routing/ports/31000: \"i1 1\" names no instance",
            "/routing/allocation/i1: nobody owns port 31000: it is not served",
        ]
    );
}

#[test]
fn another_life_of_an_instance_is_another_route() {
    let mut view = view_of_cluster();
    let incarnation = "1f5c1670-6dc3-41e5-bc08-6c4008a663f0";
    let changed = view.put("/routing/ports/31000", &format!("i1 {incarnation}"));
    assert_eq!(changed, BTreeSet::from([port(31000)]));
    let route = view.routes.get(port(31000)).unwrap();
    assert_eq!(route.incarnation.unwrap().to_string(), incarnation);
}

#[test]
fn an_instance_of_an_older_router_is_routed_when_its_allocation_was_adopted() {
    let mut view = view_of_cluster();
    view.remove("/routing/ports/31000");
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", "i1");
    assert_eq!(view.leads(31000), A);
    assert_eq!(view.routes.get(port(31000)).unwrap().incarnation, None);
    view.put("/routing/ports/31000", "i2");
    assert_eq!(view.leads(31000), "-");
    assert_eq!(
        view.complaints,
        [
            "/routing/allocation/i1: nobody owns port 31000: it is not served",
            "/routing/allocation/i1: port 31000 is owned by i2: it is not served",
        ]
    );
}

#[test]
fn everything_goes_with_its_directory() {
    for directory in ["/routing", "/routing/allocation", "/routing/ports", "/"] {
        let mut view = view_of_cluster();
        view.event("/routing", removed(directory, false));
        assert_eq!(view.leads(31000), "-", "{directory}");
    }
    let mut view = view_of_cluster();
    view.snapshot("/routing", &[]);
    assert_eq!(view.leads(31000), "-");
}
