//! A process of `local-runner`, which can be killed and started again.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use reqwest::Client;

use crate::{child::Child, osb::USER, wait::eventually};

/// How long a process may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A process, or the place of one that was killed.
#[derive(Debug)]
pub struct Server {
    program: String,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    url: String,
    path: Option<&'static str>,
    child: Option<Child>,
}

impl Server {
    pub(super) fn new(
        program: &str,
        arguments: Vec<String>,
        variables: BTreeMap<String, String>,
        log: PathBuf,
    ) -> Self {
        Self {
            program: program.to_owned(),
            arguments,
            variables,
            log,
            url: String::new(),
            path: None,
            child: None,
        }
    }

    /// The same, known to be ready when it answers at this URL and path.
    pub(super) fn answering(self, url: String, path: &'static str) -> Self {
        Self {
            url,
            path: Some(path),
            ..self
        }
    }

    /// Gives a variable another value, from the next start on.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Where it answers: `http://host:port`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("a running process").id()
    }

    /// Starts the process.
    pub fn launch(&mut self) {
        self.child = None;
        self.child = Some(Child::start_in(
            &self.variables,
            &self.program,
            &self.arguments,
            &self.log,
        ));
    }

    /// Starts the process (again, after killing it if need be); answers when it does.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Kills the process as a power cut would.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Asks the process to end, and waits until it has.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.terminate();
        }
    }

    /// Stops the process where it is: connections stay open, and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.child.as_ref().expect("a running process").pause();
    }

    /// Lets a paused process go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.child.as_ref().expect("a running process").resume();
    }

    /// Waits until the process answers.
    pub(super) async fn ready(&mut self) {
        let child = self.child.as_mut().expect("a running process");
        let Some(path) = self.path else { return };
        let url = format!("{}{path}", self.url);
        let client = Client::builder().no_proxy().timeout(START).build().unwrap();
        eventually(&format!("an answer from {url}"), START, async || {
            assert!(
                child.is_running(),
                "{:?} has ended:\n{}",
                self.arguments,
                child.last_words()
            );
            let request = client.get(&url).basic_auth(USER, Some(USER));
            // Any answer will do: the credentials are the broker's.
            request.send().await.ok().map(drop)
        })
        .await;
    }
}
