use ::secrecy::ExposeSecret;

use super::*;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/bosh-lite.example.yml");

fn load(path: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = Environment::of(variables.iter().copied());
    Config::of(&Given::load(path.map(Path::new), environment)?)
}

#[test]
fn the_file_is_the_one_that_is_named_first() {
    assert_eq!(
        load(Some(FILE), &[("PATRONI_BROKER_CONFIG", "/no/such")])
            .unwrap()
            .broker
            .port,
        8888
    );
    assert_eq!(
        load(None, &[("PATRONI_BROKER_CONFIG", FILE)])
            .unwrap()
            .broker
            .port,
        8888
    );
    let error = message(load(None, &[("PATRONI_BROKER_CONFIG", "/no/such")]));
    assert_eq!(
        error,
        "/no/such: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn without_a_file_the_configuration_may_be_in_a_variable() {
    assert_eq!(
        load(None, &[("PATRONI_BROKER_CONFIG_YAML", LEAST)])
            .unwrap()
            .hostname,
        "db.example.com"
    );
    let error = message(load(None, &[("PATRONI_BROKER_CONFIG_YAML", "a:\nb: 1\n")]));
    assert!(
        error.starts_with("PATRONI_BROKER_CONFIG_YAML:1: a: no such key"),
        "{error}"
    );
    let error = message(load(Some("x.yml"), &[("PATRONI_BROKER_CONFIG_YAML", LEAST)]));
    assert_eq!(
        error,
        "x.yml: is given, and PATRONI_BROKER_CONFIG_YAML is set too: one must go"
    );
}

#[test]
fn without_either_the_error_says_how_to_give_one() {
    assert_eq!(
        message(load(None, &[])),
        "without a configuration file (--config or PATRONI_BROKER_CONFIG): kvstore.machines: is missing: set it or \
         PATRONI_BROKER_KVSTORE_MACHINES"
    );
}

#[test]
fn an_unreadable_variable_is_named() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let mut environment = Environment::default();
    environment.set("PATRONI_BROKER_BROKER_PASSWORD", OsString::from_vec(vec![0xff]));
    let given = Given::parse("x.yml", LEAST, environment).unwrap();
    assert_eq!(
        message(Config::of(&given)),
        "PATRONI_BROKER_BROKER_PASSWORD: is not valid UTF-8"
    );
}

#[test]
fn files_of_other_editors_are_read() {
    let yaml = format!(
        "\u{feff}{}",
        LEAST.replace(
            "{username: u, password: p}",
            "\n  username: u\n  password: 0123\n  port: 9000"
        )
    );
    let config = super::load(&yaml.replace('\n', "\r\n")).unwrap();
    assert_eq!(config.broker.port, 9000);
    assert_eq!(config.broker.credentials[0].password.expose_secret(), "0123");
}

#[test]
fn depth_is_limited() {
    let yaml = format!("a: {}", "[".repeat(10_000));
    let error = message(super::load(&yaml));
    assert!(error.starts_with("x.yml:1: not readable as YAML: "), "{error}");
}
