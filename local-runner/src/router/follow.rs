//! The router's life: events in, HAProxy kept in line.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use reqwest::Client;
use shared::{
    ids::Port,
    keyspace,
    store::{Store, Watch, WatchEvent},
};
use tokio::{
    sync::watch,
    time::{Instant as Alarm, sleep_until},
};

use super::{
    applied::{Applied, HaproxyError, Refusal},
    haproxy::Haproxy,
    haproxy_config::Targets,
    listen_port,
    lookup::Lookups,
    processes,
    routes::{Changes, Routes},
    schedule::{Due, Schedule},
    settings::Settings,
    state_directory::StateDirectory,
    worker::{Worker, WorkerError},
};
use crate::{chain, port_holder};

/// How often ports that somebody else uses are tried.
const RETRY_PORTS: Duration = Duration::from_secs(1);
/// How long a router that has just started waits for addresses that it looks up. The HAProxy of an earlier one may serve
/// these leaders, and would cut them off if it were told that nobody leads.
const FIRST_ADDRESSES: Duration = Duration::from_secs(1);
/// Events taken in at once before HAProxy hears of them.
const BATCH: usize = 1000;
/// Taken ports whose holders are looked for at once: each takes a walk through /proc.
const MOST_HOLDERS: usize = 10;

/// What HAProxy is busy with. It comes back from its work with the outcome.
type Work = Pin<Box<dyn Future<Output = (Haproxy, Outcome)> + Send>>;

enum Outcome {
    Applied(Result<Applied, HaproxyError>),
    Swept(io::Result<bool>),
}

/// What never comes.
pub(super) enum Never {}

/// What the router knows and does while it runs.
pub(super) struct Follow {
    bind_address: IpAddr,
    routing: Box<dyn Watch>,
    service: Box<dyn Watch>,
    ready: watch::Sender<bool>,
    /// HAProxy, while it is not busy.
    idle: Option<Haproxy>,
    work: Option<Work>,
    routes: Routes,
    seen_routing: bool,
    seen_service: bool,
    /// Whether HAProxy is told what follows from the store.
    begun: bool,
    /// Until when that waits for addresses.
    patience: Option<Instant>,
    lookups: Lookups,
    /// Where each port should lead.
    targets: Targets,
    /// The worker that accepts connections, and where it was told to send them.
    worker: Option<Worker>,
    serving: Targets,
    /// Ports whose targets may differ from what the worker was told.
    dirty: BTreeSet<Port>,
    /// Ports that cannot be listened on, and why.
    refused: BTreeMap<Port, Refusal>,
    retry_ports: Option<Instant>,
    schedule: Schedule,
    /// Whether workers that were replaced may hold sessions still.
    former_workers: bool,
}

impl Follow {
    /// Begins to watch. `ready` turns true once HAProxy serves what etcd held when it was first read.
    pub(super) fn new(
        settings: &Settings,
        store: &dyn Store,
        http: Client,
        haproxy: Haproxy,
        ready: watch::Sender<bool>,
    ) -> Self {
        Self {
            bind_address: settings.bind_address,
            routing: store.watch(keyspace::ROUTING),
            service: store.watch(keyspace::PATRONI),
            ready,
            idle: Some(haproxy),
            work: None,
            routes: Routes::default(),
            seen_routing: false,
            seen_service: false,
            begun: false,
            patience: None,
            lookups: Lookups::new(http),
            targets: Targets::new(),
            worker: None,
            serving: Targets::new(),
            dirty: BTreeSet::new(),
            refused: BTreeMap::new(),
            retry_ports: None,
            schedule: Schedule::new(Instant::now()),
            former_workers: false,
        }
    }

    /// Follows etcd and HAProxy. Can be dropped at any time.
    pub(super) async fn run(&mut self) -> Never {
        loop {
            let alarm = self.alarm();
            tokio::select! {
                event = self.routing.next() => self.routing(event),
                event = self.service.next() => self.service(event),
                (port, address) = self.lookups.next() => self.aim(port, Some(address)),
                (haproxy, outcome) = busy(&mut self.work) => self.worked(haproxy, outcome),
                () = ended(&mut self.idle) => {
                    self.haproxy_has_ended().await;
                }
                () = sleep_until(alarm) => {}
            }
            let now = Instant::now();
            let changes = self.routes.expire(now);
            self.take(changes);
            self.retry_ports(now);
            if self.may_begin(now) {
                self.point().await;
                self.begin_work();
            }
        }
    }

    /// Ends HAProxy, whatever it is busy with, and removes its files.
    pub(super) async fn stop(self, directory: &StateDirectory) {
        if let Some(haproxy) = self.idle {
            haproxy.stop().await;
        } else {
            drop(self.work);
            processes::end(directory).await;
            directory.clear();
        }
    }

    /// Takes in an event on ports, and whatever else is there already.
    fn routing(&mut self, event: WatchEvent) {
        let mut next = Some(event);
        for _ in 0..BATCH {
            let Some(event) = next else { return };
            self.seen_routing |= matches!(event, WatchEvent::Snapshot(_));
            let changes = self.routes.routing(event);
            self.take(changes);
            next = at_hand(&mut self.routing);
        }
    }

    /// Takes in an event on clusters, and whatever else is there already.
    fn service(&mut self, event: WatchEvent) {
        let mut next = Some(event);
        for _ in 0..BATCH {
            let Some(event) = next else { return };
            self.seen_service |= matches!(event, WatchEvent::Snapshot(_));
            let changes = self.routes.service(event, Instant::now());
            self.take(changes);
            next = at_hand(&mut self.service);
        }
    }

    fn take(&mut self, changes: Changes) {
        for complaint in changes.complaints {
            tracing::warn!("{complaint}");
        }
        for port in changes.ports {
            let Some(route) = self.routes.get(port) else {
                if self.targets.remove(&port).is_some() {
                    tracing::info!(%port, "the port is not routed any more");
                }
                self.lookups.resolve(port, None);
                self.refused.remove(&port);
                self.dirty.insert(port);
                self.schedule.gather(Instant::now());
                continue;
            };
            let address = self.lookups.resolve(port, route.leader.as_ref());
            if let Entry::Vacant(vacant) = self.targets.entry(port) {
                let incarnation = route.incarnation.map(tracing::field::display);
                tracing::info!(instance = %route.instance, incarnation, %port, "a port to route");
                vacant.insert(None);
                self.schedule.gather(Instant::now());
            }
            self.aim(port, address);
        }
    }

    /// Notes where a port should lead.
    fn aim(&mut self, port: Port, address: Option<SocketAddr>) {
        let Some(target) = self.targets.get_mut(&port) else {
            return;
        };
        if *target == address {
            return;
        }
        if let Some(route) = self.routes.get(port) {
            let shown = |address: Option<SocketAddr>| {
                address.map_or_else(|| "nobody".to_owned(), |address| address.to_string())
            };
            let member = route.leader.as_ref().map(|leader| leader.member.as_str());
            let (from, to) = (shown(*target), shown(address));
            tracing::info!(instance = %route.instance, %port, from, to, member, "the leader has changed");
        }
        *target = address;
        self.dirty.insert(port);
    }

    /// Tells the worker about changes. This is what a failover waits for; all else can come later.
    async fn point(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let Some(worker) = &self.worker else { return };
        let changed: Vec<_> = dirty
            .into_iter()
            .filter_map(|port| {
                let target = self.targets.get(&port).copied().flatten();
                (*self.serving.get(&port)? != target).then_some((port, target))
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        if self.former_workers {
            self.schedule.sweep(Instant::now());
        }
        match worker.point(&changed).await {
            Ok(()) => self.serving.extend(changed),
            Err(error) => {
                self.dirty.extend(changed.into_iter().map(|(port, _)| port));
                // While a configuration is being loaded, the worker may just have been replaced; the next one will be
                // told. Otherwise a configuration says it all again, to a new worker. One that hangs could not even
                // hand over its sockets to that.
                if self.idle.is_some() && !self.haproxy_has_ended().await {
                    tracing::error!(error = chain(&error), "HAProxy does not follow; it is set right");
                    match error {
                        WorkerError::Unreachable(error) if error.kind() == io::ErrorKind::TimedOut => {
                            self.schedule.anew(Instant::now());
                        }
                        WorkerError::Unreachable(_) | WorkerError::Refused(_) => {
                            self.schedule.again(Instant::now());
                        }
                    }
                }
            }
        }
    }

    fn begin_work(&mut self) {
        let Some(mut haproxy) = self.idle.take() else {
            return;
        };
        let Some(due) = self.schedule.take(Instant::now()) else {
            self.idle = Some(haproxy);
            return;
        };
        let targets = self.targets.clone();
        self.work = Some(Box::pin(async move {
            let outcome = match due {
                Due::Apply { anew } => Outcome::Applied(haproxy.apply(targets, anew).await),
                Due::Sweep => Outcome::Swept(haproxy.sweep(&targets).await),
            };
            (haproxy, outcome)
        }));
    }

    fn worked(&mut self, haproxy: Haproxy, outcome: Outcome) {
        if !haproxy.runs() {
            self.worker = None;
            self.serving.clear();
        }
        self.idle = Some(haproxy);
        match outcome {
            Outcome::Applied(Ok(applied)) => self.applied(applied),
            Outcome::Applied(Err(error)) => {
                tracing::error!(
                    error = chain(&error),
                    "HAProxy does not serve all ports; trying again"
                );
                self.schedule.again(Instant::now());
            }
            Outcome::Swept(Ok(left)) => self.former_workers = left,
            Outcome::Swept(Err(error)) => {
                tracing::error!(%error, "sessions to former leaders may be left in replaced workers");
                self.former_workers = true;
                self.schedule.sweep_again(Instant::now());
            }
        }
    }

    fn applied(&mut self, applied: Applied) {
        self.worker = Some(applied.worker);
        self.serving = applied.serving;
        for (at, (port, Refusal { reason, .. })) in applied.refused.iter().enumerate() {
            if self.refused.get(port).is_none_or(|known| known.reason != *reason) {
                let address = SocketAddr::new(self.bind_address, port.number());
                let (port, reason) = (*port, reason.clone());
                // Who holds it is a walk through /proc.
                drop(tokio::task::spawn_blocking(move || {
                    let holder = (at < MOST_HOLDERS).then(|| port_holder::describe(address));
                    let holder = holder.unwrap_or_default();
                    tracing::error!(%port, "the port cannot be listened on{holder}; trying again: {reason}");
                }));
            }
        }
        self.refused = applied.refused;
        self.refused.retain(|port, _| self.targets.contains_key(port));
        self.retry_ports = (!self.refused.is_empty()).then(|| Instant::now() + RETRY_PORTS);
        self.dirty.extend(self.targets.keys().chain(self.serving.keys()));
        // The worker that was replaced may have sessions, and they may be stale by now.
        self.former_workers = true;
        self.schedule.sweep(Instant::now());
        let complete = self.targets.keys().all(|port| self.serves(*port));
        if !complete || self.serving.keys().any(|port| !self.targets.contains_key(port)) {
            self.schedule.gather(Instant::now());
        }
        self.ready
            .send_if_modified(|ready| !std::mem::replace(ready, true));
        tracing::info!(
            ports = self.serving.len(),
            refused = self.refused.len(),
            "HAProxy serves"
        );
    }

    /// Whether both watches have shown what there is: routes without their leaders would cut off those who are served.
    fn seen(&self) -> bool {
        self.seen_routing && self.seen_service
    }

    /// Whether enough is known for HAProxy to be told of it.
    fn may_begin(&mut self, now: Instant) -> bool {
        if !self.begun && self.seen() {
            let patience = *self.patience.get_or_insert(now + FIRST_ADDRESSES);
            self.begun = now >= patience || !self.lookups.are_under_way();
        }
        self.begun
    }

    fn serves(&self, port: Port) -> bool {
        self.serving.contains_key(&port) || self.refused.contains_key(&port)
    }

    /// Whether HAProxy has just ended. Then it will be started again.
    async fn haproxy_has_ended(&mut self) -> bool {
        let status = match &mut self.idle {
            Some(haproxy) => haproxy.reap().await,
            None => None,
        };
        let Some(status) = status else { return false };
        tracing::error!(status, "HAProxy has ended; it is started again");
        self.worker = None;
        self.serving.clear();
        self.former_workers = false;
        self.schedule.again(Instant::now());
        true
    }

    /// Looks whether ports that others had have become free.
    fn retry_ports(&mut self, now: Instant) {
        if self.retry_ports.is_none_or(|due| due > now) {
            return;
        }
        self.retry_ports = Some(now + RETRY_PORTS);
        let address = self.bind_address;
        let free = |(port, refusal): (&Port, &Refusal)| {
            refusal.again <= now && listen_port::obstacle(address, *port).is_none()
        };
        if self.refused.iter().any(free) {
            self.schedule.gather(Instant::now());
        }
    }

    /// When something is to be done, whatever happens.
    fn alarm(&self) -> Alarm {
        let next = if self.begun {
            self.schedule.next()
        } else {
            self.patience
        };
        let work = next.filter(|_| self.idle.is_some());
        let times = [work, self.retry_ports, self.routes.deadline()];
        let next = times.into_iter().flatten().min();
        next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
            .into()
    }
}

async fn busy(work: &mut Option<Work>) -> (Haproxy, Outcome) {
    match work {
        Some(future) => {
            let done = future.await;
            *work = None;
            done
        }
        None => std::future::pending().await,
    }
}

async fn ended(haproxy: &mut Option<Haproxy>) {
    match haproxy {
        Some(haproxy) => haproxy.ended().await,
        None => std::future::pending().await,
    }
}

/// The next event, if it is there already.
fn at_hand(watch: &mut Box<dyn Watch>) -> Option<WatchEvent> {
    let mut next = pin!(watch.next());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match next.as_mut().poll(&mut context) {
        Poll::Ready(event) => Some(event),
        Poll::Pending => None,
    }
}
