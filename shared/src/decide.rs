//! How an instance moves: from what is recorded and what is observed to the next record and the effects it calls for.
//!
//! **Guarantees.** [`decide`] is pure and total: no I/O, no clock, no chance but what it is given. Whoever calls it with
//! the same situation gets the same decision, so any handler can take over from any other at any step. It looks at what
//! *is*, never at how far some handler thought it had come.
//! **Assumes.** The record and the cluster were read with quorum, and the new record is written by compare-and-swap on the
//! index it was read at, *before* the effects are carried out (design.md, 5).
//! **Caveats.** An effect that was lost is called for again by a later decision; a decision may therefore ask for things
//! that were done already.
//!
//! The parts: [`active`] makes the cluster what was asked for (provision, update), [`deprovision`] takes it away,
//! [`credentials`] gives them other passwords, `departure` lets nodes go, `restarts` brings them to other settings, `whereabouts` says which are where they should be,
//! [`placement`] chooses cells, [`recreation`] says when all is lost, [`shortcomings`] says what is still missing, [`describe`]
//! says it to the client.

pub mod active;
pub mod credentials;
mod departure;
pub mod deprovision;
pub mod describe;
pub mod dynamic_configuration;
pub mod placement;
pub mod recreation;
mod restarts;
pub mod shortcomings;
#[cfg(test)]
mod tests;
mod whereabouts;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    cluster::Cluster,
    effect::{Effect, Facts},
    ids::NodeId,
    record::{Operation, OperationState, Record, State},
};

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The instance as recorded.
    pub record: &'a Record,
    /// The cluster as Patroni published it.
    pub cluster: &'a Cluster,
    /// What this pass found out so far.
    pub facts: &'a Facts,
    /// Patroni's dynamic configuration as the plan wants it; `None` when the catalog does not hold the plan any more.
    pub plan: Option<&'a Map<String, Value>>,
    /// How long a cell must be missing before its nodes are replaced.
    pub replace_after: SignedDuration,
    /// The time.
    pub now: Timestamp,
    /// Chance: where new node ids and broken ties come from.
    pub seed: Uuid,
}

impl Situation<'_> {
    /// A node id that nobody has used; the same one for the same seed and number.
    fn fresh_node(&self, number: usize) -> NodeId {
        NodeId::from(Uuid::new_v5(&self.seed, format!("node {number}").as_bytes()))
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The next record; equal to the present one when nothing changes.
    pub record: Record,
    /// What to do once the record is written. Independent of each other, except that [`Effect::Unmark`] and
    /// [`Effect::Bury`] come last and only when all others succeeded.
    pub effects: Vec<Effect>,
}

/// Decides what happens next to an instance.
#[must_use]
pub fn decide(situation: &Situation<'_>) -> Decision {
    let mut decision = match situation.record.state {
        State::Active => active::decide(situation),
        State::Deleting => deprovision::decide(situation),
    };
    // Two rules may call for the same thing.
    let mut distinct: Vec<Effect> = Vec::with_capacity(decision.effects.len());
    for effect in decision.effects.drain(..) {
        if !distinct.contains(&effect) {
            distinct.push(effect);
        }
    }
    decision.effects = distinct;
    decision
}

/// Ends the operation under way.
fn end(record: &mut Record, state: OperationState, description: String, now: Timestamp) {
    if let Some(operation) = record.operation.take() {
        record.last_operation = Some(Operation {
            state,
            description,
            ended: Some(now),
            ..operation
        });
    }
}

/// Writes down what the client is told about the operation under way.
fn tell(record: &mut Record, description: String) {
    if let Some(operation) = &mut record.operation {
        operation.description = description;
    }
}
