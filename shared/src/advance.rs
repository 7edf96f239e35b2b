//! One pass over an instance: observe, decide, intend, act (design.md, 5).
//!
//! **Guarantees.** The record is written before the effects that follow from it. A lost compare-and-swap, or one whose answer
//! was lost, leads to a new observation and never to an effect. A pass ends: no effect is carried out twice in it, the
//! number of rounds is limited, and after [`SHARE`] nothing more is begun.
//! **Assumes.** Nothing about who calls it, how often, or how many do at once.
//! **Caveats.** A pass does what can be done now, and then returns; it never waits for a cluster to come up. One that has used
//! up [`SHARE`] stops between writing a record and carrying out what follows from it, like a process that dies there: later
//! passes find from what is there that it was not done, and the end of an operation repeats what nothing would show.

use jiff::{SignedDuration, Timestamp};
use tokio::join;
use uuid::Uuid;

use crate::{
    act::{self, Directory, Scene},
    broker::Broker,
    cells::Cell,
    cluster::Cluster,
    decide::{Decision, Situation},
    effect::{Effect, Facts},
    error::Error,
    ids::InstanceId,
    keyspace,
    record::Record,
    store::{Index, Read, StoreError},
    transition,
};

/// More rounds than any sequence of steps that needs nothing from outside; a pass that needs more goes on next time.
const ROUNDS: usize = 24;

/// How long a pass may take before it leaves the rest to the next: other instances wait for their turn. Longer than one call
/// to a cell that does not answer, so that what does not depend on that cell is not kept up by it.
const SHARE: SignedDuration = SignedDuration::from_secs(15);

/// A pass that took longer than this may have stood still, and may have written something after its instance was gone.
const LATE: SignedDuration = SignedDuration::from_secs(1);

/// A record and the index it stands at.
#[derive(Debug, Clone)]
pub struct Current {
    /// The record.
    pub record: Record,
    /// Its index in etcd.
    pub index: Index,
}

/// What a pass left behind.
#[derive(Debug)]
pub struct Pass {
    /// The record as it was last seen or written.
    pub record: Record,
    /// Its index.
    pub index: Index,
    /// What was found out.
    pub facts: Facts,
    /// The cluster as it was last seen.
    pub cluster: Cluster,
}

impl From<Pass> for Current {
    fn from(pass: Pass) -> Self {
        Self {
            record: pass.record,
            index: pass.index,
        }
    }
}

impl Pass {
    /// Whether the instance is gone, record and all.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.facts.gone
    }
}

/// Reads an instance's record; `None` when there is no such instance.
///
/// # Errors
/// When etcd cannot be read, or what is there is not a record.
pub async fn read_record(broker: &Broker, id: &InstanceId) -> Result<Option<Current>, Error> {
    let Some(entry) = broker.store.get(&keyspace::record(id), Read::Quorum).await? else {
        return Ok(None);
    };
    let record = Record::parse(&entry.value).map_err(|source| Error::Corrupt {
        what: "instance",
        source,
    })?;
    Ok(Some(Current {
        record,
        index: entry.index,
    }))
}

/// Reads what Patroni publishes about an instance.
///
/// # Errors
/// When etcd cannot be read.
pub async fn read_cluster(broker: &Broker, id: &InstanceId) -> Result<Cluster, Error> {
    let scope = keyspace::scope(id);
    let tree = broker.store.tree(&scope, Read::Quorum).await?;
    Ok(Cluster::parse(&scope, tree.as_ref()))
}

/// Moves an instance as far as it goes now; `None` when there is no such instance.
///
/// # Errors
/// When etcd cannot be read or written. What was done stays done, and the next pass goes on from there.
pub async fn advance(broker: &Broker, id: &InstanceId) -> Result<Option<Pass>, Error> {
    let (current, cluster) = join!(read_record(broker, id), read_cluster(broker, id));
    let Some(current) = current? else { return Ok(None) };
    Walk::new(broker, cluster?).run(current).await.map(Some)
}

/// The same, from a record that was just written.
///
/// # Errors
/// As [`advance`].
pub async fn advance_from(broker: &Broker, current: Current) -> Result<Pass, Error> {
    let cluster = read_cluster(broker, &current.record.instance_id).await?;
    Walk::new(broker, cluster).run(current).await
}

/// A pass under way. An instance that has no record yet begins with one by hand: the first decision about it is made
/// before its record is created, which saves writing the record twice.
pub struct Walk<'b> {
    broker: &'b Broker,
    cluster: Cluster,
    directory: Directory,
    facts: Facts,
    seed: Uuid,
    began: Timestamp,
    done: Vec<Effect>,
}

impl<'b> Walk<'b> {
    /// A pass over an instance whose cluster was just observed.
    #[must_use]
    pub fn new(broker: &'b Broker, cluster: Cluster) -> Self {
        Self {
            broker,
            cluster,
            directory: Directory::default(),
            facts: Facts::default(),
            seed: broker.clock.random(),
            began: broker.clock.now(),
            done: Vec::new(),
        }
    }

    /// The same with cells that were just listed.
    #[must_use]
    pub fn with_cells(mut self, cells: Vec<Cell>) -> Self {
        self.facts.cells = Some(cells.iter().map(|cell| cell.view.clone()).collect());
        self.directory = Directory::of(cells);
        self
    }

    /// The record as it should be, and what is to be done once it is.
    #[must_use]
    pub fn decide(&self, record: &Record) -> Decision {
        // Whatever was taken from the catalog, operations end at their deadline.
        let plan = self.broker.plan_configuration(record).ok();
        let replace_after = self.broker.settings.replace_after;
        let mut decision = (self.broker.decide)(&Situation {
            record,
            cluster: &self.cluster,
            facts: &self.facts,
            plan: plan.as_ref(),
            replace_after: SignedDuration::try_from(replace_after).unwrap_or(SignedDuration::MAX),
            now: self.broker.clock.now(),
            seed: self.seed,
        });
        decision.effects.retain(|effect| !self.done.contains(effect));
        decision
    }

    /// Carries out what was decided, now that the record says so.
    ///
    /// # Errors
    /// As [`advance`].
    pub async fn act(&mut self, current: &Current, effects: Vec<Effect>) -> Result<(), Error> {
        let scene = Scene {
            record: &current.record,
            index: current.index,
            cluster: &self.cluster,
        };
        act::act(self.broker, scene, &effects, &mut self.directory, &mut self.facts).await?;
        if !self.facts.gone && effects.iter().any(Effect::touches_cluster) {
            self.cluster = read_cluster(self.broker, &current.record.instance_id).await?;
        }
        self.done.extend(effects);
        Ok(())
    }

    fn took(&self) -> SignedDuration {
        self.broker.clock.now().duration_since(self.began)
    }

    /// Goes on as far as it goes now.
    ///
    /// # Errors
    /// As [`advance`].
    pub async fn run(mut self, mut current: Current) -> Result<Pass, Error> {
        let broker = self.broker;
        let id = current.record.instance_id.clone();
        let mut lost = false;
        for _ in 0..ROUNDS {
            let Decision { record, effects } = self.decide(&current.record);
            if record != current.record {
                match write(broker, &current, &record).await? {
                    Some(index) => {
                        transition::log(Some(&current.record), &record, broker.clock.now());
                        current = Current { record, index };
                    }
                    None => {
                        let incarnation = current.record.incarnation;
                        let (again, seen) = join!(read_record(broker, &id), read_cluster(broker, &id));
                        self.cluster = seen?;
                        match again? {
                            Some(again) if again.record.incarnation == incarnation => {
                                current = again;
                                // These were found out about a cluster as others may have changed it since.
                                self.facts.settings = None;
                                self.facts.replication = None;
                                self.facts.prepared = None;
                                self.facts.passwords = None;
                            }
                            // Somebody else ended it, perhaps made a new one: nothing of this pass is about that.
                            _ => {
                                self.facts.gone = true;
                                lost = true;
                                break;
                            }
                        }
                        continue;
                    }
                }
            } else if effects.is_empty() {
                break;
            }
            // What was found out is written down by now. What follows from it is for the next pass (see Caveats).
            if self.took() > SHARE {
                break;
            }
            self.act(&current, effects).await?;
            if self.facts.gone {
                break;
            }
        }
        if lost || self.took() > LATE {
            act::take_back(broker, &current.record).await?;
        }
        for trouble in &self.facts.troubles {
            tracing::warn!(instance = %id, trouble, "a step did not succeed; it is tried again");
        }
        Ok(Pass {
            record: current.record,
            index: current.index,
            facts: self.facts,
            cluster: self.cluster,
        })
    }
}

/// Writes the next record; `None` when somebody else wrote first, or nobody knows.
async fn write(broker: &Broker, current: &Current, next: &Record) -> Result<Option<Index>, Error> {
    let key = keyspace::record(&next.instance_id);
    let value = next.to_json();
    match broker
        .store
        .compare_and_swap(&key, &value, current.index, None)
        .await
    {
        Ok(index) => Ok(Some(index)),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(None),
        Err(StoreError::Ambiguous { .. }) => {
            // If it stands there, it was written, by whomever: equal records are equal intentions.
            let there = broker.store.get(&key, Read::Quorum).await?;
            Ok(there
                .filter(|entry| entry.value == value)
                .map(|entry| entry.index))
        }
        Err(error) => Err(error.into()),
    }
}
