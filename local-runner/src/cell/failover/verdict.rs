//! Whether a leader whose processes are all dead gives its place up, by what was observed.
//!
//! **Guarantees.** Pure: no clock, no I/O. Whatever is missing, unreadable or unusual is a reason to restart in place.
//! **Assumes.** The keys and the record were read with a quorum *after* the last process of the node had ended.
//! **Source.** Patroni's documentation ("Dynamic Configuration Settings", "Replication modes", "Patroni REST API").

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use shared::{
    cluster::{Cluster, Member},
    ids::NodeId,
    keyspace,
    record::{Failover, Phase, Record, State},
    store::{Entry, Index, Tree},
};

use super::super::judgement::Identity;

/// A node's place is given up at most so often.
const SELDOM: Duration = Duration::from_secs(60);

/// All that is known when it is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The node that died.
    pub(super) id: &'a Identity,
    /// Its instance's record.
    pub(super) record: Option<&'a Record>,
    /// Everything below the cluster's scope, as it stood at one moment.
    pub(super) tree: Option<&'a Tree>,
    /// What members say of themselves now, by name. Whoever did not answer is not in it.
    pub(super) answers: &'a BTreeMap<String, Answer>,
    /// How long ago the node's place was given up last.
    pub(super) last: Option<Duration>,
}

/// What a member's own Patroni says, asked just now. Its timeline is not in it: for up to a loop after a promotion Patroni 3
/// answers from a cache the one before, while the member key has the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Whether its PostgreSQL runs.
    pub(super) running: bool,
    /// Whether it is a replica.
    pub(super) replica: bool,
    /// How far the write-ahead log has come that it has, in bytes.
    pub(super) position: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Give the place up: delete the leader key, which names this node and was last written at this index.
    Promote(Index),
    /// Leave everything as it is, and start the node again.
    Restart(Reason),
}

/// Why a node is only started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    NotHere,
    NotLeader,
    Unreadable,
    Paused,
    UnderWay,
    Preferred,
    Recent,
    UnknownTimeline,
    NotSynchronous,
    NoCandidate,
    NoAnswer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHere => "the record does not name the node as one that runs here",
            Self::NotLeader => "the leader key does not name the node",
            Self::Unreadable => "the cluster's configuration is not there or not understood",
            Self::Paused => "Patroni is paused, or follows another cluster",
            Self::UnderWay => "a switchover or failover is under way already",
            Self::Preferred => "the plan prefers a restart in place",
            Self::Recent => "the node's place was given up less than a minute ago",
            Self::UnknownTimeline => "the node's timeline is not known",
            Self::NotSynchronous => "no synchronous standby is certain",
            Self::NoCandidate => "no other node runs on the same timeline and may take over",
            Self::NoAnswer => "no node that may take over confirms that it can",
        })
    }
}

/// Patroni's dynamic configuration, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Dynamic {
    pause: Value,
    standby_cluster: Value,
    synchronous_mode: Value,
    ttl: u64,
    loop_wait: u64,
    retry_timeout: u64,
    maximum_lag_on_failover: u64,
}

impl Default for Dynamic {
    /// Patroni's own defaults.
    fn default() -> Self {
        Self {
            pause: Value::Null,
            standby_cluster: Value::Null,
            synchronous_mode: Value::Null,
            ttl: 30,
            loop_wait: 10,
            retry_timeout: 10,
            maximum_lag_on_failover: 1 << 20,
        }
    }
}

impl Dynamic {
    /// Whether a commit waits for a standby; `None` for a mode whose rules are not known here (`quorum`).
    fn is_synchronous(&self) -> Option<bool> {
        match self.synchronous_mode {
            Value::Null | Value::Bool(false) => Some(false),
            Value::Bool(true) => Some(true),
            _ => None,
        }
    }

    /// What is left of a member key's time to live, if its Patroni has reached etcd in its last loop.
    fn least_ttl(&self) -> Duration {
        Duration::from_secs(
            self.ttl
                .saturating_sub(self.loop_wait.saturating_add(self.retry_timeout)),
        )
    }
}

/// Patroni's `sync` key.
#[derive(Debug, Default, Deserialize)]
struct Sync {
    leader: Option<String>,
}

/// A member that may be able to take over, and what it must confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) name: String,
    /// Where its REST API answers: `http://host:port`.
    pub(super) api: String,
}

/// What the keys alone say: where the leader key stands, who may take over, and what must be confirmed.
#[derive(Debug)]
pub(super) struct Prospect {
    index: Index,
    /// How far the log of a new leader must have come.
    least_position: u64,
    /// Whom to ask.
    pub(super) candidates: Vec<Candidate>,
}

/// Decides.
pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    let prospect = match prospect(facts) {
        Ok(prospect) => prospect,
        Err(reason) => return Verdict::Restart(reason),
    };
    let confirms =
        |answer: &Answer| answer.running && answer.replica && answer.position >= prospect.least_position;
    let can = |candidate: &Candidate| facts.answers.get(&candidate.name).is_some_and(confirms);
    if prospect.candidates.iter().any(can) {
        Verdict::Promote(prospect.index)
    } else {
        Verdict::Restart(Reason::NoAnswer)
    }
}

/// Decides as far as the keys go; the answers are not looked at.
pub(super) fn prospect(facts: &Facts<'_>) -> Result<Prospect, Reason> {
    let record = facts.record.filter(|record| runs_here(record, facts.id));
    let record = record.ok_or(Reason::NotHere)?;
    let scope = keyspace::scope(&facts.id.instance);
    let tree = facts.tree.ok_or(Reason::NotLeader)?;
    let leaf = |name: &str| tree.leaves.get(&format!("{scope}/{name}"));
    let own = facts.id.node.to_string();
    let leader = leaf("leader").filter(|entry| entry.value == own);
    let index = leader.ok_or(Reason::NotLeader)?.index;

    let dynamic = leaf("config").and_then(|entry| serde_json::from_str::<Dynamic>(&entry.value).ok());
    let dynamic = dynamic.ok_or(Reason::Unreadable)?;
    let synchronous = dynamic.is_synchronous().ok_or(Reason::Unreadable)?;
    let is_off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    if !is_off(&dynamic.pause) || !is_off(&dynamic.standby_cluster) {
        return Err(Reason::Paused);
    }
    if leaf("failover").is_some_and(asks_for_something) {
        return Err(Reason::UnderWay);
    }
    if record.failover.unwrap_or_else(|| Failover::usual(synchronous)) == Failover::Restart {
        return Err(Reason::Preferred);
    }
    if facts.last.is_some_and(|ago| ago < SELDOM) {
        return Err(Reason::Recent);
    }

    let cluster = Cluster::parse(&scope, Some(tree));
    let member = cluster.members.get(&own).filter(|member| member.is_primary());
    let timeline = member.and_then(|member| member.timeline);
    let timeline = timeline.ok_or(Reason::UnknownTimeline)?;
    if synchronous {
        let sync = leaf("sync").and_then(|entry| serde_json::from_str::<Sync>(&entry.value).ok());
        // Standbys of an earlier leader may lack what this one has acknowledged since.
        if sync.unwrap_or_default().leader != Some(own.clone()) || cluster.synchronous.is_empty() {
            return Err(Reason::NotSynchronous);
        }
    }
    let fits = |name: &String, member: &Member| {
        *name != own
            && stays(record, name)
            && may_follow(member, timeline)
            && leaf(&format!("members/{name}")).is_some_and(|entry| is_fresh(entry, &dynamic))
            && (!synchronous || cluster.synchronous.contains(name))
    };
    let candidates: Vec<Candidate> = cluster
        .members
        .iter()
        .filter(|(name, member)| fits(name, member))
        .filter_map(|(name, member)| {
            let (name, api) = (name.clone(), member.api.clone()?);
            Some(Candidate { name, api })
        })
        .collect();
    if candidates.is_empty() {
        return Err(Reason::NoCandidate);
    }
    let reported = leaf("status").map_or(0, position);
    Ok(Prospect {
        index,
        least_position: reported.saturating_sub(dynamic.maximum_lag_on_failover),
        candidates,
    })
}

/// Whether a cluster that stands has this node here, by its record.
fn runs_here(record: &Record, id: &Identity) -> bool {
    let named = record
        .nodes
        .get(&id.node)
        .is_some_and(|node| node.cell == id.cell);
    named && record.incarnation == id.incarnation && record.state == State::Active && record.bootstrapped
}

/// Whether the record wants a member of this name to stay.
fn stays(record: &Record, name: &str) -> bool {
    let node = name
        .parse::<NodeId>()
        .ok()
        .and_then(|node| record.nodes.get(&node));
    node.is_some_and(|node| node.phase != Phase::Leaving)
}

/// Whether a member's key says that it follows on this timeline, and may take over.
fn may_follow(member: &Member, timeline: u64) -> bool {
    let streams = member.replication_state.as_deref();
    member.is_running()
        && member.role == "replica"
        && !member.nofailover
        && member.timeline == Some(timeline)
        && streams.is_none_or(|state| state == "streaming")
}

fn is_fresh(entry: &Entry, dynamic: &Dynamic) -> bool {
    entry.ttl.is_some_and(|left| left >= dynamic.least_ttl())
}

/// Whether Patroni's `failover` key asks for something: it is `{}` when that is done.
fn asks_for_something(entry: &Entry) -> bool {
    let done = matches!(serde_json::from_str(&entry.value), Ok(Value::Object(asked)) if asked.is_empty());
    !(done || entry.value.is_empty())
}

/// How far the leader's log had come, as it reported last.
fn position(entry: &Entry) -> u64 {
    let status: Value = serde_json::from_str(&entry.value).unwrap_or_default();
    status["optime"].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests;
