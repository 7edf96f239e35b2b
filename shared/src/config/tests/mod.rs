//! The configuration as its users see it.

mod defaults;
mod disclosure;
mod example;
mod reference;
mod refusals;
mod refusals_of_catalog;
mod sources;
mod variables;

use super::*;

/// A key of 32 bytes.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// All that must be given, in 9 lines.
const LEAST: &str = "\
broker: {username: u, password: p}
router: {hostname: db.example.com}
kvstore: {machines: ['http://10.244.21.4:4001']}
cell: {username: c, password: d}
secrets:
  master_keys:
  - {id: k1, value_for_development: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}
catalog:
  services: []
";

fn load(yaml: &str) -> Result<Config, ConfigError> {
    Config::parse("x.yml", yaml, [])
}

fn load_with(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse("x.yml", yaml, variables.iter().copied())
}

/// [`LEAST`] with its services replaced.
fn with_services(services: &str) -> String {
    LEAST.replace("  services: []\n", services)
}

fn message<T>(result: Result<T, ConfigError>) -> String {
    match result {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn check(yaml: &str, expected: &str) {
    assert_eq!(message(load(yaml)), expected, "said about\n{yaml}");
}
