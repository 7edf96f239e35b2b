//! A client that asks every node of an instance all the time, each directly, whether it is a primary.
//!
//! **Guarantees.** Each promotion begins a new timeline, so that a node that answers as a primary after another one has on the
//! same or a later timeline was a primary beside it: [`Answers::doubled`] tells all such pairs. Sessions stay open, as those of
//! clients do that got past the router.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{instance::Instance, psql::Session};

/// Between two questions to a node, and between two attempts to log in.
const PAUSE: Duration = Duration::from_millis(20);
/// After so much time a node that does not answer is left, and asked anew.
const ANSWER: Duration = Duration::from_secs(5);
/// A primary's timeline, as the eight digits with which the names of its log's files begin.
const QUESTION: &str =
    "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

/// A node that was a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Its name.
    pub node: String,
    /// Its timeline.
    pub timeline: u32,
    /// Before it was asked.
    pub asked: Instant,
    /// When it had answered.
    pub answered: Instant,
}

/// All answers of primaries, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Answers(pub Vec<Primary>);

impl Answers {
    /// Two primaries at once: the first answered before the second was asked, which is on no later timeline.
    #[must_use]
    pub fn doubled(&self) -> Vec<(Primary, Primary)> {
        let mut found = Vec::new();
        // Of the answers so far, for each node the first on its latest timeline.
        let mut latest: Vec<&Primary> = Vec::new();
        for answer in &self.0 {
            let beside = |other: &&&Primary| {
                other.node != answer.node
                    && other.timeline >= answer.timeline
                    && other.answered <= answer.asked
            };
            if let Some(other) = latest.iter().find(beside) {
                found.push(((*other).clone(), answer.clone()));
            }
            match latest.iter_mut().find(|other| other.node == answer.node) {
                Some(known) if known.timeline < answer.timeline => *known = answer,
                Some(_) => {}
                None => latest.push(answer),
            }
        }
        found
    }

    /// How many nodes have been primaries.
    #[must_use]
    pub fn nodes(&self) -> usize {
        let mut names: Vec<&str> = self.0.iter().map(|answer| answer.node.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }
}

/// The client. It ends when it is dropped.
#[derive(Debug)]
pub struct Prober {
    answers: Arc<Mutex<Answers>>,
    _tasks: JoinSet<()>,
}

impl Prober {
    /// Begins with the nodes that the instance has now.
    ///
    /// # Panics
    /// When a node does not say where its PostgreSQL is.
    pub async fn start(instance: &Instance<'_>) -> Self {
        let answers = Arc::new(Mutex::new(Answers::default()));
        let mut tasks = JoinSet::new();
        for (name, member) in instance.cluster().await.members {
            let address = member.address.expect("the address of a node's PostgreSQL");
            let credentials = directly(&instance.credentials, &address);
            tasks.spawn(ask(name, credentials, Arc::clone(&answers)));
        }
        Self {
            answers,
            _tasks: tasks,
        }
    }

    /// What was answered so far.
    ///
    /// # Panics
    /// When the client has panicked.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.answers.lock().unwrap().clone()
    }
}

/// The same credentials for another `host:port`.
fn directly(credentials: &Value, address: &str) -> Value {
    let uri = credentials["uri"].as_str().expect("credentials with a URI");
    let (scheme, rest) = uri.split_once("://").unwrap();
    let (user, place) = rest.rsplit_once('@').unwrap();
    let (_, database) = place.split_once('/').unwrap();
    json!({"uri": format!("{scheme}://{user}@{address}/{database}")})
}

async fn ask(node: String, credentials: Value, answers: Arc<Mutex<Answers>>) {
    loop {
        if let Ok(Ok(session)) = timeout(ANSWER, Session::open(&credentials)).await {
            while let Some(answer) = ask_once(&node, &session).await {
                if let Some(primary) = answer {
                    answers.lock().unwrap().0.push(primary);
                }
                sleep(PAUSE).await;
            }
        }
        sleep(PAUSE).await;
    }
}

/// `None` when the session has failed, `Some(None)` when the node is no primary.
async fn ask_once(node: &str, session: &Session) -> Option<Option<Primary>> {
    let asked = Instant::now();
    let timeline = timeout(ANSWER, session.ask_maybe(QUESTION)).await.ok()?.ok()?;
    let answered = Instant::now();
    Some(timeline.map(|digits| Primary {
        node: node.to_owned(),
        timeline: u32::from_str_radix(&digits, 16).expect("eight hexadecimal digits"),
        asked,
        answered,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(rows: &[(&str, u32, u64, u64)]) -> Answers {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let row = |&(node, timeline, asked, answered): &(&str, u32, u64, u64)| Primary {
            node: node.to_owned(),
            timeline,
            asked: at(asked),
            answered: at(answered),
        };
        Answers(rows.iter().map(row).collect())
    }

    #[test]
    fn an_old_primary_that_answers_after_a_new_one_is_told() {
        let rows = [("a", 1, 0, 1), ("b", 2, 5, 6), ("a", 1, 7, 8)];
        let doubled = answers(&rows).doubled();
        assert_eq!(doubled.len(), 1);
        assert_eq!((&*doubled[0].0.node, &*doubled[0].1.node), ("b", "a"));
        let same = [("a", 1, 0, 1), ("b", 1, 2, 3)];
        assert_eq!(answers(&same).doubled().len(), 1, "two with one history");
    }

    #[test]
    fn primaries_one_after_the_other_are_in_order() {
        let rows = [
            ("a", 1, 0, 1),
            ("a", 1, 2, 9),
            // Asked before the other one had answered: that tells nothing.
            ("b", 2, 3, 10),
            ("b", 2, 11, 12),
            ("a", 3, 13, 14),
            ("b", 4, 15, 16),
        ];
        let all = answers(&rows);
        assert!(all.doubled().is_empty(), "{:?}", all.doubled());
        assert_eq!(all.nodes(), 2);
    }
}
