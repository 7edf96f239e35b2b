//! What is wrong with a configuration, and where.

use std::{fmt, sync::Arc};

/// One thing that is wrong with the configuration: `config/x.yml:14: broker.port: must be ...`.
///
/// It names the file and line (or the environment variable), the key, and what would be right. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{problem}", Key(.key))]
pub struct ConfigError {
    place: Place,
    key: String,
    problem: String,
}

impl ConfigError {
    /// A problem with the value of a key; an empty key is the configuration as a whole.
    pub(super) fn new(place: &Place, key: &str, problem: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    /// The same error with a reason for what it asks for.
    pub(super) fn because(mut self, reason: &str) -> Self {
        self.problem = format!("{} ({reason})", self.problem);
        self
    }
}

struct Key<'a>(&'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "{}: ", self.0)
    }
}

/// Where a value comes from: a file or an environment variable, and the line in it where there are lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    source: Arc<str>,
    line: Option<u64>,
}

impl Place {
    pub(super) fn whole(source: &str) -> Self {
        Self {
            source: source.into(),
            line: None,
        }
    }

    /// A line of the same source, counted from 1.
    pub(super) fn line(&self, line: u64) -> Self {
        Self {
            source: Arc::clone(&self.source),
            line: Some(line),
        }
    }

    /// This place as seen from another one: short when both are in the same source.
    pub(super) fn seen_from(&self, other: &Self) -> String {
        match self.line {
            Some(line) if self.source == other.source => format!("at line {line}"),
            _ => format!("in {self}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}
