//! The reference in `config/README.md` says what the code does.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::config::{
    given::{VARIABLES, known_variables},
    section::variable,
};

const GUIDE: &str = include_str!("../../../../config/README.md");

/// The cells of a table's rows, by the table's first line.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = GUIDE.split_once(heading).unwrap();
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn reference() -> Vec<Vec<&'static str>> {
    table("| key | default | variable | meaning |")
}

/// What stands as code.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// Values for all that is required, by variable.
fn required() -> Vec<(String, String)> {
    let values = [
        ("broker.username", "u"),
        ("broker.password", "p"),
        ("router.hostname", "db.example.com"),
        ("kvstore.machines", "http://10.244.21.4:4001"),
        ("catalog.services", "[]"),
        ("cell.guid", "c1"),
        ("cell.address", "c1.example.com"),
        ("cell.availability_zone", "z1"),
        ("cell.username", "c"),
        ("cell.password", "d"),
        (
            "secrets.master_keys",
            "[{id: k, environment: PATRONI_BROKER_MASTER_KEY}]",
        ),
        ("master_key", KEY),
    ];
    values
        .map(|(key, value)| (variable(key), value.to_owned()))
        .into()
}

/// What all parts make of these variables, in words; the first error, if one refuses them.
fn all_parts(variables: &[(String, String)]) -> Result<String, ConfigError> {
    let borrowed = || {
        variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    };
    let broker = Config::parse("x.yml", "", borrowed())?;
    let cell = CellConfig::parse("x.yml", "", borrowed())?;
    let router = RouterConfig::parse("x.yml", "", borrowed())?;
    Ok(format!("{broker:?} {cell:?} {router:?}"))
}

#[test]
fn every_key_and_every_variable_has_a_line() {
    let nested = |path: &String| VARIABLES.iter().any(|(section, _)| section == path);
    let keys = VARIABLES
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")));
    let keys = keys.filter(|path| !nested(path)).chain(["backends".to_owned()]);
    let backends = backend::KEYS.iter().map(|key| format!("backends[].{key}"));
    let secrets = secrets::MASTER_KEY_KEYS
        .iter()
        .map(|key| format!("secrets.master_keys[].{key}"));
    let wanted: BTreeSet<String> = keys.chain(backends).chain(secrets).collect();
    let lines = reference();
    let found: BTreeSet<String> = lines.iter().map(|row| code(row[0]).unwrap().to_owned()).collect();
    assert_eq!(found, wanted);
    assert_eq!(found.len(), lines.len(), "one line for each");

    let mut variables = BTreeSet::new();
    for row in &lines {
        let key = code(row[0]).unwrap();
        match code(row[2]) {
            Some(name) => {
                assert_eq!(name, variable(key));
                variables.insert(name.to_owned());
            }
            None => assert!(key.contains("[]"), "{key} has a variable"),
        }
        assert!(row[3].len() > 4, "{key} has a meaning");
    }
    assert_eq!(variables, known_variables().into_iter().collect());
}

#[test]
fn the_defaults_are_those_of_the_code() {
    let without = all_parts(&required()).unwrap();
    for row in reference() {
        let Some(default) = code(row[1]) else {
            assert!(matches!(row[1], "required" | "none"), "{row:?}");
            continue;
        };
        let mut variables = required();
        variables.push((code(row[2]).unwrap().to_owned(), default.to_owned()));
        assert_eq!(all_parts(&variables).unwrap(), without, "{row:?}");
    }
}

#[test]
fn what_is_called_required_is_and_the_rest_is_not() {
    let lines = reference();
    let wanted: BTreeSet<String> = lines
        .iter()
        .filter(|row| row[1] == "required")
        .filter_map(|row| code(row[2]))
        .map(str::to_owned)
        .collect();
    // All that is required was enough above; each alone is missed.
    let given: BTreeSet<String> = required().into_iter().map(|(name, _)| name).collect();
    let key = variable("master_key");
    assert_eq!(
        given.iter().filter(|name| **name != key).collect::<Vec<_>>(),
        wanted.iter().collect::<Vec<_>>()
    );
    for name in &wanted {
        let mut variables = required();
        variables.retain(|(given, _)| given != name);
        assert!(all_parts(&variables).is_err(), "{name} can be left out");
    }
}

#[test]
fn the_keys_of_a_plan_are_those_of_the_code() {
    let below = |path: &str, keys: &[&str]| -> Vec<String> {
        keys.iter().map(|key| format!("cluster.{path}{key}")).collect()
    };
    let mut wanted: BTreeSet<String> = below("", cluster::KEYS).into_iter().collect();
    for (path, keys) in [
        ("nodes.", cluster::NODES_KEYS),
        ("instances.", cluster::INSTANCES_KEYS),
        ("resources.", cluster::RESOURCES_KEYS),
        ("postgresql.", cluster::POSTGRESQL_KEYS),
        ("patroni.", cluster::PATRONI_KEYS),
    ] {
        assert!(wanted.remove(&format!("cluster.{}", path.trim_end_matches('.'))));
        wanted.extend(below(path, keys));
    }
    let lines = table("| key of a plan | default | meaning |");
    let found: BTreeSet<String> = lines.iter().map(|row| code(row[0]).unwrap().to_owned()).collect();
    assert_eq!(found, wanted);

    let cluster_of = |cluster: &Value| {
        let plan = json!({"id": "p", "name": "p", "description": "d", "cluster": cluster});
        let service = json!([{"id": "s", "name": "s", "description": "d", "plans": [plan]}]);
        let yaml = with_services(&format!("  services: {service}\n"));
        let config = load(&yaml).unwrap();
        config.catalog.plan("s", "p").unwrap().1.cluster.clone()
    };
    let without = cluster_of(&json!({}));
    for row in lines {
        let Some(default) = code(row[1]) else { continue };
        let keys: Vec<&str> = code(row[0]).unwrap().split('.').skip(1).collect();
        let value: Value = serde_json::from_str(default).unwrap();
        let nested = keys.iter().rev().fold(value, |value, key| json!({*key: value}));
        assert_eq!(cluster_of(&nested), without, "{row:?}");
    }
}
