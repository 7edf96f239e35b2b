//! From the watched keys to the wanted set of routes.
//!
//! **Guarantees.** Pure and total: no event, in whatever order, and no value makes it fail, and what one instance's
//! keys hold never changes another's route. Only a holder of a leader key is ever a route's leader. Each event costs
//! time only for what it names, however many instances there are.
//! **Assumes.** Events of one watch come in the order of their writes.
//! **Caveats.** Its memory of former leaders is what makes routes more than a function of the keys: see
//! [`Cluster`](super::cluster::Cluster) and [`Outage`](super::outage::Outage).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use shared::{
    ids::{Incarnation, InstanceId, Port},
    keyspace,
    ports::Owner,
    store::{Tree, WatchEvent},
};

use super::{
    cluster::{Cluster, Leader},
    member::Member,
    outage::Outage,
};

/// Who is reached through a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The instance that owns the port.
    pub(crate) instance: InstanceId,
    /// Which life of that instance; `None` for one of an older router, which knew of no lives.
    pub(crate) incarnation: Option<Incarnation>,
    /// Who gets the sessions; `None`: nobody knows.
    pub(crate) leader: Option<Leader>,
}

/// What an event has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The ports whose routes are other ones now, or gone.
    pub(crate) ports: BTreeSet<Port>,
    /// What is wrong in the store, each said once.
    pub(crate) complaints: Vec<String>,
}

/// The watched keys, and the routes that follow from them.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    allocations: HashMap<InstanceId, Port>,
    /// Who claims a port by an allocation: more than one only in a store that somebody has damaged.
    claims: HashMap<Port, BTreeSet<InstanceId>>,
    owners: HashMap<Port, (InstanceId, Option<Incarnation>)>,
    clusters: HashMap<InstanceId, Cluster>,
    routes: BTreeMap<Port, Route>,
    /// What was complained about, by the key concerned.
    complaints: HashMap<String, String>,
    outage: Outage,
    /// Clusters whose last leader is kept for a while.
    held: BTreeSet<InstanceId>,
    changes: Changes,
}

impl Routes {
    /// The route of a port.
    pub(crate) fn get(&self, port: Port) -> Option<&Route> {
        self.routes.get(&port)
    }

    /// All routes.
    #[cfg(test)]
    pub(crate) fn all(&self) -> &BTreeMap<Port, Route> {
        &self.routes
    }

    /// When [`Self::expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let until = |id| self.clusters.get(id).and_then(Cluster::held_until);
        self.held.iter().filter_map(until).min()
    }

    /// Lets the time that leaders are kept without a leader key run out.
    pub(crate) fn expire(&mut self, now: Instant) -> Changes {
        for id in std::mem::take(&mut self.held) {
            self.cluster(&id, |cluster| cluster.expire(now));
        }
        std::mem::take(&mut self.changes)
    }

    /// An event of the watch on `/routing`.
    pub(crate) fn routing(&mut self, event: WatchEvent) -> Changes {
        match event {
            WatchEvent::Snapshot(tree) => self.replace_routing(&tree),
            WatchEvent::Put { key, entry } => self.put_routing(&key, &entry.value),
            WatchEvent::Removed { key, .. } => self.remove_routing(&key),
            WatchEvent::Lost(_) => {}
        }
        std::mem::take(&mut self.changes)
    }

    /// An event of the watch on `/service`.
    pub(crate) fn service(&mut self, event: WatchEvent, now: Instant) -> Changes {
        match event {
            WatchEvent::Lost(_) => self.outage.lost(),
            WatchEvent::Snapshot(tree) => {
                self.outage.heard(now);
                self.replace_service(&tree, now);
            }
            WatchEvent::Put { key, entry } => {
                self.outage.heard(now);
                self.put_service(&key, &entry.value);
            }
            WatchEvent::Removed { key, expired, .. } => {
                self.outage.heard(now);
                let held_until = self.outage.grace(now).filter(|_| expired);
                self.remove_service(&key, held_until);
            }
        }
        std::mem::take(&mut self.changes)
    }

    fn replace_routing(&mut self, tree: &Tree) {
        let known = self.allocations.keys().map(keyspace::allocation);
        let known = known.chain(self.owners.keys().map(|port| keyspace::port(*port)));
        let complained = self.complaints.keys().filter(|key| key.starts_with("/routing/"));
        let gone: Vec<String> = known
            .chain(complained.cloned())
            .filter(|key| !tree.leaves.contains_key(key))
            .collect();
        for key in gone {
            self.remove_routing(&key);
        }
        // Owners first, so that no allocation is without its owner for a moment.
        let (owners, others): (Vec<_>, Vec<_>) = tree
            .leaves
            .iter()
            .partition(|(key, _)| covers(keyspace::PORTS, key));
        for (key, entry) in owners.into_iter().chain(others) {
            self.put_routing(key, &entry.value);
        }
    }

    fn put_routing(&mut self, key: &str, value: &str) {
        if let Some(name) = below(key, keyspace::ALLOCATIONS) {
            let Ok(id) = name.parse::<InstanceId>() else {
                return self.complain(key, "it names no instance".to_owned());
            };
            let port = value.parse::<Port>().ok();
            if port.is_none() {
                self.complain(key, format!("{value:?} is not a port"));
            }
            self.allocate(&id, port);
        } else if let Some(name) = below(key, keyspace::PORTS) {
            let Ok(port) = name.parse::<Port>() else {
                // Other programs' and hidden keys, such as the mark that all older allocations were adopted.
                return;
            };
            let owner = Owner::parse(value);
            if owner.is_none() {
                self.complain(key, format!("{value:?} names no instance"));
            } else {
                self.complaints.remove(key);
            }
            self.own(port, owner.and_then(life));
        }
    }

    fn remove_routing(&mut self, key: &str) {
        let inside = |name: &str| covers(key, name);
        let allocations: Vec<_> = match below(key, keyspace::ALLOCATIONS) {
            Some(name) => name.parse().into_iter().collect(),
            None if covers(key, keyspace::ALLOCATIONS) => self.allocations.keys().cloned().collect(),
            None => Vec::new(),
        };
        let ports: Vec<_> = match below(key, keyspace::PORTS) {
            Some(name) => name.parse().into_iter().collect(),
            None if covers(key, keyspace::PORTS) => self.owners.keys().copied().collect(),
            None => Vec::new(),
        };
        self.complaints.retain(|complained, _| !inside(complained));
        for id in allocations {
            self.allocate(&id, None);
        }
        for port in ports {
            self.own(port, None);
        }
    }

    fn replace_service(&mut self, tree: &Tree, now: Instant) {
        let held_until = self.outage.grace(now);
        let mut before = std::mem::take(&mut self.clusters);
        self.held.clear();
        self.complaints
            .retain(|key, _| !key.starts_with("/service/") || tree.leaves.contains_key(key));
        for (key, entry) in &tree.leaves {
            self.put_service(key, &entry.value);
        }
        let ids: BTreeSet<_> = before.keys().chain(self.clusters.keys()).cloned().collect();
        for id in ids {
            let former = before.remove(&id).unwrap_or_default();
            self.cluster(&id, |cluster| cluster.succeed(former, held_until));
        }
    }

    fn put_service(&mut self, key: &str, value: &str) {
        let Some((id, rest)) = scope(key) else { return };
        if rest == "leader" {
            self.cluster(&id, |cluster| cluster.lead(value));
        } else if let Some(name) = rest.strip_prefix("members/") {
            let member = match Member::parse(value) {
                Ok(member) => {
                    self.complaints.remove(key);
                    Some(member)
                }
                Err(error) => {
                    self.complain(key, error.to_string());
                    None
                }
            };
            self.cluster(&id, |cluster| cluster.publish(name, member));
        }
    }

    fn remove_service(&mut self, key: &str, held_until: Option<Instant>) {
        self.complaints.retain(|complained, _| !covers(key, complained));
        if covers(key, keyspace::PATRONI) {
            let ids: Vec<_> = self.clusters.keys().cloned().collect();
            for id in ids {
                self.remove_service(&keyspace::scope(&id), held_until);
            }
            return;
        }
        let Some(name) = key
            .strip_prefix(keyspace::PATRONI)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return;
        };
        let (name, rest) = name.split_once('/').unwrap_or((name, ""));
        let Ok(id) = name.parse::<InstanceId>() else {
            return;
        };
        self.cluster(&id, |cluster| match rest {
            "" => {
                cluster.depopulate();
                cluster.unlead(held_until);
            }
            "leader" => cluster.unlead(held_until),
            "members" => cluster.depopulate(),
            rest => {
                if let Some(member) = rest.strip_prefix("members/") {
                    cluster.publish(member, None);
                }
            }
        });
    }

    fn allocate(&mut self, id: &InstanceId, port: Option<Port>) {
        let before = match port {
            Some(port) => self.allocations.insert(id.clone(), port),
            None => self.allocations.remove(id),
        };
        if let Some(before) = before.filter(|before| Some(*before) != port) {
            if let Some(claims) = self.claims.get_mut(&before) {
                claims.remove(id);
                if claims.is_empty() {
                    self.claims.remove(&before);
                }
            }
            self.evaluate(before);
        }
        if let Some(port) = port {
            self.claims.entry(port).or_default().insert(id.clone());
            self.evaluate(port);
        }
    }

    fn own(&mut self, port: Port, owner: Option<(InstanceId, Option<Incarnation>)>) {
        match owner {
            Some(owner) => self.owners.insert(port, owner),
            None => self.owners.remove(&port),
        };
        self.evaluate(port);
    }

    fn cluster(&mut self, id: &InstanceId, change: impl FnOnce(&mut Cluster)) {
        let cluster = match self.clusters.get_mut(id) {
            Some(cluster) => cluster,
            None => self.clusters.entry(id.clone()).or_default(),
        };
        change(cluster);
        if cluster.held_until().is_some() {
            self.held.insert(id.clone());
        } else if !self.held.is_empty() {
            self.held.remove(id);
        }
        if cluster.is_empty() {
            self.clusters.remove(id);
        }
        if let Some(port) = self.allocations.get(id) {
            self.evaluate(*port);
        }
    }

    /// Brings one port's route up to date.
    fn evaluate(&mut self, port: Port) {
        let owner = self.owners.get(&port);
        if let Some(claims) = self.claims.get(&port) {
            for id in claims {
                let key = keyspace::allocation(id);
                if owner.is_some_and(|(owner, _)| owner == id) {
                    self.complaints.remove(&key);
                    continue;
                }
                let wrong = match owner {
                    None => format!("nobody owns port {port}: it is not served"),
                    Some((owner, _)) => format!("port {port} is owned by {owner}: it is not served"),
                };
                complain(&mut self.complaints, &mut self.changes, &key, wrong);
            }
        }
        let owner = owner.filter(|(id, _)| self.allocations.get(id) == Some(&port));
        let wanted = owner.map(|(id, incarnation)| (id, incarnation, self.clusters.get(id)));
        let same = match (self.routes.get(&port), &wanted) {
            (None, None) => true,
            (Some(route), Some((id, incarnation, cluster))) => {
                route.instance == **id
                    && route.incarnation == **incarnation
                    && route.leader.as_ref() == cluster.and_then(Cluster::served)
            }
            _ => false,
        };
        if same {
            return;
        }
        match wanted {
            None => self.routes.remove(&port),
            Some((id, incarnation, cluster)) => {
                let route = Route {
                    instance: id.clone(),
                    incarnation: *incarnation,
                    leader: cluster.and_then(Cluster::served).cloned(),
                };
                self.routes.insert(port, route)
            }
        };
        self.changes.ports.insert(port);
    }

    fn complain(&mut self, key: &str, wrong: String) {
        complain(&mut self.complaints, &mut self.changes, key, wrong);
    }
}

fn complain(complaints: &mut HashMap<String, String>, changes: &mut Changes, key: &str, wrong: String) {
    if complaints.get(key) != Some(&wrong) {
        changes.complaints.push(format!("{key}: {wrong}"));
        complaints.insert(key.to_owned(), wrong);
    }
}

/// Who owns a port, and which life of it.
fn life(owner: Owner) -> Option<(InstanceId, Option<Incarnation>)> {
    match owner {
        Owner::Life(id, incarnation) => Some((id, Some(incarnation))),
        Owner::Legacy(id) => Some((id, None)),
        Owner::Quarantine => None,
    }
}

/// The one segment of a key that follows a directory.
fn below<'key>(key: &'key str, directory: &str) -> Option<&'key str> {
    let name = key.strip_prefix(directory)?.strip_prefix('/')?;
    (!name.contains('/')).then_some(name)
}

/// Whether a removal of `removed` takes `key` with it.
fn covers(removed: &str, key: &str) -> bool {
    key.strip_prefix(removed.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The instance of a key of Patroni, and the rest of the key.
fn scope(key: &str) -> Option<(InstanceId, &str)> {
    let rest = key.strip_prefix(keyspace::PATRONI)?.strip_prefix('/')?;
    let (name, rest) = rest.split_once('/')?;
    let wanted = rest == "leader" || rest.starts_with("members/");
    // The name is checked only for keys that matter: most events are none of these.
    wanted.then(|| name.parse().ok()).flatten().map(|id| (id, rest))
}
