//! What an operator finds in the log of an operation, line by line.
//!
//! **Guarantees.** Whoever's write made a transition tells of it, so a transition is told of once, however many handlers look
//! on. Metrics are counted from these lines (their targets are the contract), and cannot differ from them.
//! **Caveats.** A handler that dies right after its write, or never learns that its write came through, tells nothing of it.

#[cfg(test)]
mod tests;

use jiff::Timestamp;

use crate::record::{Operation, OperationKind, OperationState, Phase, Record};

/// The target of lines about operations. Their fields: `kind` ([`OperationKind::as_str`]), `state` ([`Step::as_str`]),
/// `duration_ms` since the operation began, `instance`, `operation`, `description`, and more for people.
pub const OPERATION: &str = "operation";

/// The target of lines about how far a provision is. Their fields: `phase` ([`Milestone::as_str`]), `duration_ms` since the
/// provision began, `instance`, `operation`.
pub const PROVISION: &str = "provision";

/// How much of what a platform says of itself is logged, in bytes.
const LOGGED: usize = 256;

/// What happened to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was accepted.
    Started,
    /// A user who polls is told something new.
    InProgress,
    /// It has ended as asked for.
    Succeeded,
    /// It was given up; the description says why.
    Failed,
}

impl Step {
    /// The word used in the log and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::InProgress => "in progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// What a provision has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// The public port is the instance's.
    Port,
    /// The cluster has a leader that runs.
    Leader,
    /// Every node runs.
    Nodes,
    /// All of it is as asked for.
    Whole,
}

impl Milestone {
    /// The word used in the log and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Leader => "leader",
            Self::Nodes => "nodes",
            Self::Whole => "whole",
        }
    }
}

/// What happened to operations between two records of a life; `None`: the record was just made.
#[must_use]
pub fn steps<'r>(before: Option<&Record>, after: &'r Record) -> Vec<(&'r Operation, Step)> {
    let known = |operation: &Operation| {
        let before = before.into_iter();
        let mut known = before.flat_map(|record| record.operation.iter().chain(&record.last_operation));
        known.find(|known| known.id == operation.id).cloned()
    };
    // The last one first: where there are both, it has ended before the other began.
    let operations = after.last_operation.iter().chain(&after.operation);
    operations
        .filter_map(|operation| {
            let step = match (known(operation), operation.state) {
                (None, OperationState::InProgress) => Step::Started,
                (Some(known), OperationState::InProgress) if known.description == operation.description => {
                    return None;
                }
                (Some(_), OperationState::InProgress) => Step::InProgress,
                (Some(known), state) if known.state == state => return None,
                (_, OperationState::Succeeded) => Step::Succeeded,
                (_, OperationState::Failed) => Step::Failed,
            };
            Some((operation, step))
        })
        .collect()
}

/// What a provision has come to between two records.
#[must_use]
pub fn milestones(before: &Record, after: &Record) -> Vec<Milestone> {
    let is_provision = |operation: &&Operation| operation.kind == OperationKind::Provision;
    if before.operation.as_ref().filter(is_provision).is_none() {
        return Vec::new();
    }
    let runs = |record: &Record| {
        let mut staying = record.staying();
        !record.nodes.is_empty() && staying.all(|(_, node)| node.phase == Phase::Running)
    };
    let succeeded = |record: &Record| {
        let last = record.last_operation.as_ref().filter(is_provision);
        record.operation.is_none() && last.is_some_and(|last| last.state == OperationState::Succeeded)
    };
    let reached = [
        (
            Milestone::Port,
            before.port.owned().is_none() && after.port.owned().is_some(),
        ),
        (Milestone::Leader, !before.bootstrapped && after.bootstrapped),
        (Milestone::Nodes, !runs(before) && runs(after)),
        (Milestone::Whole, succeeded(after)),
    ];
    reached
        .into_iter()
        .filter_map(|(milestone, is_reached)| is_reached.then_some(milestone))
        .collect()
}

/// Tells of everything that a write has changed; `before` is `None` for the first record of a life.
pub(crate) fn log(before: Option<&Record>, after: &Record, now: Timestamp) {
    let id = &after.instance_id;
    for (operation, step) in steps(before, after) {
        log_step(after, operation, step, now);
    }
    if let Some(before) = before {
        for milestone in milestones(before, after) {
            let operation = before.operation.as_ref();
            tracing::info!(
                target: PROVISION,
                instance = %id,
                operation = operation.map(|operation| operation.id.to_string()),
                phase = milestone.as_str(),
                duration_ms = operation.map(|operation| since(operation, now)),
                "phase"
            );
        }
    }
    let phase = |node| {
        before
            .and_then(|record| record.nodes.get(node))
            .map(|node| node.phase)
    };
    for (node, placed) in &after.nodes {
        if phase(node) != Some(placed.phase) {
            tracing::info!(instance = %id, %node, cell = %placed.cell, phase = ?placed.phase, "node");
        }
    }
    let was_retired = |node| before.is_some_and(|record| record.retired.contains(node));
    for node in after.retired.iter().filter(|node| !was_retired(node)) {
        tracing::info!(instance = %id, %node, "node retired");
    }
}

fn log_step(record: &Record, operation: &Operation, step: Step, now: Timestamp) {
    let identity = operation.originating_identity.as_deref();
    let identity = identity.map(|text| &text[..text.floor_char_boundary(LOGGED)]);
    // The level is part of a line's place in the program, so it takes two.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: OPERATION,
                instance = %record.instance_id,
                incarnation = %record.incarnation,
                operation = %operation.id,
                kind = operation.kind.as_str(),
                state = step.as_str(),
                duration_ms = since(operation, now),
                description = operation.description,
                identity,
                plan = record.request.plan_id,
                node_count = record.node_count,
                "operation"
            )
        };
    }
    match step {
        Step::Failed => line!(warn),
        Step::Started | Step::InProgress | Step::Succeeded => line!(info),
    }
}

/// Milliseconds since the operation began, by this machine's clock: another's may have told when that was.
fn since(operation: &Operation, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(operation.started).as_millis()).unwrap_or_default()
}
