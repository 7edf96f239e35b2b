//! The configuration as its users see it.

use super::*;

const EXAMPLE: &str = include_str!("../../../config/bosh-lite.example.yml");

#[test]
fn the_example_loads() {
    let config = Config::parse("config/bosh-lite.example.yml", EXAMPLE, []).unwrap();
    assert_eq!(config.broker.port, 8888);
    assert_eq!(config.broker.posture, Posture::Lenient);
    assert_eq!(config.hostname, "10.244.21.2");
    assert_eq!(config.backends.len(), 3);
}
