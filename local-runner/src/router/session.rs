//! The sessions of a worker, as its `show sess all` lists them.

use std::net::SocketAddr;

use shared::ids::Port;

use super::haproxy_config::port_of;

/// One client's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// HAProxy's name for it.
    pub(crate) id: String,
    /// The public port that it came through.
    pub(crate) port: Port,
    /// The server that it is connected to; `None` while it is not.
    pub(crate) server: Option<SocketAddr>,
}

/// Reads the sessions of clients. Those of HAProxy's own command line are left out.
pub(crate) fn parse(listing: &str) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut id = None;
    // Whether the session that is being listed is a client's.
    let mut wanted = false;
    for line in listing.lines() {
        if line.starts_with("0x") {
            id = line.split(':').next();
        } else if let Some(backend) = line.strip_prefix("  backend=") {
            let port = backend.split_whitespace().next().and_then(port_of);
            wanted = false;
            if let (Some(id), Some(port)) = (id.take(), port) {
                wanted = true;
                sessions.push(Session {
                    id: id.to_owned(),
                    port,
                    server: None,
                });
            }
        } else if line.starts_with("  server=") {
            let address = line.split_once(" addr=").map(|(_, rest)| rest);
            let address = address.and_then(|rest| rest.split_whitespace().next());
            if let Some(session) = sessions.last_mut().filter(|_| wanted) {
                session.server = address.and_then(socket_address);
            }
        }
    }
    sessions
}

/// HAProxy writes IPv6 addresses without brackets.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As HAProxy 2.6.12 prints them, shortened.
    const LISTING: &str = "\
0x55ec0d517bb0: [22/Nov/2026:15:04:54.151637] id=1 proto=tcpv4 source=127.0.0.1:33996
  flags=0x4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55ec0d450b50, pend_pos=(nil) waiting=0 epoch=0
  frontend=instance_21101 (id=2 mode=tcp), listener=? (id=1) addr=127.0.0.1:21101
  backend=instance_21101 (id=2 mode=tcp) addr=127.0.0.1:50242
  server=leader (id=1) addr=127.0.0.1:21001
  task=0x7f147c027180 (state=0x00 nice=0 calls=2 rate=2 exp=0s tmask=0x1 age=0s)
0x55ec0d62b280: [22/Nov/2026:15:04:54.152327] id=4 proto=unix_stream source=unix:1
  frontend=GLOBAL (id=0 mode=tcp), listener=? (id=1) addr=unix:1
  backend=<NONE> (id=-1 mode=-)
  server=<NONE> (id=-1)
0x7f147c0276d0: [22/Nov/2026:15:04:54.151926] id=2 proto=tcpv6 source=::1:33998
  frontend=instance_21102 (id=2 mode=tcp), listener=? (id=1) addr=::1:21102
  backend=instance_21102 (id=2 mode=tcp) addr=::1:50256
  server=leader (id=1) addr=::1:21001
0x7f147c0276d8: [22/Nov/2026:15:04:54.151926] id=2 proto=tcpv4 source=127.0.0.1:33999
  backend=instance_21103 (id=2 mode=tcp)
  server=leader (id=1)

";

    #[test]
    fn sessions_are_read_with_where_they_go() {
        let found: Vec<_> = parse(LISTING)
            .into_iter()
            .map(|session| {
                (
                    session.id,
                    session.port.number(),
                    session.server.map(|server| server.to_string()),
                )
            })
            .collect();
        let expected = [
            ("0x55ec0d517bb0", 21101, Some("127.0.0.1:21001")),
            ("0x7f147c0276d0", 21102, Some("[::1]:21001")),
            ("0x7f147c0276d8", 21103, None),
        ];
        let expected: Vec<_> = expected
            .map(|(id, port, server)| (id.to_owned(), port, server.map(str::to_owned)))
            .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn nonsense_holds_no_sessions() {
        for text in [
            "",
            "\n\n",
            "server=leader",
            "  server=leader addr=1",
            "0x1",
            "  backend=instance_1",
        ] {
            assert_eq!(parse(text), [], "{text:?}");
        }
    }
}
