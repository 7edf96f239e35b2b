//! Why PostgreSQL did not do what was asked.

use tokio_postgres::error::SqlState;

/// Why PostgreSQL did not do what was asked, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// In the broker's words.
    #[error("{0}")]
    Unfit(String),
    /// PostgreSQL refuses to.
    #[error("{message} (SQLSTATE {state})")]
    Refused {
        /// Its code for the reason (PostgreSQL's documentation, appendix A).
        state: String,
        /// In its own words.
        message: String,
    },
    /// No session began, or it broke off.
    #[error("{0}")]
    Unreachable(String),
}

impl DatabaseError {
    /// What clients may read of it, in the description of their operation. PostgreSQL's own words may name what is inside:
    /// addresses, roles. They are in its log.
    #[must_use]
    pub fn outside(&self) -> String {
        match self {
            Self::Unfit(text) | Self::Unreachable(text) => text.clone(),
            Self::Refused { state, .. } => format!("PostgreSQL refuses it (SQLSTATE {state})"),
        }
    }
}

/// What PostgreSQL says while it starts or stops, or when it has no session left.
const PASSING: [SqlState; 4] = [
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::TOO_MANY_CONNECTIONS,
];

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn explain(error: tokio_postgres::Error) -> DatabaseError {
    use std::error::Error;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) if PASSING.contains(said.code()) => {
            DatabaseError::Unreachable(said.message().to_owned())
        }
        (Some(said), _) => DatabaseError::Refused {
            state: said.code().code().to_owned(),
            message: said.message().to_owned(),
        },
        (None, Some(source)) => DatabaseError::Unreachable(format!("{error}: {source}")),
        (None, None) => DatabaseError::Unreachable(error.to_string()),
    }
}
