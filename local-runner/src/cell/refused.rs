//! Why a cell does not do what it is asked.

use std::io;

use shared::cell_api::refusal;

use super::evidence::Unreadable;

/// Why a cell does not do what it is asked. The text is for people at the other end, who may not be the operator's: it names
/// no address and no path. The source is for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The node was told to leave before.
    #[error("the node is retired: its id is never accepted again")]
    Retired,
    /// The record does not want it here.
    #[error("the node is not to run on this cell: {0}")]
    NotAssigned(&'static str),
    /// No more nodes fit.
    #[error("the cell holds {held} nodes and may hold {capacity}")]
    Full {
        /// How many it holds.
        held: usize,
        /// How many it may hold.
        capacity: u32,
    },
    /// Nothing can be decided now.
    #[error("the instance's record cannot be read now")]
    StoreUnavailable(#[source] Unreadable),
    /// The cell shuts down.
    #[error("the cell is shutting down")]
    Stopping,
    /// The node leads a cluster that lives on.
    #[error("the node leads its cluster: hand the leadership over first")]
    Leader,
    /// The node is of a cluster that nobody leads who stays.
    #[error("no node that stays leads the cluster: what is here may be the last copy")]
    Unled,
    /// No document names the node as going or gone.
    #[error("neither the record nor a tombstone names the node: what is here may be the last copy")]
    Unnamed,
    /// The record wants the node here.
    #[error("the instance's record wants the node on this cell: let it leave first")]
    Assigned,
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// Wrong credentials.
    #[error("wrong user name or password")]
    Unauthorized,
    /// Not here.
    #[error("{0}")]
    NotFound(&'static str),
    /// Not with this method.
    #[error("the path does not know this method")]
    MethodNotAllowed,
    /// The disk or the system fails.
    #[error("the cell could not do it, as its log says")]
    Failed(#[from] io::Error),
}

impl Refused {
    /// The status of the answer, and the word for programs.
    pub(super) fn code(&self) -> (u16, &'static str) {
        match self {
            Self::Retired => (410, refusal::RETIRED),
            Self::NotAssigned(_) => (409, refusal::NOT_ASSIGNED),
            Self::Full { .. } => (422, refusal::FULL),
            Self::StoreUnavailable(_) => (503, refusal::STORE_UNAVAILABLE),
            Self::Stopping => (503, refusal::STOPPING),
            Self::Leader => (409, refusal::LEADER),
            Self::Unled => (409, refusal::NO_LEADER),
            Self::Unnamed => (409, refusal::UNNAMED),
            Self::Assigned => (409, refusal::ASSIGNED),
            Self::BadRequest(_) => (400, refusal::BAD_REQUEST),
            Self::Unauthorized => (401, refusal::UNAUTHORIZED),
            Self::NotFound(_) => (404, refusal::NOT_FOUND),
            Self::MethodNotAllowed => (405, refusal::METHOD_NOT_ALLOWED),
            Self::Failed(_) => (500, refusal::FAILED),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use shared::store::StoreError;

    use super::*;

    #[test]
    fn the_text_names_nothing_of_the_inside_and_the_source_does() {
        let address = "http://10.0.0.1:4001";
        let unavailable = StoreError::Unavailable {
            reason: address.to_owned(),
        };
        for refused in [
            Refused::StoreUnavailable(unavailable.into()),
            Refused::Failed(io::Error::other(address)),
        ] {
            assert!(!refused.to_string().contains(address), "{refused}");
            assert!(refused.source().unwrap().to_string().contains(address));
        }
    }
}
