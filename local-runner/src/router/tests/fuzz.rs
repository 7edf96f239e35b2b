//! What Patroni publishes, and what HAProxy prints, changed at random.

use tests::fuzz::fuzz;

use super::super::{member::Member, session};

#[test]
fn members() {
    let samples = [
        r#"{"conn_url":"postgres://127.0.0.2:15000/postgres","api_url":"http://127.0.0.2:15100/patroni","state":"running","role":"primary","version":"4.1.5","xlog_location":83886336,"timeline":1}"#,
        r#"{"conn_url":"postgres://[::1]:15000/postgres","state":"starting","role":"promoted","tags":{"nofailover":true}}"#,
        r#"{"role": "master", "state": "running", "conn_url": "postgres://replicator:r@p/l@10.244.21.8:32768/postgres", "api_url": "http://127.0.0.1:8008/patroni", "xlog_location": 83886336}"#,
    ];
    fuzz("members of the router", &samples, |input| {
        Member::parse(&String::from_utf8_lossy(input)).is_ok()
    });
}

/// Two sessions, as HAProxy 2.6.12 prints them, shortened.
const LISTING: &str = "\
0x55ec0d517bb0: [22/Nov/2026:15:04:54.151637] id=1 proto=tcpv4 source=127.0.0.1:33996
  frontend=instance_21101 (id=2 mode=tcp), listener=? (id=1) addr=127.0.0.1:21101
  backend=instance_21101 (id=2 mode=tcp) addr=127.0.0.1:50242
  server=leader (id=1) addr=127.0.0.1:21001
0x7f147c0276d0: [22/Nov/2026:15:04:54.151926] id=2 proto=tcpv6 source=::1:33998
  backend=instance_21102 (id=2 mode=tcp) addr=::1:50256
  server=leader (id=1) addr=::1:21001

";

#[test]
fn sessions() {
    fuzz("sessions of HAProxy", &[LISTING], |input| {
        let sessions = session::parse(&String::from_utf8_lossy(input));
        sessions.iter().any(|session| session.server.is_some())
    });
}
