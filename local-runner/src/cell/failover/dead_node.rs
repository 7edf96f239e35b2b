//! A node that has died, and what is done about it: the thin outside of [`super::steps`].

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use reqwest::Client;
use serde::Deserialize;
use shared::{
    keyspace,
    store::{Index, Read, Store, StoreError},
};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        evidence::{self, Unreadable},
        judgement::Identity,
        process::{self, Stat},
    },
    limit,
    shared_memory::Segment,
    steps::Hands,
    verdict::{Answer, Candidate, Facts, Verdict, prospect, verdict},
};
use crate::blocking::blocking;

/// How long processes may take to end by force.
const END: Duration = Duration::from_secs(2);
/// How long a member may take to say how it is.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two looks at the shared memory of processes that have just ended: the kernel takes it down at once.
const TAKING_DOWN: Duration = Duration::from_millis(5);

/// A node whose Patroni and postmaster have died.
pub(super) struct DeadNode {
    /// etcd.
    pub(super) store: Arc<dyn Store>,
    /// Asks the other nodes' Patronis.
    pub(super) http: Client,
    /// Which node.
    pub(super) id: Identity,
    /// Everything that works for it works in here, and is this user's.
    pub(super) home: PathBuf,
    /// Whom it runs as.
    pub(super) uid: u32,
    /// What has been left of it.
    pub(super) leftovers: Vec<Stat>,
    /// Its PostgreSQL's shared memory.
    pub(super) shared: Segment,
    /// Where it is remembered when its place was given up last.
    pub(super) memory: PathBuf,
    /// How long ago that was.
    pub(super) last: Option<Duration>,
    /// The Unix time.
    pub(super) now: i64,
}

impl Hands for DeadNode {
    async fn end_processes(&self) -> io::Result<bool> {
        let deadline = Instant::now() + END;
        if !process::kill_known(&self.leftovers, &self.home, self.uid, END).await? {
            return Ok(false);
        }
        while !self.shared.is_left()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(TAKING_DOWN).await;
        }
        Ok(true)
    }

    async fn nothing_works(&self) -> io::Result<bool> {
        let works = process::look(&self.home, self.uid, process::certainly_working_in).await?;
        Ok(works.is_empty() && self.shared.is_left()?)
    }

    async fn judge(&self) -> Result<Verdict, Unreadable> {
        let store = self.store.as_ref();
        let scope = keyspace::scope(&self.id.instance);
        let (record, tree) = tokio::join!(
            evidence::record(store, &self.id.instance),
            store.tree(&scope, Read::Quorum)
        );
        let (record, tree) = (record?, tree?);
        let nobody = BTreeMap::new();
        let facts = Facts {
            id: &self.id,
            record: record.as_ref(),
            tree: tree.as_ref(),
            answers: &nobody,
            last: self.last,
        };
        let prospect = match prospect(&facts) {
            Ok(prospect) => prospect,
            Err(reason) => return Ok(Verdict::Restart(reason)),
        };
        let answers = self.ask(&prospect.candidates).await;
        tracing::info!(instance = %self.id.instance, node = %self.id.node, ?prospect, ?answers, "asked who can take over");
        let answers = &answers;
        Ok(verdict(&Facts { answers, ..facts }))
    }

    async fn remember(&self) -> io::Result<()> {
        let (memory, now) = (self.memory.clone(), self.now);
        blocking(move || limit::remember(&memory, now)).await
    }

    async fn give_up(&self, index: Index) -> Result<(), StoreError> {
        let key = keyspace::leader(&self.id.instance);
        let name = self.id.node.to_string();
        self.store.compare_value_and_delete(&key, &name, index).await
    }
}

impl DeadNode {
    async fn ask(&self, candidates: &[Candidate]) -> BTreeMap<String, Answer> {
        let asked = candidates.iter().map(|candidate| async {
            let answer = self.ask_one(&candidate.api).await.inspect_err(|error| {
                tracing::info!(instance = %self.id.instance, node = %self.id.node, candidate = candidate.name, %error, "a candidate for the failover does not answer");
            });
            Some((candidate.name.clone(), answer.ok()?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask_one(&self, api: &str) -> Result<Answer, reqwest::Error> {
        let url = format!("{api}/patroni");
        let request = self.http.get(url).timeout(ANSWER);
        Ok(request.send().await?.json::<Status>().await?.into())
    }
}

/// What `GET /patroni` answers (Patroni's documentation, "Patroni REST API").
#[derive(Deserialize)]
struct Status {
    state: String,
    role: String,
    #[serde(default)]
    xlog: Log,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Log {
    received_location: u64,
    replayed_location: u64,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self {
            running: status.state == "running",
            replica: status.role == "replica",
            position: status.xlog.received_location.max(status.xlog.replayed_location),
        }
    }
}
