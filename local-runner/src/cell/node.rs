//! One node's life: a task that keeps its Patroni as the record wants it, until the node is told to leave or the cell
//! stops.
//!
//! **Guarantees.** At most one Patroni runs for a node. None is started unless the record, read at that moment, names
//! the node here, and before the cell's guid is known to be its own. Data is deleted only after the node's id was retired
//! durably.
//! **Caveats.** While etcd cannot be read, a running Patroni goes on and a dead one stays dead.

mod departure;
mod lockout;
mod running;

use std::{
    io,
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use shared::cell_api::{NodeParameters, NodeState, NodeStatus};
use tokio::{
    process::Child,
    sync::{Notify, watch},
    time::sleep,
};

use self::running::Running;
use super::{
    context::Context,
    directory::{NodeDirectory, NodeFile},
    evidence::{self, Unreadable},
    failover::Witness,
    judgement::{Identity, Judgement},
    process::Process,
};
use crate::blocking::blocking;

/// How often the record is read for a node in quarantine.
const CHECK_QUARANTINE: Duration = Duration::from_secs(30);
/// Between the two readings that a node must be missing from before it is stopped.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// The wait before a dead Patroni is started again: doubled each time, up to the last.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// Before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What a node's task is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Do what the record says.
    Keep,
    /// The cell stops: stop the node, keep its data.
    Halt,
    /// The node is retired: remove it.
    Remove,
}

/// What is seen of a node's task from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It goes on.
    Goes(NodeStatus),
    /// The node is stopped, its data kept.
    Halted,
    /// Nothing of the node is left.
    Removed,
}

/// A node's task.
pub(super) struct Keeper {
    context: Arc<Context>,
    id: Identity,
    file: NodeFile,
    directory: NodeDirectory,
    orders: watch::Receiver<Order>,
    nudge: Arc<Notify>,
    told: watch::Receiver<Option<NodeParameters>>,
    life: watch::Sender<Life>,
    /// Its directory is in quarantine.
    quarantined: bool,
    /// Its id is retired, by this task's own judgement.
    condemned: bool,
    /// A judgement that was made a moment ago and saves a reading.
    fresh: Option<Judgement>,
    nofailover: bool,
    /// Of which generation the passwords are that its Patroni certainly has, or will have when it is started.
    in_force: u32,
    child: Option<Child>,
    /// Whoever holds the node's postmaster, which outlives a Patroni.
    witness: Witness,
    delay: Duration,
    /// What was wrong last time, so that it is logged once.
    trouble: Option<Discriminant<Unreadable>>,
}

/// What a node's task starts from.
pub(super) struct Origin {
    /// What the cell keeps about it.
    pub(super) file: NodeFile,
    /// Its directory is in quarantine.
    pub(super) quarantined: bool,
    /// What the record said when the node was admitted, if that was just now.
    pub(super) fresh: Option<Judgement>,
}

/// The ends of the channels that a node's task holds.
pub(super) struct Wires {
    /// What it is told.
    pub(super) orders: watch::Receiver<Order>,
    /// Makes it look at the record at once.
    pub(super) nudge: Arc<Notify>,
    /// The latest passwords that the cell was told for it, if they are later than its own.
    pub(super) told: watch::Receiver<Option<NodeParameters>>,
    /// What is seen of it.
    pub(super) life: watch::Sender<Life>,
}

impl Keeper {
    /// A task for a node that is on disk.
    pub(super) fn new(context: Arc<Context>, origin: Origin, wires: Wires) -> Self {
        let id = context.identity(&origin.file.parameters);
        let directory = context.directory.node(id.node);
        let in_force = origin.file.parameters.credential_generation;
        let witness = Witness::new(directory.data(), context.account.uid());
        Self {
            context,
            id,
            file: origin.file,
            directory,
            orders: wires.orders,
            nudge: wires.nudge,
            told: wires.told,
            life: wires.life,
            quarantined: origin.quarantined,
            condemned: false,
            fresh: origin.fresh,
            nofailover: false,
            in_force,
            child: None,
            witness,
            delay: FIRST_DELAY,
            trouble: None,
        }
    }

    /// Lives until the node is removed, or stopped with the cell.
    pub(super) async fn live(mut self) {
        let end = loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Order::Remove => break self.remove().await,
                _ if self.condemned => break self.remove().await,
                Order::Halt => break self.halt().await,
                Order::Keep if self.quarantined => self.rest().await,
                Order::Keep => self.keep().await,
            }
        };
        self.life.send_replace(end);
    }

    fn show(&self, state: NodeState) {
        let status = NodeStatus {
            credential_generation: Some(self.in_force),
            ..self.context.status(&self.file, state)
        };
        self.life.send_if_modified(|life| {
            let now = Life::Goes(status);
            let changed = *life != now;
            *life = now;
            changed
        });
    }

    /// One Patroni process from its start, or its adoption, to its end.
    async fn keep(&mut self) {
        match self.running().await {
            Ok(Some(process)) => {
                tracing::info!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, "adopted a running Patroni");
                // It may not have read its configuration file since that was written.
                self.in_force = 0;
                self.attend(Running::adopted(process)).await;
            }
            Ok(None) => {
                self.show(NodeState::Waiting);
                if unless_ordered(&self.orders, self.context.own_guid())
                    .await
                    .is_none()
                {
                    return;
                }
                let judgement = match self.fresh.take() {
                    Some(judgement) => Some(judgement),
                    None => self.judge().await,
                };
                match judgement {
                    Some(Judgement::Run { nofailover }) => self.start(nofailover).await,
                    Some(other) => self.leave(other).await,
                    None => self.pause(RETRY).await,
                }
            }
            Err(error) => self.fail("looking for its Patroni", &error).await,
        }
    }

    /// The node's Patroni, if one runs.
    async fn running(&self) -> io::Result<Option<Process>> {
        let (program, directory) = (self.context.program.clone(), self.directory.clone());
        blocking(move || program.running(&directory)).await
    }

    async fn fail(&mut self, doing: &'static str, error: &io::Error) {
        tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "{doing} failed; trying again in {} s", self.delay.as_secs());
        self.back_off().await;
    }

    async fn back_off(&mut self) {
        let delay = self.delay;
        self.delay = (delay * 2).min(LAST_DELAY);
        self.pause(delay).await;
    }

    /// Waits, unless there is a reason to look at once.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => (),
            _ = self.orders.changed() => (),
            () = self.nudge.notified() => (),
        }
    }

    /// What the record says; `None` when it cannot be read now, or the node is told something else meanwhile.
    async fn judge(&mut self) -> Option<Judgement> {
        let orders = self.orders.clone();
        unless_ordered(&orders, self.judge_undisturbed()).await.flatten()
    }

    /// What would stop a running node must be read twice.
    async fn judge_undisturbed(&mut self) -> Option<Judgement> {
        let judgement = self.read().await?;
        if judgement != Judgement::SetAside || self.quarantined {
            return Some(judgement);
        }
        tracing::warn!(instance = %self.id.instance, node = %self.id.node, "no record names the node on this cell; looking again before it is set aside");
        sleep(LOOK_AGAIN).await;
        self.read().await
    }

    async fn read(&mut self) -> Option<Judgement> {
        // A caller that went away between having the id retired and having the node told so.
        let node = self.id.node;
        match self.context.on_disk(move |disk| disk.is_retired(node)).await {
            Ok(true) => return Some(Judgement::Remove),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(instance = %self.id.instance, %node, %error, "whether the node is retired cannot be read: it stays as it is");
                return None;
            }
        }
        match evidence::consult(self.context.store.as_ref(), &self.id).await {
            Ok(judgement) => {
                if self.trouble.take().is_some() {
                    tracing::info!(instance = %self.id.instance, node = %self.id.node, "the instance's record can be read again");
                }
                Some(judgement)
            }
            Err(error) => {
                let kind = mem::discriminant(&error);
                if self.trouble.replace(kind) != Some(kind) {
                    tracing::warn!(instance = %self.id.instance, node = %self.id.node, %error, "the instance's record cannot be read: the node stays as it is, and is not started when it is down");
                }
                None
            }
        }
    }

    /// Obeys a judgement by which the node must not run.
    async fn leave(&mut self, judgement: Judgement) {
        match judgement {
            Judgement::Run { .. } => (),
            Judgement::Remove => {
                tracing::warn!(instance = %self.id.instance, node = %self.id.node, "the node is retired; removing it with its data");
                let node = self.id.node;
                match self.context.on_disk(move |disk| disk.retire(node)).await {
                    Ok(()) => self.condemned = true,
                    Err(error) => self.fail("remembering that the node is retired", &error).await,
                }
            }
            Judgement::SetAside => {
                if let Err(error) = self.set_aside().await {
                    self.fail("setting the node aside", &error).await;
                }
            }
        }
    }

    /// In quarantine, until something names the node again, or names it as gone for good.
    async fn rest(&mut self) {
        self.show(NodeState::Quarantined);
        let node = self.id.node;
        match self.judge().await {
            Some(Judgement::Run { .. }) => match self.context.on_disk(move |disk| disk.take_back(node)).await
            {
                Ok(()) => {
                    self.quarantined = false;
                    tracing::info!(instance = %self.id.instance, node = %self.id.node, "a record names the node again: it leaves the quarantine");
                }
                Err(error) => self.fail("taking the node out of quarantine", &error).await,
            },
            Some(Judgement::Remove) => self.leave(Judgement::Remove).await,
            Some(Judgement::SetAside) | None => self.pause(CHECK_QUARANTINE).await,
        }
    }
}

/// Does something, unless the node is told something meanwhile, or was just now. Leaves the order unseen.
async fn unless_ordered<T>(orders: &watch::Receiver<Order>, work: impl Future<Output = T>) -> Option<T> {
    let mut orders = orders.clone();
    tokio::select! {
        biased;
        _ = orders.changed() => None,
        done = work => Some(done),
    }
}
