//! The router: HAProxy listening on the public port of every instance, and pointing at the leader of its cluster.
//!
//! **Guarantees.**
//! - A port is listened on when an allocation names it and the port's owner is the same instance. One that cannot be
//!   bound, and values in etcd that make no sense, harm no other instance; both are logged, and a port that becomes
//!   free is taken up within a second.
//! - Sessions go to the holder of the leader key and to nobody else. When that changes, HAProxy hears of it over its
//!   runtime socket as soon as the event is there, and the sessions to the former leader are ended, also those in workers
//!   that were replaced by a reload. While nobody is known to lead, connections are closed at once.
//! - HAProxy is reloaded only when the set of ports changes. A reload refuses no connection and ends no session.
//! - When etcd is away, all goes on as it was last known. When the router is killed, HAProxy goes on too, and the
//!   next router takes it over. When HAProxy is killed, it is started again at once.
//! - [`Router::run`] leaves no process and no file behind when it is told to stop.
//!
//! **Assumes.** Linux, with its `/proc`; HAProxy 2.4 or later; one router for each state directory (a second one does not
//! start).
//!
//! **Caveats.**
//! - A former leader is served for as long as an event of etcd is under way.
//! - A holder of the leader key whose member key does not say that it runs as the primary is served once its Patroni says
//!   over REST that it does; one whose REST API has not answered for 3 s is served without that.
//! - A leader key that has *expired*, or is missing from a snapshot, within 30 s (Patroni's default ttl) after etcd was
//!   away (or nothing was heard of any cluster for 15 s) does not count before these are over, unless another leader shows up or the leader's member key says that
//!   it is not the primary any more. With failsafe mode the leader has been running all the time, and takes its key
//!   again within a loop. If it did not, its clients meet a dead or read-only server for up to that time.
//! - A leader key that was *deleted*, or expired while etcd was well, ends the sessions at once, even where failsafe
//!   mode lets a leader run that alone cannot reach etcd: any member may take the key in the next moment.
//! - A worker that was replaced stays until its last session has ended, but only for so many reloads that such workers
//!   fit into a quarter of the memory (4 to 50): then its sessions are ended.
//! - A router that starts knows of no former leaders: one whose key is missing at that moment is not served until it has
//!   its key again, although the router before may have kept it.
//! - Host names in `conn_url` are looked up when a leader takes over, not again later.
//! - If a port is taken by another program just between its being tried and HAProxy's reload, HAProxy pauses all its ports
//!   for up to two seconds before it refuses the configuration, and goes on with the former one. Such a port is left
//!   out for a minute.

mod account;
mod applied;
mod cluster;
mod command_line;
mod error;
mod follow;
mod haproxy;
mod haproxy_config;
mod haproxy_log;
mod listen_port;
mod lookup;
mod master;
mod member;
mod outage;
mod processes;
mod program;
mod promotion;
mod routes;
mod schedule;
mod session;
mod settings;
mod state_directory;
#[cfg(test)]
mod tests;
mod worker;

use std::{future::Future, sync::Arc};

use reqwest::Client;
use shared::{cells::http_client, store::Store};
use tokio::sync::watch;

use self::{error::RouterError, follow::Follow, haproxy::Haproxy, state_directory::StateDirectory};
pub(crate) use self::{processes::at as processes_at, program::find as find_program, settings::Settings};

/// A router that can be run.
pub(crate) struct Router {
    settings: Arc<Settings>,
    directory: Arc<StateDirectory>,
    haproxy: Haproxy,
    store: Arc<dyn Store>,
    http: Client,
    ready: watch::Sender<bool>,
}

impl Router {
    /// Takes the state directory, and the HAProxy that runs in it if there is one. That one goes on as it is until
    /// the router has seen etcd.
    ///
    /// # Errors
    /// When the directory or HAProxy's program cannot be used, or another router has the directory.
    pub(crate) async fn start(settings: Settings, store: Arc<dyn Store>) -> Result<Self, RouterError> {
        let directory = Arc::new(StateDirectory::open(&settings.state_directory)?);
        let unusable = |source| RouterError::Haproxy {
            path: settings.haproxy.clone(),
            source,
        };
        let (haproxy, version) = find_program(&settings).await.map_err(unusable)?;
        tracing::info!(haproxy = %haproxy.display(), version, "the router starts");
        let settings = Settings { haproxy, ..settings };
        let settings = Arc::new(settings);
        let haproxy = Haproxy::take_over(Arc::clone(&settings), Arc::clone(&directory)).await;
        Ok(Self {
            settings,
            directory,
            haproxy,
            store,
            http: http_client().map_err(RouterError::HttpClient)?,
            ready: watch::Sender::new(false),
        })
    }

    /// Turns true once HAProxy serves what etcd held when it was first read.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Routes until `stop` comes; then ends HAProxy and removes its files. Dropped before that, it leaves HAProxy
    /// running for the next router.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let directory = Arc::clone(&self.directory);
        let mut follow = Follow::new(&self.settings, &*self.store, self.http, self.haproxy, self.ready);
        tokio::select! {
            () = stop => {}
            never = follow.run() => match never {},
        }
        follow.stop(&directory).await;
    }
}
