//! A cell from its start to its end.

use std::{pin::pin, sync::Arc, time::Duration};

use shared::{cell_api::Heartbeat, cells::http_client, clock::SystemClock, store::Store};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    account::Account,
    api,
    context::Context,
    directory::DataDirectory,
    error::CellError,
    heartbeat::{Heart, Missed},
    patroni::Program,
    patroni_yaml,
    ports::PortBook,
    registrar,
    roster::Roster,
    settings::Settings,
};
use crate::http_server;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// After a heartbeat that failed.
const BEAT_AGAIN: Duration = Duration::from_secs(1);
/// How long the API may take to finish its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// A cell whose data directory and port are its own, and whose nodes are looked after.
///
/// Dropping it lets go of everything as it is, like a kill: processes run on, and another cell on the same directory
/// adopts them. [`Cell::close`] stops them.
pub(super) struct Cell {
    context: Arc<Context>,
    roster: Arc<Roster>,
    heart: Heart,
    beat: Heartbeat,
    /// Bound, so that the port is certain, but not listening before the cell is announced.
    socket: Option<TcpSocket>,
    server: JoinSet<()>,
    finish: Option<oneshot::Sender<()>>,
}

impl Cell {
    /// Opens the data directory, adopts the nodes in it that run, and takes the API's port. The others are started when the
    /// cell is announced.
    ///
    /// # Errors
    /// When the settings make no sense, something is missing on this machine, or the directory or port is taken.
    pub(super) async fn open(settings: Settings, store: Arc<dyn Store>) -> Result<Self, CellError> {
        if settings.heartbeat_ttl < Duration::from_secs(3) {
            let text = "the heartbeat must count for at least 3 s";
            return Err(CellError::Settings(text.to_owned()));
        }
        let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_".contains(&byte);
        if settings.host.is_empty() || !settings.host.bytes().all(in_host) {
            let text = format!(
                "'{}' is neither a host name nor an address",
                settings.host.escape_debug()
            );
            return Err(CellError::Settings(text));
        }
        patroni_yaml::check_etcd(&settings.etcd)?;
        let account = Account::choose(settings.patroni.user.as_deref())?;
        let patroni = &settings.patroni;
        let program = Program::find(&patroni.command, patroni.postgres_bin.as_deref(), &account)?;
        let directory = open_directory(&settings, &account).await?;
        account.check_reach(directory.root())?;
        let files = [&settings.etcd.ca, &settings.etcd.cert, &settings.etcd.key];
        for file in files.into_iter().flatten() {
            account.check_readable(file)?;
        }
        let version = match &settings.patroni.version {
            Some(version) => version.clone(),
            None => program.version().await?,
        };
        let http = http_client().map_err(CellError::HttpClient)?;
        let (socket, port) = bind(&settings)?;
        let beat = Heartbeat {
            guid: settings.guid.clone(),
            availability_zone: settings.availability_zone.clone(),
            uri: format!("http://{}", settings.advertised(port)),
            capacity: settings.capacity,
            load: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ttl: Some(settings.heartbeat_ttl.as_secs()),
        };
        let context = Arc::new(Context {
            settings,
            store: Arc::clone(&store),
            http,
            clock: SystemClock,
            directory,
            account,
            program,
            ports: PortBook::new(port),
            guid_is_own: watch::Sender::new(false),
        });
        let roster = Roster::new(Arc::clone(&context));
        roster.resume().map_err(|source| CellError::Disk {
            doing: "reading",
            path: context.directory.root().to_owned(),
            source,
        })?;
        tracing::info!(
            guid = %context.settings.guid,
            uri = beat.uri,
            directory = %context.directory.root().display(),
            nodes = roster.ids().len(),
            patroni = version,
            "the cell is open"
        );
        let heart = Heart::new(store, context.settings.heartbeat_ttl);
        Ok(Self {
            context,
            roster,
            heart,
            beat,
            socket: Some(socket),
            server: JoinSet::new(),
            finish: None,
        })
    }

    /// Where the API answers: `http://host:port`.
    pub(super) fn uri(&self) -> &str {
        &self.beat.uri
    }

    /// Sends the first heartbeat, waiting for etcd as long as it takes, and starts to answer. When this returns, the
    /// cell is ready.
    ///
    /// # Errors
    /// When another live cell has the same guid, or the port was taken meanwhile.
    pub(super) async fn announce(&mut self) -> Result<(), CellError> {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        self.beat.load = load(&self.roster);
        self.heart.start(&self.beat).await?;
        self.context.guid_is_own.send_replace(true);
        let listener = socket
            .listen(BACKLOG)
            .map_err(|source| self.cannot_listen(source))?;
        self.answer(listener);
        let (store, guid) = (self.context.store.as_ref(), &self.context.settings.guid);
        match registrar::sweep(store, guid, &self.roster.ids()).await {
            Ok(0) => (),
            Ok(removed) => tracing::info!(removed, "removed registrations of nodes that are not here"),
            Err(error) => tracing::warn!(%error, "old registrations could not be looked for"),
        }
        Ok(())
    }

    fn cannot_listen(&self, source: std::io::Error) -> CellError {
        CellError::Listen {
            address: self.context.settings.api_address().to_string(),
            source,
        }
    }

    fn answer(&mut self, listener: TcpListener) {
        let settings = &self.context.settings;
        let router = api::router(
            Arc::clone(&self.roster),
            settings.username.clone(),
            settings.password.clone(),
        );
        let (finish, finished) = oneshot::channel();
        self.finish = Some(finish);
        // A sender that is dropped means the same.
        let finished = async { drop(finished.await) };
        self.server
            .spawn(http_server::serve(listener, None, router, finished));
    }

    /// Serves until it is told to stop, then stops every node cleanly.
    ///
    /// # Errors
    /// When the API ends by itself; the nodes are stopped then, too. When a node's task has panicked; the nodes run on then.
    pub(super) async fn serve(mut self, stop: impl Future<Output = ()>) -> Result<(), CellError> {
        let ended = {
            let beats = keep_beating(&mut self.heart, &mut self.beat, &self.roster, &self.context);
            let (stop, beats) = (pin!(stop), pin!(beats));
            tokio::select! {
                () = stop => None,
                () = beats => None,
                ended = self.server.join_next() => ended,
                () = self.roster.broken() => return Err(CellError::Panicked),
            }
        };
        self.close().await;
        match ended {
            None => Ok(()),
            Some(Ok(())) => Err(CellError::Serve(std::io::Error::other(
                "it ended without a reason",
            ))),
            Some(Err(error)) => Err(CellError::Serve(error.into())),
        }
    }

    /// Stops every node cleanly, and takes back what the cell announced.
    pub(super) async fn close(mut self) {
        tracing::info!(guid = %self.context.settings.guid, "the cell stops");
        let (heart, roster) = tokio::join!(
            timeout(Duration::from_secs(10), self.heart.stop(&self.beat)),
            self.roster.close()
        );
        let () = roster;
        match heart {
            Ok(Ok(())) => (),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the heartbeat could not be removed; it runs out by itself");
            }
            Err(_) => tracing::warn!("the heartbeat could not be removed in time; it runs out by itself"),
        }
        drop(self.finish.take());
        let _ = timeout(LAST_ANSWERS, self.server.join_next()).await;
        tracing::info!(guid = %self.context.settings.guid, "the cell has stopped");
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.roster.abandon();
    }
}

/// Whether the programs that a cell with these settings needs are there and run; answers what Patroni calls itself.
///
/// # Errors
/// When they do not.
pub(crate) async fn patroni_version(settings: &Settings) -> Result<String, CellError> {
    let patroni = &settings.patroni;
    let account = Account::choose(patroni.user.as_deref())?;
    let program = Program::find(&patroni.command, patroni.postgres_bin.as_deref(), &account)?;
    program.version().await
}

/// Runs a cell until it is told to stop. `ready` is called once, with the address of its API (`http://host:port`), when
/// the cell answers and its first heartbeat is in etcd.
///
/// # Errors
/// When it cannot start, or cannot go on. With another cell's guid it does not touch the nodes of its directory.
pub(crate) async fn run(
    settings: Settings,
    store: Arc<dyn Store>,
    ready: impl FnOnce(&str),
    stop: impl Future<Output = ()>,
) -> Result<(), CellError> {
    let mut stop = pin!(stop);
    let mut cell = Cell::open(settings, store).await?;
    let announced = tokio::select! {
        announced = cell.announce() => Some(announced?),
        () = &mut stop => None,
    };
    match announced {
        Some(()) => {
            ready(cell.uri());
            cell.serve(stop).await
        }
        None => {
            cell.close().await;
            Ok(())
        }
    }
}

async fn open_directory(settings: &Settings, account: &Account) -> Result<DataDirectory, CellError> {
    let (path, account, guid) = (
        settings.data_directory.clone(),
        account.clone(),
        settings.guid.clone(),
    );
    let failed_at = path.clone();
    let opened = tokio::task::spawn_blocking(move || DataDirectory::open(&path, account, &guid));
    opened.await.map_err(|error| CellError::Disk {
        doing: "opening",
        path: failed_at,
        source: error.into(),
    })?
}

fn bind(settings: &Settings) -> Result<(TcpSocket, u16), CellError> {
    let address = settings.api_address();
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let port = socket.local_addr()?.port();
        Ok((socket, port))
    };
    bound().map_err(|source| CellError::Listen {
        address: address.to_string(),
        source,
    })
}

fn load(roster: &Roster) -> u32 {
    u32::try_from(roster.load()).unwrap_or(u32::MAX)
}

/// Beats every third of the time that a beat counts, and at once when the load has changed. While another cell's heartbeat
/// stands there, no node is started.
async fn keep_beating(heart: &mut Heart, beat: &mut Heartbeat, roster: &Roster, context: &Context) {
    let period = heart.ttl() / 3;
    let mut next = Instant::now() + period;
    let mut missed = None;
    loop {
        tokio::select! {
            () = sleep_until(next) => (),
            () = roster.changed() => (),
        }
        beat.load = load(roster);
        match heart.beat(beat).await {
            Ok(()) => {
                if missed.take().is_some() {
                    tracing::info!(guid = %beat.guid, "heartbeats reach etcd again");
                }
                context.guid_is_own.send_replace(true);
                next = Instant::now() + period;
            }
            Err(error) => {
                if matches!(error, Missed::Taken { .. }) {
                    context.guid_is_own.send_replace(false);
                }
                let kind = std::mem::discriminant(&error);
                if missed.replace(kind) != Some(kind) {
                    tracing::error!(guid = %beat.guid, %error, "a heartbeat did not get through; the cell counts as missing when that goes on");
                }
                next = Instant::now() + BEAT_AGAIN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::tests::wait::eventually;
    use shared::{keyspace, record::Phase, store::Store};

    use super::{
        super::stage::{Instance, LONG, Stage, kill, new_node, workers},
        *,
    };

    /// Another cell with the same guid has sent a heartbeat.
    async fn take(stage: &Stage, settings: &Settings) {
        let other = serde_json::json!({
            "guid": settings.guid, "availability_zone": "z1", "uri": "http://elsewhere:1",
            "capacity": 1, "load": 0, "version": "0",
        });
        let key = keyspace::cell(&settings.guid);
        stage
            .store
            .set(&key, &other.to_string(), Some(LONG))
            .await
            .unwrap();
    }

    async fn release(stage: &Stage, settings: &Settings) {
        let key = keyspace::cell(&settings.guid);
        let entry = stage.store.get(&key, shared::store::Read::Quorum).await.unwrap();
        stage
            .store
            .compare_and_delete(&key, entry.unwrap().index)
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_is_started_only_while_the_guid_is_the_cells_own() {
        let stage = Stage::set().await;
        let site = stage.open(stage.settings("/usr/bin/patroni")).await;
        let (mut instance, node) = (Instance::new("i1"), new_node());
        instance.place(node, &site, Phase::Assigned);
        stage.write(&instance).await;
        assert_eq!(stage.put(&site, &instance, node).await.0, 201);
        assert_eq!(stage.leader(&instance).await, node);
        let settings = site.stop().await;
        let directory = settings.data_directory.clone();
        assert_eq!(workers(&directory), [].into());

        // As on a copy of the machine.
        take(&stage, &settings).await;
        let refused = stage.try_open(settings.clone()).await.err();
        assert!(
            matches!(refused, Some(CellError::GuidTaken { .. })),
            "{refused:?}"
        );
        assert_eq!(workers(&directory), [].into());
        release(&stage, &settings).await;

        // The one that was refused may still hold the directory.
        let mut cell = eventually("the cell is open", LONG, async || {
            let store = Arc::<shared::etcd::Etcd>::clone(&stage.store);
            Cell::open(settings.clone(), store).await.ok()
        })
        .await;
        cell.announce().await.unwrap();
        let context = Arc::clone(&cell.context);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(cell.serve(async { drop(stopped.await) }));
        assert_eq!(stage.leader(&instance).await, node);
        let json = directory
            .join("nodes")
            .join(node.to_string())
            .join("process.json");
        let pid = || {
            let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
            i32::try_from(json["pid"].as_i64().unwrap()).unwrap()
        };
        let runs = async || workers(&directory).contains(&pid()).then_some(());
        eventually("Patroni runs", LONG, runs).await;

        // Another one comes up later: what runs goes on, and what dies stays dead.
        take(&stage, &settings).await;
        let told = async |is_own: bool| (*context.guid_is_own.borrow() == is_own).then_some(());
        eventually("the cell is told", LONG, async || told(false).await).await;
        let before = pid();
        assert!(workers(&directory).contains(&before));
        kill(before);
        eventually("Patroni is dead", LONG, async || {
            (!workers(&directory).contains(&before)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(pid(), before, "it was started again");
        release(&stage, &settings).await;
        eventually("the cell is told", LONG, async || told(true).await).await;
        eventually("Patroni runs again", LONG, async || {
            (pid() != before && workers(&directory).contains(&pid())).then_some(())
        })
        .await;
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_cell() {
        let stage = Stage::set().await;
        let settings = stage.settings("/usr/bin/patroni");
        let mut cell = Cell::open(settings, Arc::<shared::etcd::Etcd>::clone(&stage.store))
            .await
            .unwrap();
        cell.announce().await.unwrap();
        cell.roster.stand_by(async { panic!("a bug") });
        let ended = timeout(Duration::from_secs(60), cell.serve(std::future::pending())).await;
        assert!(matches!(ended, Ok(Err(CellError::Panicked))), "{ended:?}");
    }
}
