//! Whether HAProxy will be able to listen on a port.
//!
//! HAProxy refuses a whole configuration when one of its ports cannot be bound, and until it gives up, the worker that
//! runs stops listening on *all* its ports for up to two seconds (it is asked to let them go). So each port is tried
//! before it is put into the configuration.

use std::net::{IpAddr, SocketAddr, TcpListener};

use shared::ids::Port;

/// Why a port cannot be listened on; `None`: it can.
pub(crate) fn obstacle(address: IpAddr, port: Port) -> Option<String> {
    // The same as HAProxy will do: std sets SO_REUSEADDR, and neither it nor our configuration SO_REUSEPORT.
    match TcpListener::bind(SocketAddr::new(address, port.number())) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_from_a_free_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let address = "127.0.0.1".parse().unwrap();
        assert!(obstacle(address, port).unwrap().contains("in use"));
        drop(listener);
        assert_eq!(obstacle(address, port), None);
    }
}
