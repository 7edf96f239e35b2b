//! The nodes that a cell holds, each with its task.
//!
//! **Guarantees.** A node id has one task at most; one that panics is told of ([`Roster::broken`]), never lost in silence. A retired id is on disk before its node is touched, and is never
//! admitted afterwards, also when both requests come at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use shared::{
    cell_api::{CellStatus, NodeParameters, NodeState, NodeStatus},
    ids::NodeId,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use uuid::Uuid;

use super::{
    context::Context,
    directory::{DataDirectory, NodeFile},
    evidence,
    judgement::{self, Dismissal, Identity, Judgement},
    node::{Keeper, Life, Order, Origin, Wires},
    process,
    refused::Refused,
};

/// How long a DELETE waits for the node to be gone before it answers that it is still going.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a PUT waits until a node has taken passwords over: longer than a young Patroni has to be left alone.
const TAKE_OVER: Duration = Duration::from_secs(8);
/// Longer than the slowest way in which a node stops.
const LAST_PATIENCE: Duration = Duration::from_secs(120);

/// What came of a PUT.
#[derive(Debug)]
pub(super) enum Admitted {
    /// The node is new here.
    Now(NodeStatus),
    /// It was here.
    Before(NodeStatus),
}

/// What came of a DELETE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dismissed {
    /// Nothing of the node is left.
    Done,
    /// It is being stopped and removed.
    UnderWay,
}

/// The nodes that a cell holds.
pub(super) struct Roster {
    context: Arc<Context>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Handle>>>,
    tasks: Mutex<JoinSet<()>>,
    /// Held while an id is admitted or retired, so that it is one or the other.
    admission: tokio::sync::Mutex<()>,
    closing: AtomicBool,
    changed: Notify,
    broken: Notify,
    /// For tasks, which must not keep the roster alive.
    this: Weak<Self>,
}

/// A node's task, from outside.
struct Handle {
    id: Identity,
    orders: watch::Sender<Order>,
    nudge: Arc<Notify>,
    told: watch::Sender<Option<NodeParameters>>,
    life: watch::Receiver<Life>,
}

impl Handle {
    fn status(&self) -> Option<NodeStatus> {
        match &*self.life.borrow() {
            Life::Goes(status) => Some(status.clone()),
            Life::Halted | Life::Removed => None,
        }
    }

    /// Passes passwords on, unless the node was told later ones.
    fn tell(&self, parameters: &NodeParameters) {
        self.told.send_if_modified(|told| {
            let known = told.as_ref().map_or(0, |told| told.credential_generation);
            let is_later = parameters.credential_generation > known;
            if is_later {
                *told = Some(parameters.clone());
            }
            is_later
        });
        self.nudge.notify_one();
    }

    /// Waits a moment until the node has passwords of this generation. What is answered then says whether it has.
    async fn take_over(&self, generation: u32) {
        let mut life = self.life.clone();
        let has_them = |life: &Life| match life {
            Life::Goes(status) => status.credential_generation >= Some(generation),
            Life::Halted | Life::Removed => true,
        };
        let _ = timeout(TAKE_OVER, life.wait_for(has_them)).await;
    }

    /// Whether the node takes room: in quarantine it does not.
    fn counts(&self) -> bool {
        !matches!(&*self.life.borrow(), Life::Goes(status) if status.state == NodeState::Quarantined)
    }
}

impl Roster {
    /// No nodes yet.
    pub(super) fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            context,
            nodes: Mutex::default(),
            tasks: Mutex::default(),
            admission: tokio::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
            broken: Notify::new(),
            this: this.clone(),
        })
    }

    /// Takes over what an earlier cell left on this disk: running processes, stopped nodes, half-done removals.
    pub(super) fn resume(&self) -> io::Result<()> {
        for (node, file) in self.context.directory.held()? {
            self.resume_node(node, file, false)?;
        }
        for (node, file) in self.context.directory.quarantined()? {
            if self.handle(node).is_none() {
                self.resume_node(node, file, true)?;
            }
        }
        Ok(())
    }

    fn resume_node(&self, node: NodeId, file: io::Result<NodeFile>, quarantined: bool) -> io::Result<()> {
        let file = match file {
            Ok(file) if file.parameters.node_id == node => file,
            Ok(_) => {
                tracing::error!(%node, "the node's node.json is another node's; its directory is left alone");
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%node, %error, "the node's node.json cannot be read; its directory is left alone. Restore the file and start the cell again; the node can be removed once a record or a tombstone names it as going");
                return Ok(());
            }
        };
        self.context.ports.restore(node, file.ports);
        let order = if self.context.directory.is_retired(node)? {
            Order::Remove
        } else {
            Order::Keep
        };
        let origin = Origin {
            file,
            quarantined,
            fresh: None,
        };
        self.spawn(origin, order);
        Ok(())
    }

    fn spawn(&self, origin: Origin, order: Order) -> NodeStatus {
        let id = self.context.identity(&origin.file.parameters);
        let node = id.node;
        let state = if origin.quarantined {
            NodeState::Quarantined
        } else {
            NodeState::Waiting
        };
        let status = self.context.status(&origin.file, state);
        let (orders, told) = watch::channel(order);
        let (life, seen) = watch::channel(Life::Goes(status.clone()));
        let nudge = Arc::new(Notify::new());
        let (tell, passwords) = watch::channel(None);
        let wires = Wires {
            orders: told,
            nudge: Arc::clone(&nudge),
            told: passwords,
            life,
        };
        let keeper = Keeper::new(Arc::clone(&self.context), origin, wires);
        let handle = Handle {
            id,
            orders,
            nudge,
            told: tell,
            life: seen.clone(),
        };
        lock(&self.nodes).insert(node, Arc::new(handle));
        let roster = self.this.clone();
        self.stand_by(async move {
            keeper.live().await;
            let removed = *seen.borrow() == Life::Removed;
            if let (true, Some(roster)) = (removed, roster.upgrade()) {
                lock(&roster.nodes).remove(&node);
                roster.changed.notify_one();
            }
        });
        self.changed.notify_one();
        status
    }

    /// Runs a node's task.
    pub(super) fn stand_by(&self, life: impl Future<Output = ()> + Send + 'static) {
        let roster = self.this.clone();
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            // Nothing of the task is used after a panic.
            let ended = AssertUnwindSafe(life).catch_unwind().await;
            if let (Err(_), Some(roster)) = (ended, roster.upgrade()) {
                roster.broken.notify_one();
            }
        });
    }

    /// Waits until a node's task has panicked: nobody looks after that node any more.
    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }

    fn handle(&self, node: NodeId) -> Option<Arc<Handle>> {
        lock(&self.nodes).get(&node).cloned()
    }

    /// How many nodes take room.
    pub(super) fn load(&self) -> usize {
        lock(&self.nodes)
            .values()
            .filter(|handle| handle.counts())
            .count()
    }

    /// All node ids that are held, in quarantine or not.
    pub(super) fn ids(&self) -> BTreeSet<NodeId> {
        lock(&self.nodes).keys().copied().collect()
    }

    /// Waits until a node has come or gone.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is answered about one node.
    pub(super) fn status(&self, node: NodeId) -> Option<NodeStatus> {
        self.handle(node)?.status()
    }

    /// What is answered about all.
    pub(super) async fn list(&self) -> Result<CellStatus, Refused> {
        // The disk first: a node that is admitted meanwhile is in the list then.
        let mut unkept = self.context.on_disk(DataDirectory::ids).await?;
        let nodes: Vec<NodeStatus> = lock(&self.nodes)
            .values()
            .filter_map(|handle| handle.status())
            .collect();
        for kept in &nodes {
            unkept.remove(&kept.node_id);
        }
        Ok(CellStatus {
            guid: self.context.settings.guid.clone(),
            nodes,
            unkept: Some(unkept),
        })
    }

    /// Admits a node, or looks after one that is here already.
    pub(super) async fn admit(&self, parameters: NodeParameters) -> Result<Admitted, Refused> {
        let id = self.context.identity(&parameters);
        self.check_open()?;
        if let Some(handle) = self.known(&id, &parameters)? {
            return look_after(&handle, &parameters).await;
        }
        let record = evidence::record(self.context.store.as_ref(), &id.instance)
            .await
            .map_err(Refused::StoreUnavailable)?;
        judgement::admit(record.as_ref(), &id).map_err(Refused::NotAssigned)?;

        let alone = self.admission.lock().await;
        self.check_open()?;
        if let Some(handle) = self.known(&id, &parameters)? {
            drop(alone);
            return look_after(&handle, &parameters).await;
        }
        let (held, capacity) = (self.load(), self.context.settings.capacity);
        if u32::try_from(held).map_or(true, |held| held >= capacity) {
            return Err(Refused::Full { held, capacity });
        }
        let file = self.create(parameters).await?;
        tracing::info!(instance = %id.instance, node = %id.node, port = file.ports.postgresql, "admitted the node");
        let origin = Origin {
            file,
            quarantined: false,
            fresh: Some(Judgement::Run { nofailover: false }),
        };
        Ok(Admitted::Now(self.spawn(origin, Order::Keep)))
    }

    async fn create(&self, parameters: NodeParameters) -> Result<NodeFile, Refused> {
        let node = parameters.node_id;
        let settings = &self.context.settings;
        let ports = self
            .context
            .ports
            .claim(node, settings.address, settings.first_port)
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no two free ports are left"))?;
        let file = NodeFile { parameters, ports };
        let kept = file.clone();
        let created = self
            .context
            .on_disk(move |disk| disk.create(node, &kept).map(drop))
            .await;
        if let Err(error) = created {
            self.context.ports.release(node);
            return Err(error.into());
        }
        Ok(file)
    }

    /// A node that is here already, made to look at its record at once, and to take later passwords over.
    fn known(&self, id: &Identity, parameters: &NodeParameters) -> Result<Option<Arc<Handle>>, Refused> {
        if self.context.directory.is_retired(id.node)? {
            return Err(Refused::Retired);
        }
        let Some(handle) = self.handle(id.node) else {
            return Ok(None);
        };
        if handle.id != *id {
            return Err(Refused::NotAssigned(
                "a node with this id is here for another instance or incarnation",
            ));
        }
        handle.tell(parameters);
        Ok(Some(handle))
    }

    /// Removes a node for good, if that is in order. Waits for a while.
    pub(super) async fn dismiss(&self, node: NodeId) -> Result<Dismissed, Refused> {
        self.check_open()?;
        let Some(handle) = self.handle_or_retire(node).await? else {
            return Err(Refused::Retired);
        };
        if !self.context.directory.is_retired(node)? {
            self.check_dismissal(&handle.id).await?;
            self.retire(node).await?;
            tracing::info!(instance = %handle.id.instance, %node, "told to remove the node for good");
        }
        handle.orders.send_replace(Order::Remove);
        let mut life = handle.life.clone();
        let gone = life.wait_for(|life| *life == Life::Removed);
        match timeout(PATIENCE, gone).await {
            Ok(Ok(_)) => Ok(Dismissed::Done),
            Ok(Err(_)) | Err(_) => Ok(Dismissed::UnderWay),
        }
    }

    /// A node's task; without one, its id is retired.
    async fn handle_or_retire(&self, node: NodeId) -> Result<Option<Arc<Handle>>, Refused> {
        if let Some(handle) = self.handle(node) {
            return Ok(Some(handle));
        }
        let _alone = self.admission.lock().await;
        if let Some(handle) = self.handle(node) {
            return Ok(Some(handle));
        }
        if !self.context.directory.is_retired(node)? {
            self.check_unkept(node).await?;
        }
        self.retire(node).await?;
        // A directory that nobody could make sense of may be there all the same.
        let home = self.context.directory.node(node).home();
        process::clear(&home, self.context.account.uid()).await?;
        self.context.on_disk(move |disk| disk.delete(node)).await?;
        Ok(None)
    }

    /// Whether a directory that nobody could make sense of may go, if there is one. Patroni's configuration in it tells whose
    /// it is.
    async fn check_unkept(&self, node: NodeId) -> Result<(), Refused> {
        let found = self.context.on_disk(move |disk| {
            let is_there = disk.ids()?.contains(&node);
            Ok(is_there.then(|| disk.scope(node)))
        });
        let instance = match found.await? {
            None => return Ok(()),
            Some(scope) => scope?,
        };
        let store = self.context.store.as_ref();
        let record = evidence::record(store, &instance)
            .await
            .map_err(Refused::StoreUnavailable)?;
        // An id is of one life alone: if the record names it, it is of that one. A tombstone names it whatever its life is.
        let incarnation = record.map_or_else(|| Uuid::nil().into(), |record| record.incarnation);
        self.check_dismissal(&Identity {
            cell: self.context.settings.guid.clone(),
            instance,
            incarnation,
            node,
        })
        .await
    }

    async fn check_dismissal(&self, id: &Identity) -> Result<(), Refused> {
        let dismissal = evidence::consult_on_dismissal(self.context.store.as_ref(), id);
        match dismissal.await.map_err(Refused::StoreUnavailable)? {
            Dismissal::Granted => Ok(()),
            Dismissal::Leads => Err(Refused::Leader),
            Dismissal::Unled => Err(Refused::Unled),
            Dismissal::Unnamed => Err(Refused::Unnamed),
            Dismissal::Wanted => Err(Refused::Assigned),
        }
    }

    async fn retire(&self, node: NodeId) -> io::Result<()> {
        self.context.on_disk(move |disk| disk.retire(node)).await
    }

    fn check_open(&self) -> Result<(), Refused> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(Refused::Stopping);
        }
        Ok(())
    }

    /// Admits nothing from now on, and stops every node. Removals that are under way are finished.
    pub(super) async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        // Whoever got in before has finished when this is ours.
        drop(self.admission.lock().await);
        for handle in lock(&self.nodes).values() {
            handle.orders.send_if_modified(|order| {
                let keeps = *order == Order::Keep;
                if keeps {
                    *order = Order::Halt;
                }
                keeps
            });
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(LAST_PATIENCE, all).await.is_err() {
            tracing::error!("some nodes did not stop in time; their processes may be left");
        }
    }

    /// Lets go of every node as it is: for a cell that is dropped without being stopped.
    pub(super) fn abandon(&self) {
        self.closing.store(true, Ordering::SeqCst);
        lock(&self.tasks).abort_all();
    }
}

/// Answers for a node that is here already.
async fn look_after(handle: &Handle, parameters: &NodeParameters) -> Result<Admitted, Refused> {
    handle.take_over(parameters.credential_generation).await;
    handle.status().map(Admitted::Before).ok_or(Refused::Stopping)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks; what they guard would be whole even so.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
