//! Whom HAProxy's workers run as when the router is root: they deal with the network, and need no rights once they listen.
//! The master stays root, since it has to bind the ports of later instances.

use std::fs;

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
}

/// The account of the workers when the router is root; `None` when it is not, or there is none.
pub(crate) fn of_workers() -> Option<Account> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [user, _, uid, gid, ..] = fields.as_slice() else {
                return None;
            };
            (*user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
        })
    };
    let (uid, gid) = find("haproxy").or_else(|| find("nobody"))?;
    Some(Account { uid, gid })
}
