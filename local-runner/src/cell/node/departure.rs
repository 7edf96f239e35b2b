//! How a node ends: stopped with its cell, set aside, or removed for good.

use std::{io, time::Duration};

use rustix::process::Signal;
use shared::{cell_api::NodeState, keyspace, store::StoreError};
use tokio::time::{sleep, timeout};

use super::{
    super::{process, registrar, socket},
    Keeper, Life,
};

/// How long Patroni may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(60);
/// The same for a node whose data goes anyway.
const STOP_FOR_GOOD: Duration = Duration::from_secs(30);
/// Before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long tidying up in etcd may take.
const TIDYING: Duration = Duration::from_secs(8);

impl Keeper {
    /// Stops the node and sets its directory aside.
    pub(super) async fn set_aside(&mut self) -> io::Result<()> {
        self.show(NodeState::Stopping);
        self.stop(STOP).await?;
        self.deregister().await;
        let seconds = self.context.unix_time();
        let node = self.id.node;
        let place = self
            .context
            .on_disk(move |disk| disk.set_aside(node, seconds))
            .await?;
        self.quarantined = true;
        self.show(NodeState::Quarantined);
        tracing::warn!(instance = %self.id.instance, node = %self.id.node, place = %place.display(), "no record names the node on this cell: it is stopped and its directory set aside; nothing was deleted");
        Ok(())
    }

    /// Stops everything that works for the node, cleanly if that is possible in time.
    async fn stop(&mut self, bound: Duration) -> io::Result<()> {
        if let Some(process) = self.running().await? {
            process.signal(Signal::TERM)?;
            if !process.ended_within(bound).await {
                tracing::warn!(instance = %self.id.instance, node = %self.id.node, pid = process.id().pid, "Patroni did not stop within {} s; it is killed", bound.as_secs());
                process.signal(Signal::KILL)?;
                process.ended_within(Duration::from_secs(10)).await;
            }
        }
        // Whatever ends from here on was told to, by force too.
        self.witness.settle();
        // Also what a paused Patroni leaves running, and what a dead one left behind.
        process::clear(&self.directory.home(), self.context.account.uid()).await?;
        if let Some(mut child) = self.child.take() {
            let _ = child.wait().await;
        }
        Ok(())
    }

    /// Stops the node with its cell.
    pub(super) async fn halt(&mut self) -> Life {
        if !self.quarantined {
            self.show(NodeState::Stopping);
            if let Err(error) = self.stop(STOP).await {
                tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "stopping the node failed; some of its processes may be left");
            }
            self.deregister().await;
        }
        Life::Halted
    }

    /// Removes the node with its data, however often that takes.
    pub(super) async fn remove(&mut self) -> Life {
        self.show(NodeState::Stopping);
        while let Err(error) = self.stop(STOP_FOR_GOOD).await {
            tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "stopping the node failed; it is tried again");
            sleep(RETRY).await;
        }
        self.deregister().await;
        let member = keyspace::member(&self.id.instance, self.id.node);
        self.insist("removing the node's member key", || {
            registrar::remove(self.context.store.as_ref(), &member)
        })
        .await;
        while let Err(error) = self.delete().await {
            tracing::error!(instance = %self.id.instance, node = %self.id.node, %error, "deleting the node's data failed; it is tried again");
            sleep(RETRY).await;
        }
        self.context.ports.release(self.id.node);
        tracing::info!(instance = %self.id.instance, node = %self.id.node, "removed the node with its data");
        Life::Removed
    }

    async fn delete(&self) -> io::Result<()> {
        socket::remove(&self.socket_directory(), &self.directory.home())?;
        let node = self.id.node;
        self.context.on_disk(move |disk| disk.delete(node)).await
    }

    async fn deregister(&self) {
        let store = self.context.store.as_ref();
        self.insist("removing the node's registration", || {
            registrar::deregister(store, &self.id.cell, self.id.node)
        })
        .await;
    }

    /// Tidies up in etcd, as often as that takes within a bound. It is no reason to keep a node: what stays is swept at
    /// the next start, or runs out by itself.
    async fn insist<F>(&self, doing: &'static str, mut attempt: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let mut reason = String::new();
        let tries = async {
            while let Err(error) = attempt().await {
                reason = error.to_string();
                sleep(Duration::from_millis(500)).await;
            }
        };
        if timeout(TIDYING, tries).await.is_err() {
            tracing::warn!(instance = %self.id.instance, node = %self.id.node, reason, "{doing} failed; it stays until it is swept or runs out");
        }
    }
}
