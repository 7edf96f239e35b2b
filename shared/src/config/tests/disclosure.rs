use proptest::prelude::*;

use super::*;

const SECRET: &str = "hunter2hunter2hunter2hunter2hunter2hunter2XX";

/// Every kind of secret there is, all of them the same.
fn full() -> String {
    format!(
        "\
broker:
  username: u
  password: {SECRET}
  credentials:
  - username: v
    password: {SECRET}
router:
  hostname: h
backends:
- guid: a
  availability_zone: z
  uri: http://a:8889
  username: c
  password: {SECRET}
kvstore:
  machines: ['http://a:2379']
  username: e
  password: {SECRET}
cell:
  username: c
  password: {SECRET}
catalog:
  services:
  - id: s
    name: s
    description: d
    dashboard_client:
      id: s
      secret: {SECRET}
    plans:
    - id: p
      name: p
      description: d
secrets:
  master_keys:
  - id: k
    value_for_development: {KEY}
"
    )
}

#[test]
fn debug_shows_no_secret() {
    let config = load(&full()).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(KEY), "{shown}");
    let published = format!("{:?}", config.catalog.published(17));
    assert!(!published.contains("hunter2"), "{published}");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    let key = format!("value_for_development: {KEY}");
    let hexadecimal = "a0b1".repeat(16);
    for (right, wrong) in [
        (key.as_str(), format!("environment: {KEY}")),
        (&key, format!("environment: {hexadecimal}")),
        (&key, format!("file: {KEY}")),
        (&key, format!("value_for_development: {SECRET}!")),
        ("- id: k\n", format!("- id: {KEY}\n")),
        ("http://a:2379", format!("http://u:{SECRET}@a:2379")),
        ("http://a:8889", format!("ftp://u:{SECRET}@a:2379")),
        (SECRET, format!("[{SECRET}]")),
    ] {
        let error = message(load(&full().replace(right, &wrong)));
        assert_ne!(error, "no error", "{wrong}");
        for secret in ["hunter2", KEY, &hexadecimal] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn damaged_files_are_refused_without_showing_a_secret(line in 0..40usize, other in 0..40usize, how in 0..5u8) {
        let full = full();
        let mut lines: Vec<_> = full.lines().map(str::to_owned).collect();
        let (line, other) = (line % lines.len(), other % lines.len());
        match how {
            0 => drop(lines.remove(line)),
            1 => lines.swap(line, other),
            2 => lines[line].insert(0, ' '),
            3 => lines[line] = lines[line].trim_start().to_owned(),
            _ => lines.insert(other, lines[line].clone()),
        }
        let error = message(load(&lines.join("\n")));
        prop_assert!(!error.contains("hunter2") && !error.contains(KEY), "{}", error);
    }
}
