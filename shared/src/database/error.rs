//! Why PostgreSQL did not do what was asked.

use crate::ids::InstanceId;

/// Why PostgreSQL did not do what was asked, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// In the broker's words.
    #[error("{0}")]
    Unfit(String),
    /// In PostgreSQL's words: it refuses to.
    #[error("{0}")]
    Refused(String),
    /// No session began, or it broke off.
    #[error("{0}")]
    Unreachable(String),
}

impl DatabaseError {
    /// What clients may read of it, in the description of their operation. What PostgreSQL and the network say may name what
    /// is inside: addresses, roles.
    #[must_use]
    pub fn outside(&self) -> String {
        match self {
            Self::Unfit(text) => text.clone(),
            Self::Refused(_) => "PostgreSQL refuses it, as the broker's log says".to_owned(),
            Self::Unreachable(_) => "PostgreSQL cannot be reached".to_owned(),
        }
    }

    /// Told to operators, as far as it is not a part of every start, and to clients.
    pub(crate) fn told(&self, instance: &InstanceId) -> String {
        if let Self::Refused(error) = self {
            tracing::warn!(%instance, error, "PostgreSQL refuses what the broker asks for");
        }
        self.outside()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn explain(error: tokio_postgres::Error) -> DatabaseError {
    use std::error::Error;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => DatabaseError::Refused(said.message().to_owned()),
        (None, Some(source)) => DatabaseError::Unreachable(format!("{error}: {source}")),
        (None, None) => DatabaseError::Unreachable(error.to_string()),
    }
}
