//! Everything at once; and in the end all is as it should be.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use shared::ids::Port;

use super::bench::{Bench, Server, Session, leads_nowhere, leads_to, port};

/// How long things happen.
const TIME: Duration = Duration::from_secs(6);
const INSTANCES: usize = 5;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

struct Instance {
    name: String,
    port: Port,
    allocated: bool,
    leader: Option<usize>,
}

struct Churn {
    bench: Bench,
    dice: Dice,
    /// The last one never leads.
    servers: Vec<Server>,
    instances: Vec<Instance>,
    sessions: Vec<(usize, Session)>,
}

impl Churn {
    async fn start(seed: u64) -> Self {
        let bench = Bench::start().await;
        let mut servers = Vec::new();
        for name in ["a", "b", "c", "replica"] {
            servers.push(Server::start(name).await);
        }
        let instances: Vec<_> = (0..INSTANCES)
            .map(|number| Instance {
                name: format!("i{number}"),
                port: port(),
                allocated: false,
                leader: None,
            })
            .collect();
        for instance in &instances {
            for server in &servers {
                bench.keys.member(&instance.name, server, "replica").await;
            }
        }
        Self {
            bench,
            dice: Dice(seed),
            servers,
            instances,
            sessions: Vec::new(),
        }
    }

    async fn step(&mut self) {
        let at = self.dice.below(INSTANCES);
        let instance = &mut self.instances[at];
        let keys = &self.bench.keys;
        match self.dice.below(100) {
            0..30 => {
                let leader = self.dice.below(self.servers.len() - 1);
                keys.lead(&instance.name, &self.servers[leader]).await;
                instance.leader = Some(leader);
            }
            30..35 if instance.leader.is_some() => {
                keys.remove(&format!("/service/{}/leader", instance.name)).await;
                instance.leader = None;
            }
            35..45 if instance.allocated => {
                keys.release(&instance.name, instance.port).await;
                instance.allocated = false;
            }
            35..60 if !instance.allocated => {
                keys.allocate(&instance.name, instance.port).await;
                instance.allocated = true;
            }
            60..80 => {
                let server = self.dice.below(self.servers.len());
                keys.member(&instance.name, &self.servers[server], "replica")
                    .await;
            }
            80..82 => {
                let processes = self.bench.directory.haproxies();
                if !processes.is_empty() {
                    let victim = processes[self.dice.below(processes.len())];
                    // It may just have ended.
                    let _ = kill_process(victim.pid, Signal::KILL);
                }
            }
            82..84 => {
                self.bench.router.take().unwrap().crash().await;
                // Without waiting until it is ready: so the next crash may come at any time.
                let router =
                    super::bench::Running::start(&self.bench.directory.path(), &self.bench.keys).await;
                self.bench.router = Some(router);
            }
            _ => {}
        }
        if let Ok(session) = Session::open(self.instances[at].port).await {
            assert_ne!(session.server, "replica");
            self.sessions.push((at, session));
        }
    }

    async fn settle(&mut self) {
        for instance in &self.instances {
            match instance.leader.filter(|_| instance.allocated) {
                Some(leader) => drop(leads_to(instance.port, &self.servers[leader]).await),
                None => leads_nowhere(instance.port).await,
            }
        }
        for (at, session) in &mut self.sessions {
            let instance = &self.instances[*at];
            let leader = instance.leader.filter(|_| instance.allocated);
            if leader.is_none_or(|leader| self.servers[leader].name != session.server) {
                session.ends().await;
            }
        }
        self.sessions.clear();
        self.bench.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_no_replica_is_reached_and_in_the_end_all_is_right() {
    let seed = u64::from(std::process::id());
    // A seed that fails can be put here.
    println!("seed {seed}");
    let mut churn = Churn::start(seed).await;
    let end = Instant::now() + TIME;
    let mut steps = 0;
    while Instant::now() < end {
        churn.step().await;
        steps += 1;
    }
    churn.settle().await;
    churn.bench.router.take().unwrap().stop().await;
    assert_eq!(churn.bench.directory.haproxies(), []);
    println!("{steps} steps");
}
