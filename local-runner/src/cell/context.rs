//! What everything in a cell has at hand.

use std::{io, sync::Arc};

use shared::{
    cell_api::{NodeParameters, NodeState, NodeStatus},
    clock::{Clock, SystemClock},
    store::Store,
};
use tokio::sync::watch;

use super::{
    account::Account,
    directory::{DataDirectory, NodeFile},
    judgement::Identity,
    patroni::Program,
    ports::PortBook,
    settings::Settings,
};
use crate::blocking::blocking;

/// What everything in a cell has at hand.
pub(super) struct Context {
    /// What the cell was told.
    pub(super) settings: Settings,
    /// etcd.
    pub(super) store: Arc<dyn Store>,
    /// Asks the Patronis of other nodes.
    pub(super) http: reqwest::Client,
    /// The time.
    pub(super) clock: SystemClock,
    /// What is on disk.
    pub(super) directory: DataDirectory,
    /// Whom Patroni runs as.
    pub(super) account: Account,
    /// How Patroni is started.
    pub(super) program: Program,
    /// Which node owns which ports.
    pub(super) ports: PortBook,
    /// Whether the last heartbeat that reached etcd showed that no other live cell uses this one's guid.
    pub(super) guid_is_own: watch::Sender<bool>,
}

impl Context {
    /// Who a node is, by what the cell was told about it.
    pub(super) fn identity(&self, parameters: &NodeParameters) -> Identity {
        Identity {
            cell: self.settings.guid.clone(),
            instance: parameters.patroni_scope.clone(),
            incarnation: parameters.incarnation,
            node: parameters.node_id,
        }
    }

    /// Does something with what is on disk, away from the threads that serve everything else: a disk that stalls stops no
    /// heartbeat, and no other node.
    pub(super) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&DataDirectory) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let context = Arc::clone(self);
        blocking(move || work(&context.directory)).await
    }

    /// Waits until the guid is known to be this cell's own. Records name cells by their guids: to a copy of a machine they
    /// give the nodes that run on the other one.
    pub(super) async fn own_guid(&self) {
        // It fails only when the sender is gone, which is here.
        let _ = self.guid_is_own.subscribe().wait_for(|is_own| *is_own).await;
    }

    /// What is answered about a node.
    pub(super) fn status(&self, file: &NodeFile, state: NodeState) -> NodeStatus {
        NodeStatus {
            node_id: file.parameters.node_id,
            instance_id: file.parameters.patroni_scope.clone(),
            incarnation: file.parameters.incarnation,
            state,
            address: self.settings.advertised(file.ports.postgresql),
            rest_address: self.settings.advertised(file.ports.rest),
            credential_generation: Some(file.parameters.credential_generation),
        }
    }

    /// Seconds since 1970, for names.
    pub(super) fn unix_time(&self) -> i64 {
        self.clock.now().as_second()
    }
}
