//! The rules that make routes, by property.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use proptest::prelude::*;

use super::{bench::INCARNATION, view::View};
use crate::router::haproxy_config::{Config, Targets};

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
        // Of an older router's instance.
        2 => (instance.clone(), number.clone()).prop_map(|(instance, number)| Step::Put(
            format!("/routing/ports/{number}"),
            format!("i{instance}")
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
                memory: 0,
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
