//! The rules that make routes: by table, and by property.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use shared::{
    ids::Port,
    store::{Entry, Tree, WatchEvent},
};

use super::bench::INCARNATION;
use crate::router::{
    haproxy_config::{Config, Targets},
    outage::{GRACE, SILENCE},
    routes::Routes,
};

/// The router's view, fed by hand.
struct View {
    routes: Routes,
    now: Instant,
    complaints: Vec<String>,
}

impl View {
    /// With both first snapshots empty.
    fn new() -> Self {
        let mut view = Self {
            routes: Routes::default(),
            now: Instant::now(),
            complaints: Vec::new(),
        };
        view.snapshot("/routing", &[]);
        view.snapshot("/service", &[]);
        view
    }

    /// With an instance `i1` on port 31000, and members `a` and `b`; `a` leads.
    fn with_cluster() -> Self {
        let mut view = Self::new();
        view.put("/routing/ports/31000", &format!("i1 {INCARNATION}"));
        view.put("/routing/allocation/i1", "31000");
        for (key, value) in cluster() {
            view.put(&key, &value);
        }
        view
    }

    fn event(&mut self, key: &str, event: WatchEvent) -> BTreeSet<Port> {
        let changes = if key.starts_with("/routing") {
            self.routes.routing(event)
        } else {
            self.routes.service(event, self.now)
        };
        self.complaints.extend(changes.complaints);
        changes.ports
    }

    fn put(&mut self, key: &str, value: &str) -> BTreeSet<Port> {
        let event = WatchEvent::Put {
            key: key.to_owned(),
            entry: entry(value),
        };
        self.event(key, event)
    }

    fn remove(&mut self, key: &str) -> BTreeSet<Port> {
        self.event(key, removed(key, false))
    }

    fn expire(&mut self, key: &str) -> BTreeSet<Port> {
        self.event(key, removed(key, true))
    }

    fn snapshot(&mut self, directory: &str, leaves: &[(String, String)]) -> BTreeSet<Port> {
        self.event(directory, WatchEvent::Snapshot(tree(leaves)))
    }

    fn lost(&mut self) {
        self.event("/service", WatchEvent::Lost("away".to_owned()));
        self.event("/routing", WatchEvent::Lost("away".to_owned()));
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        let changes = self.routes.expire(self.now);
        self.complaints.extend(changes.complaints);
    }

    /// Where a port leads: `-` for no route, `?` for an unknown leader.
    fn leads(&self, number: u16) -> String {
        match self.routes.get(port(number)) {
            None => "-".to_owned(),
            Some(route) => route
                .leader
                .as_ref()
                .map_or_else(|| "?".to_owned(), |leader| leader.endpoint.to_string()),
        }
    }
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn entry(value: &str) -> Entry {
    Entry {
        value: value.to_owned(),
        index: NonZeroU64::MIN,
        ttl: None,
    }
}

fn removed(key: &str, expired: bool) -> WatchEvent {
    WatchEvent::Removed {
        key: key.to_owned(),
        expired,
        index: NonZeroU64::MIN,
    }
}

fn tree(leaves: &[(String, String)]) -> Tree {
    Tree {
        leaves: leaves
            .iter()
            .map(|(key, value)| (key.clone(), entry(value)))
            .collect(),
        directories: Vec::new(),
        at: 1,
    }
}

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

const A: &str = "10.0.0.1:5432";
const B: &str = "10.0.0.2:5432";

#[test]
fn the_holder_of_the_leader_key_is_served() {
    let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
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
        let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
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
    // Later there is no grace any more.
    view.put("/service/i1/members/a", &member(A, "primary"));
    view.put("/service/i1/leader", "a");
    view.expire("/service/i1/leader");
    assert_eq!(view.leads(31000), "?");
}

#[test]
fn the_grace_ends_when_another_leads_or_the_leader_says_that_it_is_none() {
    let mut view = View::with_cluster();
    view.lost();
    view.snapshot("/service", &cluster()[..2]);
    assert_eq!(view.leads(31000), A);
    view.put("/service/i1/leader", "b");
    assert_eq!(view.leads(31000), B);

    let mut view = View::with_cluster();
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
    let mut view = View::with_cluster();
    view.wait(SILENCE + Duration::from_secs(1));
    view.expire("/service/i1/leader");
    assert_eq!(view.leads(31000), A);
    view.wait(GRACE);
    assert_eq!(view.leads(31000), "?");
}

#[test]
fn a_port_is_routed_when_allocation_and_owner_agree() {
    let mut view = View::with_cluster();
    view.remove("/routing/allocation/i1");
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", "quarantine");
    view.expire("/routing/ports/31000");
    assert_eq!(view.complaints, Vec::<String>::new());

    // An older router's allocation.
    view.put("/routing/allocation/i1", "31000");
    view.put("/routing/allocation/i1", "31000");
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", &format!("i2 {INCARNATION}"));
    assert_eq!(view.leads(31000), "-");
    view.put("/routing/ports/31000", &format!("i1 {INCARNATION}"));
    assert_eq!(view.leads(31000), A);
    view.put("/routing/ports/31000", "i1");
    assert_eq!(view.leads(31000), "-");
    assert_eq!(
        view.complaints,
        [
            "/routing/allocation/i1: nobody owns port 31000: it is not served",
            "/routing/allocation/i1: port 31000 is owned by i2: it is not served",
            "/routing/ports/31000: \"i1\" names no instance and incarnation",
            "/routing/allocation/i1: nobody owns port 31000: it is not served",
        ]
    );
}

#[test]
fn another_life_of_an_instance_is_another_route() {
    let mut view = View::with_cluster();
    let incarnation = "1f5c1670-6dc3-41e5-bc08-6c4008a663f0";
    let changed = view.put("/routing/ports/31000", &format!("i1 {incarnation}"));
    assert_eq!(changed, BTreeSet::from([port(31000)]));
    let route = view.routes.get(port(31000)).unwrap();
    assert_eq!(route.incarnation.to_string(), incarnation);
}

#[test]
fn everything_goes_with_its_directory() {
    for directory in ["/routing", "/routing/allocation", "/routing/ports", "/"] {
        let mut view = View::with_cluster();
        view.event("/routing", removed(directory, false));
        assert_eq!(view.leads(31000), "-", "{directory}");
    }
    let mut view = View::with_cluster();
    view.snapshot("/routing", &[]);
    assert_eq!(view.leads(31000), "-");
}

/// One thing that happens to a key.
#[derive(Debug, Clone)]
enum Step {
    Put(String, String),
    Remove(String),
}

fn address(instance: usize, member: &str) -> SocketAddr {
    let member = u8::try_from(member.len()).unwrap();
    SocketAddr::from(([10, 0, u8::try_from(instance).unwrap(), member], 5432))
}

fn step() -> impl Strategy<Value = Step> {
    let instance = 0..3_usize;
    let member_name = prop::sample::select(vec!["m", "mm", "mmm"]);
    let role = prop::sample::select(vec!["primary", "replica", "promoted"]);
    let number = 31000..31003_u16;
    let garbage = prop::sample::select(vec!["", "x", "{", "31000 ", "-1", "i0"]);
    prop_oneof![
        6 => (instance.clone(), number.clone()).prop_map(|(instance, number)| Step::Put(
            format!("/routing/allocation/i{instance}"),
            number.to_string()
        )),
        6 => (instance.clone(), number.clone()).prop_map(|(instance, number)| Step::Put(
            format!("/routing/ports/{number}"),
            format!("i{instance} {INCARNATION}")
        )),
        6 => (instance.clone(), member_name.clone()).prop_map(|(instance, name)| Step::Put(
            format!("/service/i{instance}/leader"),
            name.to_owned()
        )),
        6 => (instance.clone(), member_name.clone(), role).prop_map(|(instance, name, role)| Step::Put(
            format!("/service/i{instance}/members/{name}"),
            super::bench::member(address(instance, name), role)
        )),
        1 => (number.clone(), garbage.clone())
            .prop_map(|(number, value)| Step::Put(format!("/routing/ports/{number}"), value.to_owned())),
        1 => (instance.clone(), garbage.clone())
            .prop_map(|(instance, value)| Step::Put(format!("/routing/allocation/i{instance}"), value.to_owned())),
        1 => (instance.clone(), member_name, garbage).prop_map(|(instance, name, value)| Step::Put(
            format!("/service/i{instance}/members/{name}"),
            value.to_owned()
        )),
        1 => instance.clone().prop_map(|instance| Step::Remove(format!("/routing/allocation/i{instance}"))),
        1 => number.prop_map(|number| Step::Remove(format!("/routing/ports/{number}"))),
        1 => instance.clone().prop_map(|instance| Step::Remove(format!("/service/i{instance}/leader"))),
        1 => instance.prop_map(|instance| Step::Remove(format!("/service/i{instance}"))),
        1 => prop::sample::select(vec!["/routing", "/service", "/routing/ports"])
            .prop_map(|key| Step::Remove(key.to_owned())),
    ]
}

/// What etcd holds after the steps.
fn replay(steps: &[Step]) -> BTreeMap<String, String> {
    let mut store = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(key, value) => {
                store.insert(key.clone(), value.clone());
            }
            Step::Remove(key) => {
                store.retain(|other: &String, _| *other != *key && !other.starts_with(&format!("{key}/")));
            }
        }
    }
    store
}

fn below(store: &BTreeMap<String, String>, directory: &str) -> Vec<(String, String)> {
    let inside = store.iter().filter(|(key, _)| key.starts_with(directory));
    inside.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The address that an instance's keys call for, from the keys alone.
fn expected(store: &BTreeMap<String, String>, instance: usize) -> Option<SocketAddr> {
    let leader = store.get(&format!("/service/i{instance}/leader"))?;
    let value = store.get(&format!("/service/i{instance}/members/{leader}"))?;
    value
        .starts_with('{')
        .then(|| address(instance, leader))
        .filter(|_| value.len() > 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// However a state was reached, and over whatever snapshots on the way, the routes are those of the state. Only
    /// where the holder of a leader key has no member key may they remember more.
    #[test]
    fn routes_depend_on_the_keys_and_not_on_the_way_there(
        steps in prop::collection::vec(step(), 0..60),
        relists in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut view = View::new();
        let mut changed = BTreeSet::new();
        let mut known = BTreeMap::new();
        for (number, step) in steps.iter().enumerate() {
            changed.extend(match step {
                Step::Put(key, value) => view.put(key, value),
                Step::Remove(key) => view.remove(key),
            });
            if relists[number] {
                let store = replay(&steps[..=number]);
                changed.extend(view.snapshot("/routing", &below(&store, "/routing")));
                changed.extend(view.snapshot("/service", &below(&store, "/service")));
            }
            // Whoever follows the changes knows everything.
            for port in std::mem::take(&mut changed) {
                known.remove(&port);
                known.extend(view.routes.get(port).map(|route| (port, route.clone())));
            }
            prop_assert_eq!(&known, view.routes.all());
        }
        let store = replay(&steps);
        let mut fresh = View::new();
        fresh.snapshot("/routing", &below(&store, "/routing"));
        fresh.snapshot("/service", &below(&store, "/service"));
        let ports = |view: &View| view.routes.all().keys().copied().collect::<Vec<_>>();
        prop_assert_eq!(ports(&view), ports(&fresh));
        for (port, route) in view.routes.all() {
            let instance: usize = route.instance.as_str()[1..].parse().unwrap();
            let served = route.leader.as_ref().map(|leader| leader.endpoint.to_string());
            match expected(&store, instance) {
                Some(address) => {
                    prop_assert_eq!(served, Some(address.to_string()));
                    prop_assert_eq!(Some(route), fresh.routes.get(*port));
                }
                None => {
                    // Nobody, or the one that the leader key names.
                    let holder = store.get(&format!("/service/i{instance}/leader"));
                    let remembered = holder.map(|holder| address(instance, holder).to_string());
                    prop_assert!(served.is_none() || served == remembered);
                }
            }
        }
    }

    /// The address of a member that does not hold the leader key is nowhere in the configuration.
    #[test]
    fn no_replica_is_ever_configured(steps in prop::collection::vec(step(), 0..60)) {
        let mut view = View::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Put(key, value) => drop(view.put(key, value)),
                Step::Remove(key) => drop(view.remove(key)),
            }
            let targets: Targets = view
                .routes
                .all()
                .iter()
                .map(|(port, route)| {
                    let leader = route.leader.as_ref();
                    (*port, leader.map(|leader| leader.endpoint.to_string().parse().unwrap()))
                })
                .collect();
            let config = Config {
                bind_address: "127.0.0.1".parse().unwrap(),
                socket: "worker-1.sock",
                max_connections: 100,
                descriptors: None,
                account: None,
                targets: &targets,
            };
            let text = config.render();
            let store = replay(&steps[..=number]);
            for instance in 0..3 {
                for name in ["m", "mm", "mmm"] {
                    let leads = store.get(&format!("/service/i{instance}/leader")).is_some_and(|leader| leader == name);
                    let shown = format!(" {} ", address(instance, name));
                    prop_assert!(leads || !text.contains(&shown), "{}\n{}", shown, text);
                }
            }
        }
    }
}
