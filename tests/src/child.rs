//! A server's process, which does not outlive the test.
//!
//! **Guarantees.** The process is killed when its value is dropped, also by a panic, and when the test process dies in
//! whatever way (`setpriv --pdeathsig`).
//! **Caveats.** The kernel sends that signal at the end of the *thread* that started the process, so one thread, which
//! lives as long as the test process, starts all of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child as StdChild, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Where programs are looked for that are started with an environment of their own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Job = (Command, mpsc::Sender<io::Result<StdChild>>);

/// A running program.
#[derive(Debug)]
pub struct Child {
    inner: StdChild,
    log: PathBuf,
}

impl Child {
    /// Starts a program; what it prints is appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(program: &str, arguments: &[String], log: &Path) -> Self {
        Self::spawn(Command::new("setpriv"), program, arguments, log)
    }

    /// The same with nothing in its environment but `variables` and a `PATH`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_in(
        variables: &BTreeMap<String, String>,
        program: &str,
        arguments: &[String],
        log: &Path,
    ) -> Self {
        let mut command = Command::new("setpriv");
        command.env_clear().env("PATH", PATH).envs(variables);
        Self::spawn(command, program, arguments, log)
    }

    fn spawn(mut command: Command, program: &str, arguments: &[String], log: &Path) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log of a server");
        command
            .args(["--pdeathsig", "KILL", "--", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log of a server"))
            .stderr(output);
        let (reply, started) = mpsc::channel();
        keeper()
            .send((command, reply))
            .expect("the thread that starts servers");
        let inner = started.recv().expect("the thread that starts servers");
        let inner = inner.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Self {
            inner,
            log: log.to_owned(),
        }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Whether the program still runs (or is stopped by [`Self::pause`]).
    ///
    /// # Panics
    /// When the system does not know the process.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.inner.try_wait().expect("a child process").is_none()
    }

    /// Kills the program as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }

    /// Asks the program to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end within a minute.
    pub fn terminate(&mut self) {
        if self.is_running() {
            self.signal(Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.is_running() {
            assert!(Instant::now() < deadline, "process {} does not end", self.id());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the program where it is; its connections stay open. Answers when it has stopped.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.state() != Some('T') {
            assert!(Instant::now() < deadline, "process {} does not stop", self.id());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the program go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The last lines that the program printed.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.inner), signal).expect("a signal to a child process");
    }

    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keeper() -> mpsc::Sender<Job> {
    static KEEPER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let sender = KEEPER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                // Whoever asked is gone: the process ends with its handle's value.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    sender.clone()
}
