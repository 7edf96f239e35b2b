//! Everything on one machine: etcd, cells, the router and the broker in one process, beside the programs that they run.
//!
//! **Guarantees.** What is stopped leaves no process, whenever it is stopped and however impatiently. What an earlier
//! stack left running when it was killed is taken over. A part that fails later is started again, and the others go on.
//! **Caveats.** Dropping it lets go of everything as it is, like a kill.

use std::{path::Path, sync::Arc};

use futures_util::future::join_all;
use shared::{
    etcd::Etcd as Client,
    keyspace, setup,
    store::{Read, Store},
};

use super::{
    blueprint::Blueprint,
    component::Component,
    error::UpError,
    etcd::{self, Etcd},
    facts::{Facts, Versions},
    ports::{self, Needed},
    processes,
    settings::Settings,
    state_directory::StateDirectory,
};
use crate::{
    broker::BrokerServer,
    cell::{self, Account, CellError},
    process::Stat,
    router::{self, Router},
    steps::Steps,
};

/// How many cells a stack may have.
pub(crate) const MOST_CELLS: u8 = 200;

/// The stack.
pub(crate) struct Stack {
    directory: StateDirectory,
    blueprint: Arc<Blueprint>,
    facts: Facts,
    /// The user that the nodes run as.
    node_user: u32,
    etcd: Etcd,
    store: Arc<Client>,
    cells: Vec<cell::Settings>,
    running: Running,
}

/// The parts that run, or begin to.
#[derive(Default)]
struct Running {
    etcd: Option<Component>,
    cells: Vec<Component>,
    router: Option<Component>,
    broker: Option<Component>,
}

impl Running {
    /// Stops everything in order, each waiting for what depends on it. Cancel-safe.
    async fn stop(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.stop().await;
        }
        if let Some(router) = &mut self.router {
            router.stop().await;
        }
        join_all(self.cells.iter_mut().map(Component::stop)).await;
        if let Some(etcd) = &mut self.etcd {
            etcd.stop().await;
        }
    }
}

impl Stack {
    /// Looks whether everything is there and nothing is in the way. Starts nothing.
    ///
    /// # Errors
    /// What is missing or in the way.
    pub(crate) async fn prepare(settings: Settings) -> Result<Self, UpError> {
        if settings.config.is_none() {
            // Before anything is made there; a file may name another user, which is looked at below.
            check_reach(&Account::choose(None)?, &settings.state_directory)?;
        }
        let directory = StateDirectory::open(&settings.state_directory)?;
        let blueprint = Blueprint::new(settings, &directory, directory.master_key()?)?;
        let config = blueprint.broker()?;
        let mut cells: Vec<_> = blueprint.cells()?.into_iter().map(cell::Settings::of).collect();
        let user = cells.first().and_then(|cell| cell.patroni.user.as_deref());
        let account = Account::choose(user)?;
        check_reach(&account, &directory.cells())?;
        let etcd = Etcd::find(directory.etcd(), blueprint.etcd()).await?;
        let haproxy = haproxy(&router::Settings::of(blueprint.router()?.router)).await?;
        let patroni = match cells.first() {
            Some(first) => cell::patroni_version(first).await?,
            None => String::new(),
        };
        for cell in &mut cells {
            cell.patroni.version = Some(patroni.clone());
        }
        let versions = Versions {
            etcd: etcd.version.clone(),
            haproxy,
            // It says: patroni 3.0.2
            patroni: patroni.rsplit(' ').next().unwrap_or_default().to_owned(),
        };
        let facts = Facts::of(&config, &cells, versions, &directory);
        ports::check(needed(&facts, &cells, &etcd)?)?;
        directory.write_functions(&blueprint.functions())?;
        Ok(Self {
            store: Arc::new(setup::store(&config.kvstore)?),
            directory,
            blueprint: Arc::new(blueprint),
            facts,
            node_user: account.uid(),
            etcd,
            cells,
            running: Running::default(),
        })
    }

    /// What there is to know about it.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A client of its etcd.
    pub(crate) fn store(&self) -> Arc<Client> {
        Arc::clone(&self.store)
    }

    /// Starts everything, and shows what runs where. When its future is dropped, or it fails, what was started
    /// runs on until [`Stack::stop`].
    ///
    /// # Errors
    /// When a part cannot be started.
    pub(crate) async fn start(&mut self, steps: Steps) -> Result<(), UpError> {
        let step = steps.begin("etcd");
        let etcd = self.etcd.clone();
        let run = move |ready, stop| {
            let etcd = etcd.clone();
            async move { Ok(etcd.run(ready, stop).await?) }
        };
        let component = self.running.etcd.insert(Component::start("etcd", run));
        component.ready().await?;
        step.done(&self.facts.etcd_line());

        let step = steps.begin("cells");
        for settings in &self.cells {
            self.running
                .cells
                .push(start_cell(settings.clone(), self.store()));
        }
        for cell in &mut self.running.cells {
            cell.ready().await?;
        }
        step.done(&self.facts.cells_line());

        let step = steps.begin("router");
        let settings = router::Settings::of(self.blueprint.router()?.router);
        let component = self.running.router.insert(start_router(settings, self.store()));
        component.ready().await?;
        step.done(&self.facts.router_line());

        let step = steps.begin("broker");
        let component = self
            .running
            .broker
            .insert(start_broker(Arc::clone(&self.blueprint)));
        component.ready().await?;
        step.done(&self.facts.broker_line());
        Ok(())
    }

    /// How many instances there are.
    pub(crate) async fn instances(&self) -> Option<usize> {
        let instances = self.store.list(keyspace::INSTANCES, Read::Local).await;
        Some(instances.ok()?.map_or(0, |instances| instances.len()))
    }

    /// Cells that an earlier stack had, with nodes, and this one has not.
    pub(crate) fn idle_cells(&self) -> Vec<u8> {
        let running = u8::try_from(self.cells.len()).unwrap_or(u8::MAX);
        let beyond = (running.saturating_add(1)..=MOST_CELLS)
            .filter(|number| processes::has_nodes(&self.directory.cell(*number)));
        beyond.collect()
    }

    /// Stops everything in order, or, once `hurry` is over, by force. Answers whether it was by force. Afterwards
    /// nothing is left running.
    ///
    /// # Errors
    /// When something does not even end by force.
    pub(crate) async fn stop(&mut self, hurry: impl Future<Output = ()>) -> Result<bool, UpError> {
        let in_order = tokio::select! {
            biased;
            () = self.running.stop() => true,
            () = hurry => false,
        };
        // What else runs in here must not start anything from now on.
        self.running = Running::default();
        let left = self.processes()?;
        if left.is_empty() {
            return Ok(false);
        }
        if in_order {
            tracing::error!(?left, "some processes did not stop in order; they are killed");
        }
        processes::kill(&self.directory, self.node_user)
            .await
            .map_err(|source| UpError::System {
                doing: "killing what is left",
                source,
            })?;
        Ok(true)
    }

    /// What a power cut does to the machine of a cell: the cell is gone, and all its nodes' processes are killed. Answers
    /// how many these were.
    ///
    /// # Errors
    /// When there is no such cell, or something does not end.
    pub(crate) async fn cut_power(&mut self, host: &str) -> Result<usize, UpError> {
        let number = self.number_of(host)?;
        if let Some(component) = self.running.cells.get_mut(number) {
            component.kill().await;
        }
        let directory = &self.cells[number].data_directory;
        let killed = processes::kill_cell(directory, self.node_user).await;
        killed.map_err(|source| UpError::System {
            doing: "killing the nodes of a cell",
            source,
        })
    }

    /// The end of a power cut: the cell is started again, and brings its nodes up.
    ///
    /// # Errors
    /// When there is no such cell, or it does not start.
    pub(crate) async fn restore_power(&mut self, host: &str) -> Result<(), UpError> {
        let number = self.number_of(host)?;
        let component = start_cell(self.cells[number].clone(), self.store());
        self.running.cells[number] = component;
        self.running.cells[number].ready().await?;
        Ok(())
    }

    fn number_of(&self, host: &str) -> Result<usize, UpError> {
        let number = self.cells.iter().position(|cell| cell.host == host);
        number.ok_or_else(|| UpError::System {
            doing: "looking for a cell by its address",
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })
    }

    /// The processes of all nodes.
    ///
    /// # Errors
    /// When the processes cannot be looked at.
    pub(crate) fn node_processes(&self) -> Result<Vec<Stat>, UpError> {
        processes::nodes(&self.directory.cells(), self.node_user).map_err(|source| UpError::System {
            doing: "looking for processes",
            source,
        })
    }

    /// Every process of the stack beside this one.
    ///
    /// # Errors
    /// When the processes cannot be looked at.
    pub(crate) fn processes(&self) -> Result<Vec<Stat>, UpError> {
        processes::running(&self.directory, self.node_user).map_err(|source| UpError::System {
            doing: "looking for processes",
            source,
        })
    }
}

/// Kills what a stack left running in a directory that nobody holds.
///
/// # Errors
/// When something does not even end by force.
pub(crate) async fn clear(directory: &StateDirectory) -> Result<(), UpError> {
    let account = Account::choose(None)?;
    processes::kill(directory, account.uid())
        .await
        .map_err(|source| UpError::System {
            doing: "killing what was left running",
            source,
        })
}

/// Checks that the nodes' user gets into a directory, as far as it is there.
fn check_reach(account: &Account, directory: &Path) -> Result<(), UpError> {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let there = absolute.ancestors().find(|path| path.is_dir());
    match there.map_or(Ok(()), |there| account.check_reach(there)) {
        Err(CellError::Unreachable {
            user,
            directory: closed,
        }) => Err(UpError::Unreachable {
            state_directory: absolute,
            user,
            closed,
        }),
        other => Ok(other?),
    }
}

/// HAProxy's version.
async fn haproxy(settings: &router::Settings) -> Result<String, UpError> {
    let (_, said) = router::find_program(settings)
        .await
        .map_err(|source| UpError::Haproxy {
            program: settings.haproxy.clone(),
            source,
        })?;
    // HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
    let version = said.split_whitespace().nth(2).unwrap_or_default();
    Ok(version.split('-').next().unwrap_or_default().to_owned())
}

/// The ports that must be free. That of etcd may be held by the etcd that an earlier stack left behind.
fn needed(facts: &Facts, cells: &[cell::Settings], etcd: &Etcd) -> Result<Vec<Needed>, UpError> {
    let left_behind = etcd::left_behind(&etcd.directory).map_err(|source| UpError::System {
        doing: "looking for an etcd that was left behind",
        source,
    })?;
    let mut needed = Vec::new();
    if !left_behind.is_some_and(|stat| etcd.serves(&stat)) {
        needed.push(Needed {
            what: "etcd".to_owned(),
            address: etcd.address,
            advice: "--etcd-port chooses another port",
        });
    }
    needed.push(Needed {
        what: "the broker".to_owned(),
        address: facts.broker,
        advice: "--port chooses another port",
    });
    needed.extend(cells.iter().map(|cell| Needed {
        what: format!("cell {}", cell.guid),
        address: cell.api_address(),
        advice: "'cell.api_port' of a file given by --config chooses another port",
    }));
    Ok(needed)
}

fn start_cell(settings: cell::Settings, store: Arc<Client>) -> Component {
    Component::start(format!("cell {}", settings.guid), move |ready, stop| {
        let (settings, store) = (settings.clone(), Arc::clone(&store));
        async move { Ok(cell::run(settings, store, |_| ready.with(""), stop.told()).await?) }
    })
}

fn start_router(settings: router::Settings, store: Arc<Client>) -> Component {
    Component::start("the router", move |ready, stop| {
        let (settings, store) = (settings.clone(), Arc::clone(&store));
        async move {
            let router = Router::start(settings, store).await?;
            let mut serves = router.ready();
            let announced = async {
                // It ends without that when it is told to stop first.
                if serves.wait_for(|serves| *serves).await.is_ok() {
                    ready.with("");
                }
            };
            tokio::join!(router.run(stop.told()), announced);
            Ok(())
        }
    })
}

fn start_broker(blueprint: Arc<Blueprint>) -> Component {
    Component::start("the broker", move |ready, stop| {
        let blueprint = Arc::clone(&blueprint);
        async move {
            let server = BrokerServer::open(blueprint.broker()?).await?;
            ready.with("");
            Ok(server.serve(stop.told()).await?)
        }
    })
}
