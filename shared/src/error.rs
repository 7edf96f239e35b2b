//! What can go wrong, without a word about HTTP but for one table.
//!
//! **Guarantees.** `Display` is for the client: it names no address, no secret and no key of the inside. The source chain
//! is for the log.

use crate::{
    catalog::NotOnOffer,
    database::DatabaseError,
    decide::placement::Shortage,
    ids::InvalidName,
    master_keys::DeriveError,
    record::{AfterFailure, CorruptDocument, Operation},
    store::StoreError,
};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong or missing credentials.
    #[error("these credentials are not accepted")]
    Unauthorized,
    /// The client speaks no version of the API that this broker speaks.
    #[error("{0}")]
    ApiVersion(String),
    /// No endpoint has this path.
    #[error("there is no such endpoint")]
    NoEndpoint,
    /// An endpoint has this path, but not this method.
    #[error("this endpoint has no such method")]
    MethodNotAllowed,
    /// The client sends more than any request needs.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// The client takes too long to send its request.
    #[error("the request body did not arrive in time")]
    TooSlow,
    /// The request cannot be understood, or asks for something that the catalog does not offer.
    #[error("{0}")]
    BadRequest(String),
    /// An id that cannot be used in keys and names.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// What the request is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What shall be deleted does not exist.
    #[error("{0}")]
    Gone(String),
    /// It exists with other attributes.
    #[error("{0}")]
    Conflict(String),
    /// The operation cannot be done while the client waits.
    #[error("this plan needs a client that polls: send accepts_incomplete=true")]
    AsyncRequired,
    /// Another operation is under way.
    #[error("{0}")]
    Concurrency(String),
    /// The request can be understood, but not done as things are: capacity, quota, a change that is not offered.
    #[error("{0}")]
    Unprocessable(String),
    /// Not enough cells for the nodes asked for.
    #[error(transparent)]
    Shortage(#[from] Shortage),
    /// No cell took a node.
    #[error("no cell could take the instance: {0}")]
    CellsUnavailable(String),
    /// The client knows another version of the plan's maintenance than the catalog.
    #[error("the maintenance_info of the request is not the one in the catalog; fetch the catalog again")]
    MaintenanceInfoConflict,
    /// The instance cannot get another plan.
    #[error("the plan of an instance cannot be changed")]
    PlanChangeNotSupported,
    /// The service or plan of the request is not in the catalog.
    #[error(transparent)]
    NotOnOffer(#[from] NotOnOffer),
    /// The client waited for an operation that was given up.
    #[error("{description}")]
    Failed {
        /// Why, and what the client can do.
        description: String,
        /// What that means for the instance.
        after: Option<AfterFailure>,
    },
    /// The client asked to wait, and it took too long. The operation goes on.
    #[error("{0}")]
    Timeout(String),
    /// etcd did not do what was asked.
    #[error("the broker cannot reach its store at the moment; nothing was lost, try again")]
    Store(#[from] StoreError),
    /// A document in etcd cannot be understood.
    #[error(
        "what is stored of this {what} cannot be understood by this broker; an operator has to look at it"
    )]
    Corrupt {
        /// What it describes: `instance`, `binding`.
        what: &'static str,
        /// Why.
        source: CorruptDocument,
    },
    /// The instance's PostgreSQL did not do what was asked.
    #[error("the instance's PostgreSQL cannot be reached at the moment, try again")]
    Database(#[from] DatabaseError),
    /// A handler ended in the middle, which is a mistake in this program.
    #[error("the broker failed; its log says why")]
    Panicked,
    /// The master key that an instance depends on is not configured.
    #[error("the broker lacks a key that this instance depends on; an operator has to look at it")]
    MasterKey(#[from] DeriveError),
}

/// How an error is answered and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The specification's word for programs, where it has one.
    pub word: Option<&'static str>,
    /// Seconds after which a repetition makes sense.
    pub retry_after: Option<u32>,
    /// Whether an operator should look: otherwise it is the client's business.
    pub alarming: bool,
}

impl Error {
    /// The one table of status codes (osb-reference.md, 1).
    #[must_use]
    pub fn answer(&self) -> Answer {
        let client = |status, word| Answer {
            status,
            word,
            retry_after: None,
            alarming: false,
        };
        let later = |status| Answer {
            status,
            word: None,
            retry_after: Some(5),
            alarming: true,
        };
        match self {
            Self::BadRequest(_) | Self::InvalidName(_) | Self::NotOnOffer(_) => client(400, None),
            Self::Unauthorized => client(401, None),
            Self::NotFound(_) | Self::NoEndpoint => client(404, None),
            Self::MethodNotAllowed => client(405, None),
            Self::TooSlow => client(408, None),
            Self::Conflict(_) => client(409, None),
            Self::Gone(_) => client(410, None),
            Self::ApiVersion(_) => client(412, None),
            Self::TooLarge { .. } => client(413, None),
            Self::AsyncRequired => client(422, Some("AsyncRequired")),
            Self::PlanChangeNotSupported => client(422, Some("PlanChangeNotSupported")),
            Self::MaintenanceInfoConflict => client(422, Some("MaintenanceInfoConflict")),
            Self::Concurrency(_) => client(422, Some("ConcurrencyError")),
            Self::Shortage(Shortage::NoCells) | Self::CellsUnavailable(_) => later(503),
            Self::Unprocessable(_) | Self::Shortage(_) => client(422, None),
            Self::Corrupt { .. } | Self::MasterKey(_) | Self::Failed { .. } | Self::Panicked => Answer {
                status: 500,
                word: None,
                retry_after: None,
                alarming: true,
            },
            Self::Store(_) | Self::Database(_) => later(503),
            Self::Timeout(_) => later(504),
        }
    }

    /// What the failure means for the instance, where the specification wants that said.
    #[must_use]
    pub fn after_failure(&self) -> Option<AfterFailure> {
        match self {
            Self::Failed { after, .. } => *after,
            Self::PlanChangeNotSupported => Some(AfterFailure {
                instance_usable: true,
                update_repeatable: Some(false),
            }),
            _ => None,
        }
    }
}

impl From<Operation> for Error {
    /// The end of an operation that was given up while its client waited.
    fn from(operation: Operation) -> Self {
        Self::Failed {
            after: operation.after_failure(),
            description: operation.description,
        }
    }
}
