//! One Patroni with its PostgreSQL, as far as others can see it. A loop of it is a second.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Map, Value, json};
use shared::{
    cell_api::NodeParameters,
    keyspace,
    store::{Entry, Read, Store},
};

use super::{immediate::now, judgement::Identity, settings::Settings};

/// Loops for `initdb`, and for a base backup.
const WORK: u32 = 2;
/// Loops for a restart of PostgreSQL.
const RESTART: u32 = 2;
/// Time to live of the leader key and of member keys.
const TTL: Duration = Duration::from_secs(30);

/// Which Patroni it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Does not say who streams.
    Three,
    /// Says it in the member keys; its primary is a `primary`.
    Four,
}

/// A Patroni that runs.
#[derive(Debug, Clone)]
pub(super) struct Patroni {
    pub(super) id: Identity,
    /// What is in the data directory: the system identifier.
    pub(super) data: Option<String>,
    pub(super) nofailover: bool,
    pub(super) superuser_password: String,
    pub(super) restapi_password: String,
    /// Of which generation its passwords are.
    pub(super) generation: u32,
    http: Option<SocketAddr>,
    bootstrap_config: Map<String, Value>,
    timeline: u64,
    task: Task,
    pub(super) settings: Settings,
    /// Loops until its PostgreSQL runs again.
    down: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Neither leads nor follows.
    Waits,
    Bootstraps {
        left: u32,
    },
    Clones {
        left: u32,
    },
    Follows {
        streams: bool,
    },
    Leads,
}

impl Patroni {
    pub(super) fn new(id: Identity, parameters: &NodeParameters, http: Option<SocketAddr>) -> Self {
        Self {
            id,
            data: None,
            nofailover: false,
            superuser_password: parameters.superuser_password.clone(),
            restapi_password: parameters.restapi_password.clone(),
            generation: parameters.credential_generation,
            http,
            bootstrap_config: parameters.patroni_config.clone(),
            timeline: 1,
            task: Task::Waits,
            settings: Settings::default(),
            down: 0,
        }
    }

    /// Takes passwords over that its cell was told, if they are later ones; `late`: earlier ones, too.
    pub(super) fn take_over(&mut self, parameters: &NodeParameters, late: bool) {
        if parameters.credential_generation > self.generation || late {
            self.superuser_password.clone_from(&parameters.superuser_password);
            self.restapi_password.clone_from(&parameters.restapi_password);
            self.generation = parameters.credential_generation;
        }
    }

    pub(super) fn name(&self) -> String {
        self.id.node.to_string()
    }

    /// Where its REST API answers.
    pub(super) fn api(&self) -> String {
        match self.http {
            Some(address) => format!("http://{address}/nodes/{}", self.id.node),
            None => format!("http://{}:8008", self.id.node),
        }
    }

    /// Where its PostgreSQL listens: under a name of its own, for a cell may have several.
    pub(super) fn address(&self) -> String {
        format!("{}:15000", self.id.node)
    }

    pub(super) fn leads(&self) -> bool {
        self.task == Task::Leads && self.down == 0
    }

    /// Whether it holds the leadership, be its PostgreSQL down.
    pub(super) fn is_primary(&self) -> bool {
        self.task == Task::Leads
    }

    /// Whether its PostgreSQL answers.
    pub(super) fn answers(&self) -> bool {
        matches!(self.task, Task::Leads | Task::Follows { .. }) && self.down == 0
    }

    /// Has its PostgreSQL restarted.
    pub(super) fn restart(&mut self) {
        self.down = RESTART;
    }

    pub(super) fn streams(&self) -> bool {
        self.task == Task::Follows { streams: true } && self.down == 0
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", keyspace::scope(&self.id.instance))
    }

    fn read(&self, store: &dyn Store, name: &str) -> Option<Entry> {
        now(store.get(&self.key(name), Read::Quorum)).unwrap()
    }

    /// One loop. `fresh_system` is the identifier of the next database that is made.
    pub(super) fn turn(&mut self, store: &dyn Store, version: Version, fresh_system: &mut u64) {
        match self.read(store, "leader") {
            Some(leader) if leader.value == self.name() => self.hold(store, &leader),
            Some(leader) => self.follow(store, &leader.value),
            None => self.elect(store, fresh_system),
        }
        if self.down > 0 {
            self.down -= 1;
            if self.down == 0 {
                self.start(store);
            }
        }
        self.publish(store, version);
        // Patroni takes a configuration over at the end of the loop in which it has read it.
        if let Some(config) = self.configuration(store) {
            self.settings.load(&config);
        }
    }

    fn configuration(&self, store: &dyn Store) -> Option<Value> {
        let config = self.read(store, "config")?;
        serde_json::from_str(&config.value).ok()
    }

    /// Its PostgreSQL starts.
    fn start(&mut self, store: &dyn Store) {
        if let Some(config) = self.configuration(store) {
            self.settings.load(&config);
        }
        let leader = self.read(store, "leader").map(|leader| leader.value);
        let primary = leader
            .filter(|leader| *leader != self.name())
            .and_then(|leader| self.read(store, &format!("members/{leader}")))
            .and_then(|entry| serde_json::from_str::<Value>(&entry.value).ok());
        self.settings
            .start(primary.and_then(|member| member["runs_with"].as_i64()));
    }

    fn hold(&mut self, store: &dyn Store, leader: &Entry) {
        let (key, name) = (self.key("leader"), self.name());
        // Somebody else's by now: the next loop sees it.
        drop(now(store.compare_and_swap(&key, &name, leader.index, Some(TTL))));
        if self.task != Task::Leads {
            // It was handed the key.
            self.timeline += 1;
            self.task = Task::Leads;
        }
    }

    fn follow(&mut self, store: &dyn Store, leader: &str) {
        let system = self.read(store, "initialize").map(|entry| entry.value);
        let source: Option<Value> = self
            .read(store, &format!("members/{leader}"))
            .and_then(|entry| serde_json::from_str(&entry.value).ok())
            .filter(|member: &Value| member["state"] == "running");
        let timeline = source.as_ref().and_then(|member| member["timeline"].as_u64());
        let before = self.task;
        self.task = match (&self.data, self.task) {
            _ if timeline.is_none() => Task::Waits,
            (Some(data), _) if Some(data) != system.as_ref() => Task::Waits,
            (Some(_), Task::Follows { .. }) if Some(self.timeline) == timeline => {
                Task::Follows { streams: true }
            }
            (Some(_), _) => Task::Follows { streams: false },
            (None, Task::Clones { left: 0 }) => {
                self.data = system;
                Task::Follows { streams: false }
            }
            (None, Task::Clones { left }) => Task::Clones { left: left - 1 },
            (None, _) => Task::Clones { left: WORK },
        };
        if matches!(self.task, Task::Follows { .. }) {
            self.timeline = timeline.unwrap_or(self.timeline);
        }
        let starts = matches!(self.task, Task::Follows { .. }) && !matches!(before, Task::Follows { .. });
        if starts && before != Task::Waits {
            self.start(store);
        }
    }

    fn elect(&mut self, store: &dyn Store, fresh_system: &mut u64) {
        let initialize = self.read(store, "initialize");
        match (initialize, self.task, &self.data) {
            (None, _, None) => {
                if now(store.create(&self.key("initialize"), "", None)).is_ok() {
                    self.task = Task::Bootstraps { left: WORK };
                }
            }
            (Some(_), Task::Bootstraps { left: 0 }, _) => self.lead_first(store, fresh_system),
            (Some(_), Task::Bootstraps { left }, _) => self.task = Task::Bootstraps { left: left - 1 },
            (Some(system), Task::Follows { .. } | Task::Leads | Task::Waits, Some(data))
                if system.value == *data && !self.nofailover =>
            {
                if now(store.create(&self.key("leader"), &self.name(), Some(TTL))).is_ok() {
                    self.timeline += 1;
                    self.task = Task::Leads;
                }
            }
            (_, _, Some(_)) => self.task = Task::Follows { streams: false },
            _ => self.task = Task::Waits,
        }
    }

    /// The end of a bootstrap.
    fn lead_first(&mut self, store: &dyn Store, fresh_system: &mut u64) {
        if now(store.create(&self.key("leader"), &self.name(), Some(TTL))).is_err() {
            return;
        }
        *fresh_system += 1;
        let system = format!("73{fresh_system:017}");
        let config = Value::Object(self.bootstrap_config.clone()).to_string();
        now(store.set(&self.key("initialize"), &system, None)).unwrap();
        now(store.set(&self.key("config"), &config, None)).unwrap();
        self.data = Some(system);
        self.task = Task::Leads;
        self.start(store);
    }

    fn publish(&self, store: &dyn Store, version: Version) {
        let primary = match version {
            Version::Three => "master",
            Version::Four => "primary",
        };
        let (state, role) = match self.task {
            Task::Follows { .. } if self.down > 0 => ("restarting", "replica"),
            Task::Leads if self.down > 0 => ("restarting", primary),
            Task::Waits => ("stopped", "uninitialized"),
            Task::Bootstraps { .. } => ("initializing new cluster", "uninitialized"),
            Task::Clones { .. } => ("creating replica", "uninitialized"),
            Task::Follows { .. } => ("running", "replica"),
            Task::Leads => ("running", primary),
        };
        let mut member = json!({
            "conn_url": format!("postgres://{}/postgres", self.address()),
            "api_url": format!("{}/patroni", self.api()),
            "state": state,
            "role": role,
            "timeline": self.timeline,
        });
        if self.settings.is_pending() {
            member["pending_restart"] = json!(true);
        }
        // What a standby finds in the write-ahead log.
        member["runs_with"] = json!(self.settings.runs);
        if version == Version::Four && self.streams() {
            member["replication_state"] = json!("streaming");
        }
        if self.nofailover {
            member["tags"] = json!({"nofailover": true});
        }
        let key = keyspace::member(&self.id.instance, self.id.node);
        now(store.set(&key, &member.to_string(), Some(TTL))).unwrap();
    }

    /// Ends cleanly: hands back what it holds.
    pub(super) fn stop(&mut self, store: &dyn Store) {
        if let Some(leader) = self
            .read(store, "leader")
            .filter(|leader| leader.value == self.name())
        {
            // A broker in a process of its own may have cleared it away.
            drop(now(store.compare_and_delete(&self.key("leader"), leader.index)));
        }
        self.task = Task::Waits;
    }
}
