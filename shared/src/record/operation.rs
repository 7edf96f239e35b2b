//! What is done to an instance, from when it was accepted to its end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::OperationId;

/// What a client asked for and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Random; tells an operation apart from an equal one, also after a lost answer.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// Whether it goes on.
    pub state: OperationState,
    /// What `last_operation` says of it.
    pub description: String,
    /// When it was accepted.
    pub started: Timestamp,
    /// When it fails unless it has ended.
    pub deadline: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Who asked for it, as the platform says: `X-Broker-API-Originating-Identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originating_identity: Option<String>,
}

/// What a failed operation means for the instance (osb-reference.md, 1, Error body).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AfterFailure {
    /// Whether the instance can still be used.
    pub instance_usable: bool,
    /// Whether the same update may be asked for again; `None` for a deprovision.
    pub update_repeatable: Option<bool>,
}

impl Operation {
    /// What it means for the instance that this has failed; `None` when it has not, or is a provision.
    #[must_use]
    pub fn after_failure(&self) -> Option<AfterFailure> {
        if self.state != OperationState::Failed {
            return None;
        }
        match self.kind {
            // Nodes come and go one by one while the leader goes on, and whatever was reached stays.
            OperationKind::Update => Some(AfterFailure {
                instance_usable: true,
                update_repeatable: Some(true),
            }),
            // PostgreSQL goes on; what has the former passwords is still reached by them.
            OperationKind::Rotate => Some(AfterFailure {
                instance_usable: true,
                update_repeatable: None,
            }),
            // The old data is lost, and the new cluster may not stand, or lack logins.
            OperationKind::Deprovision | OperationKind::Recreate => Some(AfterFailure {
                instance_usable: false,
                update_repeatable: None,
            }),
            OperationKind::Provision => None,
        }
    }
}

/// The kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes the instance.
    Provision,
    /// Changes it.
    Update,
    /// Removes it.
    Deprovision,
    /// Makes it anew, empty, after every copy of its data was lost. Brokers and cells from before there was this kind cannot
    /// read the record then, and leave it alone; it needs no [`SCHEMA`](super::SCHEMA) of its own.
    Recreate,
    /// Gives nodes and broker other passwords. For brokers and cells from before, what was said of [`Self::Recreate`] holds.
    Rotate,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Provision,
        Self::Update,
        Self::Deprovision,
        Self::Recreate,
        Self::Rotate,
    ];

    /// Whether platforms ask for it. The others are operators' commands, which platforms do not know of.
    #[must_use]
    pub fn is_requested(self) -> bool {
        match self {
            Self::Provision | Self::Update | Self::Deprovision => true,
            Self::Recreate | Self::Rotate => false,
        }
    }

    /// The word used in answers and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Update => "update",
            Self::Deprovision => "deprovision",
            Self::Recreate => "recreate",
            Self::Rotate => "rotate",
        }
    }
}

/// The states of an operation (osb-reference.md, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationState {
    /// Under way.
    #[serde(rename = "in progress")]
    InProgress,
    /// Ended as asked for.
    #[serde(rename = "succeeded")]
    Succeeded,
    /// Given up, with a description that says why.
    #[serde(rename = "failed")]
    Failed,
}
