//! What a PostgreSQL runs with, and what Patroni makes of its configuration. Of all parameters there is `max_connections`, which takes a
//! restart, and must not be lower on a standby than on its primary.

use serde_json::Value;
use shared::{
    database::NodeSettings,
    decide::dynamic_configuration::{self, STANDBY_LIMITS},
};

const NAME: &str = STANDBY_LIMITS[0].0;
const USUAL: i64 = STANDBY_LIMITS[0].1;

/// The settings of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The version that Patroni has taken over.
    version: String,
    /// What Patroni shall have PostgreSQL run with.
    wanted: i64,
    /// What is in its file.
    filed: i64,
    /// What it runs with.
    pub(super) runs: i64,
}

impl Settings {
    /// Patroni takes a configuration over, and has PostgreSQL load its file.
    pub(super) fn load(&mut self, configuration: &Value) {
        let Some(configuration) = configuration.as_object() else {
            return;
        };
        let version = dynamic_configuration::version(configuration).unwrap_or_default();
        if self.version != version {
            version.clone_into(&mut self.version);
            self.wanted = dynamic_configuration::limit(configuration, NAME, USUAL);
            self.filed = self.wanted;
        }
    }

    /// PostgreSQL starts: a standby with no less than its primary has.
    pub(super) fn start(&mut self, primary: Option<i64>) {
        self.runs = self.wanted.max(primary.unwrap_or_default());
        self.filed = self.runs;
    }

    /// Patroni's flag.
    pub(super) fn is_pending(&self) -> bool {
        self.runs != self.wanted
    }

    /// Whether a standby with these settings bears a primary that was started with its own.
    pub(super) fn bears(&self, primary: &Self) -> bool {
        self.runs >= primary.wanted
    }

    /// What PostgreSQL says.
    pub(super) fn told(&self) -> NodeSettings {
        NodeSettings {
            version: self.version.clone(),
            pending: self.filed != self.runs,
            limits: [(NAME.to_owned(), self.runs)].into(),
        }
    }
}
