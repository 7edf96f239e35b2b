//! Something that does not hold.

use std::fmt;

/// What was expected, and what was seen in its place.
#[derive(Debug, thiserror::Error)]
#[error("  expected: {expected}\n  seen:     {seen}")]
pub(super) struct Failure {
    expected: String,
    seen: String,
}

impl Failure {
    pub(super) fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
        }
    }

    /// For `map_err`: an error where success was expected.
    pub(super) fn instead_of<E: std::error::Error>(expected: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::new(expected, crate::chain(&error))
    }
}

/// Fails unless two values are the same.
pub(super) fn same<T: PartialEq + fmt::Debug>(what: &str, expected: &T, seen: &T) -> Result<(), Failure> {
    if expected == seen {
        return Ok(());
    }
    Err(Failure::new(format!("{what}: {expected:?}"), format!("{seen:?}")))
}
