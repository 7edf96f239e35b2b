//! Time and chance, so that a simulation can set both.

use jiff::Timestamp;
use uuid::Uuid;

/// Where time and chance come from.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// A number that nobody else has.
    fn random(&self) -> Uuid;
}

/// The machine's clock and its random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place where time comes from"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> Uuid {
        Uuid::new_v4()
    }
}
