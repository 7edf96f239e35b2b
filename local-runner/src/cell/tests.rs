//! Cells with real etcd, Patroni and PostgreSQL.

mod etcd_access;
mod life;
mod order;
mod survival;

use serde_json::Value;

/// Debian's Patroni.
const DEBIAN: &str = "/usr/bin/patroni";
/// A newer one, tested as well where it is installed.
const NEWEST: &str = "/opt/patroni4/bin/patroni";

/// The status and the word of an answer that is not a success.
fn refusal((status, body): (u16, Value)) -> (u16, String) {
    (status, body["error"].as_str().unwrap_or_default().to_owned())
}
