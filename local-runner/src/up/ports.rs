//! Whether the ports that the stack needs are free, before anything is started.

use std::net::{SocketAddr, TcpListener};

use super::error::UpError;
use crate::port_holder;

/// A port that the stack needs.
#[derive(Debug)]
pub(super) struct Needed {
    /// Which part of the stack needs it.
    pub(super) what: String,
    /// Where.
    pub(super) address: SocketAddr,
    /// What to do when it is taken.
    pub(super) advice: &'static str,
}

/// Checks that nobody listens on any of them.
///
/// # Errors
/// The first that cannot be had, and by whom it is held.
pub(super) fn check(needed: Vec<Needed>) -> Result<(), UpError> {
    for Needed {
        what,
        address,
        advice,
    } in needed
    {
        // std sets SO_REUSEADDR: connections of an earlier process that are still timing out do not count.
        if let Err(error) = TcpListener::bind(address) {
            let reason =
                port_holder::find(address).map_or_else(|| error.to_string(), |who| format!("{who} holds it"));
            return Err(UpError::Taken {
                what,
                address,
                reason,
                advice,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let needed = || {
            vec![Needed {
                what: "the broker".to_owned(),
                address: listener.local_addr().unwrap(),
                advice: "--port chooses another one",
            }]
        };
        let refusal = check(needed()).unwrap_err().to_string();
        let holder = format!("(process {}) holds it; --port chooses", std::process::id());
        assert!(
            refusal.starts_with("the broker cannot listen on 127.0.0.1:"),
            "{refusal}"
        );
        assert!(refusal.contains(&holder), "{refusal}");
    }
}
