//! Who may reach etcd and how: TLS, users, and machines that are not etcd at all.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path, time::Duration};

use shared::{
    etcd::{Etcd, InvalidSettings, Settings},
    store::{Index, Read, Store, StoreError, WatchEvent},
};
use tests::{
    canned::CannedServer,
    etcd::{EtcdServer, Options},
    pki::Pki,
    wait::eventually,
};

async fn refusal(settings: &Settings) -> StoreError {
    let etcd = Etcd::new(settings).unwrap();
    let read = etcd.get("/t/a", Read::Quorum).await.unwrap_err();
    let write = etcd.set("/t/a", "1", None).await.unwrap_err();
    for error in [&read, &write] {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("geheim"), "{shown}");
    }
    assert!(
        !matches!(write, StoreError::Missing { .. } | StoreError::Conflict { .. }),
        "{write:?}"
    );
    read
}

#[tokio::test]
async fn a_user_with_the_right_password_gets_in() {
    let password = Some("geheim:mit ü".to_owned());
    let server = EtcdServer::start_with(Options {
        root_password: password,
        ..Options::default()
    })
    .await;
    let etcd = server.client();
    etcd.set("/t/a", "1", None).await.unwrap();
    assert_eq!(etcd.get("/t/a", Read::Quorum).await.unwrap().unwrap().value, "1");
    let mut watch = etcd.watch("/t");
    assert!(matches!(watch.next().await, WatchEvent::Snapshot(_)));

    let mut wrong = server.settings();
    wrong.password = Some("geheimnis".into());
    let mut unknown = server.settings();
    unknown.username = Some("nobody".to_owned());
    let mut anonymous = server.settings();
    (anonymous.username, anonymous.password) = (None, None);
    for settings in [wrong, unknown, anonymous] {
        let error = refusal(&settings).await;
        let StoreError::Unexpected { reason, .. } = error else {
            panic!("{error:?}")
        };
        assert!(reason.contains("etcd refuses this user"), "{reason}");
        let event = Etcd::new(&settings).unwrap().watch("/t").next().await;
        assert!(
            matches!(&event, WatchEvent::Lost(reason) if reason.contains("refuses")),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn tls_with_an_authority_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(&directory.path().join("ours"));
    let server = EtcdServer::start_with(Options {
        tls: Some(pki),
        ..Options::default()
    })
    .await;
    let etcd = server.client();
    let mut watch = etcd.watch("/t");
    watch.next().await;
    let index = etcd.create("/t/a", "1", None).await.unwrap();
    let WatchEvent::Put { entry, .. } = watch.next().await else {
        panic!("a write")
    };
    assert_eq!(entry.index, index);
    // The watch has requests of its own; this client has no watch.
    let quiet = server.client();
    for _ in 0..10 {
        quiet.get("/t/a", Read::Quorum).await.unwrap();
    }
    assert_eq!(quiet.traffic().requests, 10);

    // A stream that ends by its time limit is followed by the next one, in silence.
    let mut brief = server.settings();
    brief.stream_limit = Duration::from_millis(100);
    let brief = Etcd::new(&brief).unwrap();
    let mut watch = brief.watch("/t");
    watch.next().await;
    eventually(
        "several streams have begun",
        Duration::from_secs(60),
        async || (brief.traffic().requests >= 10).then_some(()),
    )
    .await;
    let index = etcd.set("/t/a", "2", None).await.unwrap();
    let WatchEvent::Put { entry, .. } = watch.next().await else {
        panic!("a write")
    };
    assert_eq!(entry.index, index);

    // By name, too.
    let mut named = server.settings();
    named.machines[0] = named.machines[0].replace("127.0.0.1", "localhost");
    Etcd::new(&named)
        .unwrap()
        .get("/t/a", Read::Quorum)
        .await
        .unwrap();

    let mut public = server.settings();
    public.ca_file = None;
    let mut other = server.settings();
    other.ca_file = Some(Pki::new(&directory.path().join("theirs")).ca);
    for settings in [public, other] {
        let error = refusal(&settings).await;
        let StoreError::Unavailable { reason } = error else {
            panic!("{error:?}")
        };
        assert!(reason.contains("certificate"), "{reason}");
    }
    let mut plain = server.settings();
    plain.machines[0] = plain.machines[0].replace("https", "http");
    // etcd just hangs up.
    let error = refusal(&plain).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(&directory.path().join("ours"));
    let tls = Some(pki.clone());
    let server = EtcdServer::start_with(Options {
        tls,
        client_certificates: true,
        ..Options::default()
    })
    .await;
    server.client().set("/t/a", "1", None).await.unwrap();

    let mut without = server.settings();
    (without.certificate_file, without.key_file) = (None, None);
    let stranger = Pki::new(&directory.path().join("theirs"));
    let mut strange = server.settings();
    strange.certificate_file = Some(stranger.client_certificate.clone());
    strange.key_file = Some(stranger.client_key.clone());
    for settings in [without, strange] {
        let error = refusal(&settings).await;
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }

    // Found when the client is made, and no panic later.
    let mut mixed = server.settings();
    mixed.key_file = Some(stranger.client_key);
    assert!(matches!(Etcd::new(&mixed), Err(InvalidSettings::Tls(_))));
    let mut half = server.settings();
    half.key_file = None;
    assert!(matches!(Etcd::new(&half), Err(InvalidSettings::HalfCertificate)));
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let broken = fs::read_to_string(&pki.ca)
        .unwrap()
        .replace("CERTIFICATE", "RUBBISH");
    let truncated = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let unusable = [
        file("empty.pem", ""),
        file("broken.pem", &broken),
        file("truncated.pem", truncated),
        Path::new("/nonexistent.pem").to_owned(),
    ];
    for path in unusable {
        let ca: fn(&mut Settings) -> &mut _ = |settings| &mut settings.ca_file;
        for change in [ca, |settings| &mut settings.key_file] {
            let mut settings = server.settings();
            *change(&mut settings) = Some(path.clone());
            let error = Etcd::new(&settings).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
}

#[tokio::test]
async fn an_etcd_without_the_v2_api_says_so() {
    let server = EtcdServer::start_with(Options {
        v2: false,
        ..Options::default()
    })
    .await;
    let error = refusal(&server.settings()).await;
    let StoreError::Unexpected { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("--enable-v2"), "{reason}");
}

/// Answers that are not etcd's: reads are `Unexpected`, and a write may have been done by whatever it is that answers.
#[tokio::test]
async fn rubbish_is_not_an_answer() {
    let http = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
    };
    let indexed = "X-Etcd-Index: 7\r\n";
    let deep = format!(
        r#"{{"action":"get","node":{}1"#,
        r#"{"dir":true,"nodes":["#.repeat(50_000)
    );
    let rubbish = [
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"\0\x01\x02\xff\xfe".to_vec(),
        http("200 OK", indexed, ""),
        http("200 OK", indexed, "<html>It works!</html>"),
        http("200 OK", indexed, "null"),
        http("200 OK", indexed, "[]"),
        http("200 OK", indexed, "{}"),
        http(
            "200 OK",
            indexed,
            r#"{"action":"get","node":{"key":"/t/a","value":7}}"#,
        ),
        http(
            "200 OK",
            indexed,
            r#"{"action":"get","node":{"key":"/t/a","value":"1"}}"#,
        ),
        http(
            "200 OK",
            indexed,
            r#"{"action":"get","node":{"key":"/t/a","value":"1","modifiedIndex":0}}"#,
        ),
        http(
            "200 OK",
            indexed,
            r#"{"action":"get","node":{"key":"/t/a","value":"1","modifiedIndex":-1}}"#,
        ),
        http("200 OK", indexed, &deep),
        http(
            "200 OK",
            "",
            r#"{"action":"get","node":{"key":"/t/a","value":"1","modifiedIndex":5}}"#,
        ),
        http("404 Not Found", "", "no such page"),
        http("301 Moved", "Location: http://127.0.0.1:1/\r\n", ""),
        http("418 I'm a teapot", "", "{\"errorCode\":\"x\"}"),
        http("400 Bad Request", "", "\u{1b}[31mred\u{0}"),
    ];
    for answer in rubbish {
        let server = CannedServer::always(&answer);
        let shown = String::from_utf8_lossy(&answer)
            .chars()
            .take(200)
            .collect::<String>();
        let etcd = Etcd::new(&Settings::new(vec![server.url()])).unwrap();
        let reads = [
            etcd.get("/t/a", Read::Quorum).await.map(|_| ()).unwrap_err(),
            etcd.list("/t/a", Read::Quorum).await.map(|_| ()).unwrap_err(),
            etcd.tree("/t/a", Read::Quorum).await.map(|_| ()).unwrap_err(),
        ];
        for error in reads {
            assert!(
                matches!(error, StoreError::Unexpected { .. }),
                "{shown}: {error:?}"
            );
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        let before = server.requests().len();
        let error = etcd.compare_and_delete("/t/a", Index::MIN).await;
        // Not at all, if it went into a connection that the server was about to close.
        assert!(
            server.requests().len() - before <= 1,
            "{shown}: a write is sent once"
        );
        if let Err(error) = error {
            let right = matches!(
                error,
                StoreError::Unexpected { .. } | StoreError::Ambiguous { .. }
            );
            assert!(right, "{shown}: {error:?}");
        }
        let event = tokio::time::timeout(Duration::from_secs(20), etcd.watch("/t").next())
            .await
            .unwrap();
        assert!(matches!(event, WatchEvent::Lost(_)), "{shown}: {event:?}");
    }
}

/// Whoever reads the log, or the output of a command, must know which of several machines is none of etcd's.
#[tokio::test]
async fn an_answer_that_is_not_etcds_names_the_machine() {
    let server =
        CannedServer::always(b"HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n404 page not found");
    let etcd = Etcd::new(&Settings::new(vec![server.url()])).unwrap();
    let read = etcd.get("/t/a", Read::Quorum).await.unwrap_err();
    let WatchEvent::Lost(watched) = etcd.watch("/t").next().await else {
        panic!("a watch of what is not etcd")
    };
    for text in [read.to_string(), watched] {
        assert!(
            text.contains(&server.url()) && text.contains("no v2 API"),
            "{text}"
        );
    }
}

/// An answer that ends before its end is no answer.
#[tokio::test]
async fn half_an_answer_is_none() {
    let halves = [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nX-Etcd-",
        b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nContent-Length: 5000\r\n\r\n{\"action\":\"get\"",
        b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{\"action\":",
    ];
    for half in halves {
        let server = CannedServer::always(half);
        let etcd = Etcd::new(&Settings::new(vec![server.url()])).unwrap();
        let read = etcd.get("/t/a", Read::Quorum).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
        let before = server.requests().len();
        let write = etcd.set("/t/a", "1", None).await;
        assert!(matches!(write, Err(StoreError::Ambiguous { .. })), "{write:?}");
        assert!(server.requests().len() - before <= 1, "a write is sent once");
    }
}
