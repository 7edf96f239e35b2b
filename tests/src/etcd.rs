//! Real etcd servers with the v2 API, alone or as a cluster.

use std::{path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use shared::etcd::{Etcd, Settings};
use tempfile::TempDir;
use ureq::{
    Agent,
    http::{Method, Request},
};

use crate::{child::Child, pki::Pki, ports::free_port, wait::eventually};

/// How long etcd may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// How to start etcd.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether the v2 API is on.
    pub v2: bool,
    /// The certificates, for TLS towards clients.
    pub tls: Option<Pki>,
    /// Whether clients must show a certificate of that authority.
    pub client_certificates: bool,
    /// The password of the user `root`: turns authentication on, and access without it off.
    pub root_password: Option<String>,
    /// Where to keep the data, so that it outlives the server; a temporary directory otherwise.
    pub directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            v2: true,
            tls: None,
            client_certificates: false,
            root_password: None,
            directory: None,
        }
    }
}

/// One member. It is killed when it is dropped.
#[derive(Debug)]
pub struct EtcdServer {
    child: Option<Child>,
    options: Options,
    arguments: Vec<String>,
    directory: PathBuf,
    url: String,
    health: String,
    _temporary: Option<TempDir>,
}

impl EtcdServer {
    /// A server of its own, with the v2 API and without TLS and authentication.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A server of its own.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn start_with(options: Options) -> Self {
        let peer = peer_url();
        let mut server = Self::prepare("single", &peer, &format!("single={peer}"), options);
        server.restart().await;
        if let Some(password) = server.options.root_password.clone() {
            server.enable_authentication(&password);
        }
        server
    }

    fn prepare(name: &str, peer: &str, cluster: &str, options: Options) -> Self {
        let (directory, temporary) = match &options.directory {
            Some(directory) => (directory.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("etcd-").tempdir().unwrap();
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", free_port());
        let health = format!("http://127.0.0.1:{}", free_port());
        let data = directory.join("data").display().to_string();
        let mut arguments: Vec<String> = [
            ["--name", name],
            ["--data-dir", &data],
            ["--listen-client-urls", &url],
            ["--advertise-client-urls", &url],
            ["--listen-metrics-urls", &health],
            ["--listen-peer-urls", peer],
            ["--initial-advertise-peer-urls", peer],
            ["--initial-cluster", cluster],
            ["--initial-cluster-state", "new"],
            // Elections take tenths of a second, and not seconds.
            ["--heartbeat-interval", "50"],
            ["--election-timeout", "500"],
        ]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect();
        if options.v2 {
            arguments.push("--enable-v2".to_owned());
        }
        if let Some(pki) = &options.tls {
            let mut file =
                |flag: &str, path: &PathBuf| arguments.extend([flag.to_owned(), path.display().to_string()]);
            file("--cert-file", &pki.server_certificate);
            file("--key-file", &pki.server_key);
            if options.client_certificates {
                file("--trusted-ca-file", &pki.ca);
                arguments.push("--client-cert-auth".to_owned());
            }
        }
        Self {
            child: None,
            options,
            arguments,
            directory,
            url,
            health,
            _temporary: temporary,
        }
    }

    /// The base URL for clients.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it leads its cluster.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn leads(&self) -> bool {
        let (status, body) = self.raw("GET", "/v2/stats/self", None);
        assert_eq!(status, 200, "{body}");
        body.contains("StateLeader")
    }

    /// What a client needs to reach this server.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new(vec![self.url.clone()]);
        if let Some(pki) = &self.options.tls {
            settings.ca_file = Some(pki.ca.clone());
            if self.options.client_certificates {
                settings.certificate_file = Some(pki.client_certificate.clone());
                settings.key_file = Some(pki.client_key.clone());
            }
        }
        if let Some(password) = &self.options.root_password {
            settings.username = Some("root".to_owned());
            settings.password = Some(password.as_str().into());
        }
        settings
    }

    /// A client of this server.
    ///
    /// # Panics
    /// When the certificates cannot be used.
    #[must_use]
    pub fn client(&self) -> Etcd {
        Etcd::new(&self.settings()).unwrap()
    }

    /// Kills the server as a power cut would. Its data stays.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Starts the server (again, after ending it if need be) with its data and ports; answers when it is healthy.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn restart(&mut self) {
        self.launch();
        self.healthy().await;
    }

    /// Ends the server, and starts one in its place that knows nothing.
    ///
    /// # Panics
    /// When its data cannot be removed, or it does not become healthy.
    pub async fn lose_everything(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.join("data")).unwrap();
        self.restart().await;
    }

    /// Stops the process where it is: connections stay open, and nothing answers.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn pause(&self) {
        self.child.as_ref().expect("a running server").pause();
    }

    /// Lets a paused process go on.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn resume(&self) {
        self.child.as_ref().expect("a running server").resume();
    }

    /// Sends a request that no client of ours sends. `target` begins with a slash; `form` is the body.
    /// Answers the status and the body.
    ///
    /// # Panics
    /// When there is no answer, or the server has TLS.
    #[must_use]
    pub fn raw(&self, method: &str, target: &str, form: Option<&str>) -> (u16, String) {
        let form_type = "application/x-www-form-urlencoded".to_owned();
        let headers = form.map(|_| ("content-type", form_type));
        send(&self.url, method, target, headers.as_slice(), form)
    }

    fn launch(&mut self) {
        self.child = None;
        self.child = Some(Child::start(
            "/usr/bin/etcd",
            &self.arguments,
            &self.directory.join("etcd.log"),
        ));
    }

    async fn healthy(&mut self) {
        let (health, child) = (
            self.health.clone(),
            self.child.as_mut().expect("a running server"),
        );
        let agent = agent();
        eventually("etcd is healthy", START, async || {
            assert!(child.is_running(), "etcd has ended:\n{}", child.last_words());
            let answer = agent.get(format!("{health}/health")).call();
            let text = answer.ok()?.body_mut().read_to_string().ok()?;
            text.contains("\"true\"").then_some(())
        })
        .await;
    }

    fn enable_authentication(&self, password: &str) {
        let put = |target: &str, body: &str, authorized: bool| {
            let mut headers = vec![("content-type", "application/json".to_owned())];
            if authorized {
                let credentials = STANDARD.encode(format!("root:{password}"));
                headers.push(("authorization", format!("Basic {credentials}")));
            }
            let (status, answer) = send(&self.url, "PUT", target, &headers, Some(body));
            assert!((200..300).contains(&status), "{target}: {status} {answer}");
        };
        let user = format!(r#"{{"user":"root","password":"{password}"}}"#);
        put("/v2/auth/users/root", &user, false);
        put("/v2/auth/enable", "", false);
        // Until this is taken away, everything stays open to everybody.
        let revoke = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
        put("/v2/auth/roles/guest", revoke, true);
    }
}

/// Several members of one cluster.
#[derive(Debug)]
pub struct EtcdCluster {
    /// The members; any of them may be killed, paused and restarted.
    pub members: Vec<EtcdServer>,
}

impl EtcdCluster {
    /// A cluster of so many members.
    ///
    /// # Panics
    /// When they do not become healthy.
    pub async fn start(size: usize) -> Self {
        let peers: Vec<_> = (0..size)
            .map(|number| (format!("m{number}"), peer_url()))
            .collect();
        let cluster: Vec<_> = peers
            .iter()
            .map(|(name, peer)| format!("{name}={peer}"))
            .collect();
        let cluster = cluster.join(",");
        let prepare =
            |(name, peer): &(String, String)| EtcdServer::prepare(name, peer, &cluster, Options::default());
        let mut members: Vec<_> = peers.iter().map(prepare).collect();
        members.iter_mut().for_each(EtcdServer::launch);
        for member in &mut members {
            member.healthy().await;
        }
        Self { members }
    }

    /// What a client needs to reach all members.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings::new(self.members.iter().map(|member| member.url.clone()).collect())
    }

    /// A client of all members.
    ///
    /// # Panics
    /// Never: the URLs are in order.
    #[must_use]
    pub fn client(&self) -> Etcd {
        Etcd::new(&self.settings()).unwrap()
    }
}

fn peer_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(10)));
    config.build().new_agent()
}

fn send(
    url: &str,
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: Option<&str>,
) -> (u16, String) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Request::builder().method(method).uri(format!("{url}{target}"));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = match body {
        Some(body) => agent().run(request.body(body).unwrap()),
        None => agent().run(request.body(()).unwrap()),
    };
    let mut answer = answer.unwrap();
    (
        answer.status().as_u16(),
        answer.body_mut().read_to_string().unwrap(),
    )
}
