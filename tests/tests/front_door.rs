//! local-runner's port: who is let in, how much and how slowly may be sent, and TLS. etcd is not needed for any of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    binaries, child::Child, osb::Osb, pki::Pki, ports::free_port, raw, stack::function_variables,
    wait::eventually,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::spawn_blocking,
    time::{interval, timeout},
};
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider},
};

/// Longer than anything takes here on a machine that does much else.
const LONG: Duration = Duration::from_secs(120);

/// A broker without anything behind it.
struct Broker {
    address: SocketAddr,
    directory: TempDir,
    _child: Child,
}

impl Broker {
    async fn start(variables: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut all: BTreeMap<_, _> = function_variables("http://127.0.0.1:1");
        all.insert("PATRONI_BROKER_BROKER_PORT".to_owned(), port.to_string());
        for (name, value) in variables {
            all.insert(format!("PATRONI_BROKER_BROKER_{name}"), value.clone());
        }
        let log = directory.path().join("broker.log");
        let mut child = Child::start_in(
            &all,
            &binaries::path("local-runner"),
            &["broker".to_owned()],
            &log,
        );
        let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        eventually("the broker listens", LONG, async || {
            assert!(child.is_running(), "{}", child.last_words());
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await;
        Self {
            address,
            directory,
            _child: child,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("broker.log")).unwrap()
    }

    /// The headers of a good request.
    fn headers(&self) -> Vec<(&'static str, String)> {
        Osb::new(&format!("http://{}", self.address)).raw_headers().into()
    }

    async fn get(&self, target: &str, headers: &[(&str, String)]) -> raw::RawAnswer {
        raw::request(self.address, "GET", target, headers, "").await
    }

    /// Sends the beginning of a request and nothing more; answers what comes back until the broker ends the connection.
    async fn send_half(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is reset has ended, too.
        drop(stream.write_all(text.as_bytes()).await);
        let ended = timeout(LONG, stream.read_to_end(&mut answer)).await;
        drop(ended.expect("the broker ends a connection that nothing comes from"));
        String::from_utf8(answer).unwrap()
    }

    /// A good request for the catalog.
    fn catalog(&self) -> String {
        let mut head = "GET /v2/catalog HTTP/1.1\r\nhost: broker\r\n".to_owned();
        for (name, value) in self.headers() {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// The head of a provision that announces so long a body.
    fn head(&self, headers: &[(&str, String)], length: usize) -> String {
        let mut head =
            "PUT /v2/service_instances/i1?accepts_incomplete=true HTTP/1.1\r\nhost: broker\r\n".to_owned();
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + &format!("content-length: {length}\r\n\r\n")
    }
}

#[tokio::test]
async fn a_slow_client_holds_nothing() {
    let broker = &Broker::start(&[]).await;
    let catalog = broker.catalog();
    let half_a_body = broker.head(&broker.headers(), 100) + "{";
    // All at once: each waits for the broker to lose its patience.
    let (nothing, half_a_line, half_a_head, body, idle) = tokio::join!(
        broker.send_half(""),
        broker.send_half("GET /v2/cat"),
        broker.send_half("GET /v2/catalog HTTP/1.1\r\nhost: broker\r\n"),
        broker.send_half(&half_a_body),
        broker.send_half(&catalog),
    );
    for silent in [nothing, half_a_line, half_a_head] {
        assert!(
            silent.is_empty() || silent.starts_with("HTTP/1.1 408"),
            "{silent}"
        );
    }
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert!(body.contains("did not arrive in time"), "{body}");
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
}

/// Sends requests, and reads what is answered byte by byte, or not at all; returns when the broker has ended the connection.
async fn ask_without_end(broker: &Broker, reads: bool) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(broker.address).await.unwrap();
    let (mut answers, mut requests) = stream.into_split();
    let request = broker.catalog();
    let ask = async { while requests.write_all(request.as_bytes()).await.is_ok() {} };
    let listen = async {
        let mut pace = interval(Duration::from_millis(50));
        while reads && answers.read_u8().await.is_ok() {
            pace.tick().await;
        }
        // Whoever asks sees the end.
        pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            () = ask => {}
            () = listen => {}
        }
    };
    let ended = timeout(LONG, ended).await;
    ended.expect("the broker ends a connection whose client does not take its answers");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing() {
    let broker = &Broker::start(&[]).await;
    tokio::join!(ask_without_end(broker, false), ask_without_end(broker, true));
    assert_eq!(broker.get("/v2/catalog", &broker.headers()).await.status, 200);
}

#[tokio::test]
async fn nothing_is_read_from_strangers_and_not_much_from_anybody() {
    let broker = &Broker::start(&[]).await;
    // The body never comes, and the answer comes all the same.
    let stranger = broker.send_half(&broker.head(&[], 100)).await;
    assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");
    let large = broker.send_half(&broker.head(&broker.headers(), 1_048_577)).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    assert!(large.contains("1048576 bytes"), "{large}");

    // One that does not say how long it is.
    let mut head = "PUT /v2/service_instances/i1 HTTP/1.1\r\nhost: broker\r\n".to_owned();
    for (name, value) in broker.headers() {
        head += &format!("{name}: {value}\r\n");
    }
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = head.clone() + "transfer-encoding: chunked\r\n\r\n" + &chunk.repeat(16) + "1\r\nx\r\n";
    let endless = broker.send_half(&endless).await;
    assert!(endless.starts_with("HTTP/1.1 413"), "{endless}");

    // One that is no body at all is not called large.
    let broken = head + "transfer-encoding: chunked\r\n\r\nnot a length\r\n";
    let broken = broker.send_half(&broken).await;
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
    assert!(broken.contains("cannot be read as a whole"), "{broken}");

    let mut headers = broker.headers();
    headers.push(("x-broker-api-originating-identity", "x".repeat(1_000_000)));
    let long = broker.send_half(&broker.head(&headers, 0)).await;
    // The answer may be lost when the connection ends with much of the head still on its way.
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 431"), "{long}");
    // It serves on.
    assert_eq!(broker.get("/v2/catalog", &broker.headers()).await.status, 200);
}

#[tokio::test]
async fn every_refusal_of_the_port_is_like_those_of_the_handlers() {
    let broker = Broker::start(&[]).await;
    let identity = ("x-broker-api-request-identity", "one".to_owned());
    let stranger = broker.get("/v2/nothing", std::slice::from_ref(&identity)).await;
    assert_eq!(stranger.status, 401);
    let mut headers = broker.headers();
    headers.push(identity);
    let lost = broker.get("/v2/nothing", &headers).await;
    assert_eq!(lost.status, 404);
    let wrong = raw::request(broker.address, "POST", "/v2/catalog", &headers, "").await;
    assert_eq!(wrong.status, 405);
    assert!(
        wrong.text.to_lowercase().contains("\r\nallow: get"),
        "{}",
        wrong.text
    );
    for answer in [stranger, lost, wrong] {
        assert!(
            answer.text.contains("x-broker-api-request-identity: one"),
            "{}",
            answer.text
        );
        assert!(answer.text.ends_with("}\n"), "{}", answer.text);
    }
    // Whoever guesses makes a connection for each guess. Nobody asked for that here.
    let guess = broker
        .send_half("GET /v2/catalog HTTP/1.1\r\nhost: broker\r\n\r\n")
        .await;
    assert!(guess.contains("\r\nconnection: close\r\n"), "{guess}");
    let log = broker.log();
    assert!(
        log.contains("\"status\":404") || log.contains("status=404"),
        "{log}"
    );
}

#[tokio::test]
async fn what_clients_send_is_cut_in_the_log() {
    let broker = Broker::start(&[]).await;
    let mut headers = broker.headers();
    headers.push(("x-broker-api-request-identity", "r".repeat(2000)));
    headers.push(("x-broker-api-originating-identity", "o".repeat(2000)));
    let path = format!(
        "/v2/service_instances/{}/service_bindings/{}",
        "i".repeat(2000),
        "b".repeat(2000)
    );
    let answer = broker.get(&path, &headers).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains(&"r".repeat(2000)), "{}", answer.text);
    let body = format!("{{\"parameters\": \"{}\"}}", "s".repeat(9000));
    let good = broker.headers();
    let put = raw::request(broker.address, "PUT", "/v2/service_instances/x", &good, &body).await;
    assert_eq!(put.status, 400, "{}", put.text);
    let log = broker.log();
    for letter in ["r", "o", "i", "b"] {
        assert!(log.contains(&letter.repeat(256)), "{log}");
        assert!(!log.contains(&letter.repeat(257)), "{log}");
    }
    assert!(!log.contains(&"s".repeat(2049)), "{log}");
}

#[tokio::test]
async fn several_passwords_are_accepted_at_once() {
    let pairs = r#"[{"username": "new", "password": "secret"}]"#;
    let broker = Broker::start(&[("CREDENTIALS", pairs.to_owned())]).await;
    assert_eq!(broker.get("/v2/catalog", &broker.headers()).await.status, 200);
    let with = |pair: &str| {
        let mut headers = broker.headers();
        headers[0].1 = format!("Basic {pair}");
        headers
    };
    // new:secret and new:starkandwayne
    assert_eq!(
        broker.get("/v2/catalog", &with("bmV3OnNlY3JldA==")).await.status,
        200
    );
    let mixed = with("bmV3OnN0YXJrYW5kd2F5bmU=");
    assert_eq!(broker.get("/v2/catalog", &mixed).await.status, 401);
}

/// The status of the catalog over TLS, for a client that trusts this authority; `None` when it does not trust the broker.
async fn status_over_tls(broker: &Broker, ca: &Path) -> Option<u16> {
    let authority = Certificate::from_pem(&fs::read(ca).unwrap()).unwrap();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&[authority]))
        .build();
    let agent = Agent::new_with_config(
        Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .timeout_global(Some(LONG))
            .build(),
    );
    let url = format!("https://{}/v2/catalog", broker.address);
    let headers = broker.headers();
    spawn_blocking(move || {
        let request = headers.iter().fold(agent.get(&url), |request, (name, value)| {
            request.header(*name, value)
        });
        request.call().ok().map(|answer| answer.status().as_u16())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_certificate_is_replaced_while_the_broker_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (
        Pki::new(&directory.path().join("old")),
        Pki::new(&directory.path().join("new")),
    );
    let used: [PathBuf; 2] = ["broker.crt", "broker.key"].map(|name| directory.path().join(name));
    fs::copy(&old.server_certificate, &used[0]).unwrap();
    fs::copy(&old.server_key, &used[1]).unwrap();
    let broker = Broker::start(&[
        ("CERTIFICATE_FILE", used[0].display().to_string()),
        ("KEY_FILE", used[1].display().to_string()),
    ])
    .await;
    assert_eq!(status_over_tls(&broker, &old.ca).await, Some(200));
    assert_eq!(status_over_tls(&broker, &new.ca).await, None);

    // Half of a new pair changes nothing.
    fs::copy(&new.server_certificate, &used[0]).unwrap();
    eventually("the broker sees the half", LONG, async || {
        broker.log().contains("cannot be used").then_some(())
    })
    .await;
    assert_eq!(status_over_tls(&broker, &old.ca).await, Some(200));

    fs::copy(&new.server_key, &used[1]).unwrap();
    eventually("the new certificate", LONG, async || {
        status_over_tls(&broker, &new.ca).await
    })
    .await;
    assert_eq!(status_over_tls(&broker, &old.ca).await, None);

    // A client that does not speak TLS, or never ends its handshake, is not waited for.
    let plain = broker
        .send_half("GET /v2/catalog HTTP/1.1\r\nhost: broker\r\n\r\n")
        .await;
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (
        Pki::new(&directory.path().join("one")),
        Pki::new(&directory.path().join("other")),
    );
    let nothing = directory.path().join("nothing.crt");
    for (certificate, key) in [
        (&nothing, &one.server_key),
        (&one.server_key, &one.server_key),
        (&one.server_certificate, &nothing),
        (&one.server_certificate, &other.server_key),
    ] {
        let mut variables = function_variables("http://127.0.0.1:1");
        let mut set = |name: &str, path: &Path| {
            variables.insert(
                format!("PATRONI_BROKER_BROKER_{name}"),
                path.display().to_string(),
            );
        };
        set("CERTIFICATE_FILE", certificate);
        set("KEY_FILE", key);
        let log = directory.path().join("broker.log");
        let program = binaries::path("local-runner");
        let mut child = Child::start_in(&variables, &program, &["broker".to_owned()], &log);
        eventually("the broker gives up", LONG, async || {
            (!child.is_running()).then_some(())
        })
        .await;
        let words = child.last_words();
        assert!(words.contains("certificate cannot be used"), "{words}");
    }
}
