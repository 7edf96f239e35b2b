//! Hosts the broker's handlers behind one HTTP port, and runs the cells and the router that they need.

mod blocking;
mod broker;
mod cell;
mod cli;
mod demo;
mod durable;
mod file_lock;
mod http_server;
mod interrupts;
mod log;
mod operation;
mod port_holder;
mod process;
mod recreate;
mod rotate;
mod router;
mod status;
mod steps;
mod up;

use std::{
    fs,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use cli::{Command, CommandLine};
use interrupts::Interrupts;
use shared::{
    clock::{Clock, SystemClock},
    config::{CellConfig, Config, RouterConfig, StoreConfig},
    etcd::Etcd,
    export::Export,
    roll::{self, Known},
    setup,
};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = runtime.block_on(run(arguments.command));
    // Whatever matters has been waited for. A thread that still waits for an answer must not hold the process up.
    runtime.shutdown_background();
    code
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Up(options) => {
            let up = async { Ok(up::run(options, Interrupts::listen()?).await?) };
            told(up.await)
        }
        Command::Demo => {
            let demo = async { demo::run(Interrupts::listen()?).await };
            demo.await.unwrap_or_else(|error| complain(&*error))
        }
        Command::ServiceStatus(arguments) => told(show(status::View::Services, &arguments).await),
        Command::ShowCells(arguments) => told(show(status::View::Cells, &arguments).await),
        Command::DeclareCellDestroyed(cell) => told(declare_destroyed(&cell).await),
        Command::Recreate(lost) => told(recreate::run(&lost).await),
        Command::RotateCredentials(instances) => told(rotate::run(&instances).await),
        Command::Export(file) => told(export(&file).await),
        Command::Import(arguments) => told(import(&arguments).await),
        part => {
            log::to_stderr();
            match serve(part).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("{}", chain(&*error));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// The parts of the broker by themselves.
async fn serve(command: Command) -> Result<(), AnyError> {
    match command {
        Command::Broker(file) => {
            let stop = stop_signal()?;
            let config = Config::load(file.config.as_deref())?;
            broker::BrokerServer::open(config).await?.serve(stop).await?;
        }
        Command::Cell(file) => {
            let stop = stop_signal()?;
            let config = CellConfig::load(file.config.as_deref())?;
            let store = setup::store(&config.kvstore)?;
            let ready = |uri: &str| tracing::info!(uri, "the cell is ready");
            cell::run(cell::Settings::of(config), Arc::new(store), ready, stop).await?;
        }
        Command::Router(file) => {
            let stop = stop_signal()?;
            let config = RouterConfig::load(file.config.as_deref())?;
            let store = setup::store(&config.kvstore)?;
            let router = router::Router::start(router::Settings::of(config.router), Arc::new(store)).await?;
            router.run(stop).await;
        }
        // These talk to a person.
        Command::Up(_)
        | Command::Demo
        | Command::ServiceStatus(_)
        | Command::ShowCells(_)
        | Command::DeclareCellDestroyed(_)
        | Command::Recreate(_)
        | Command::RotateCredentials(_)
        | Command::Export(_)
        | Command::Import(_) => {}
    }
    Ok(())
}

/// Tells the person who gave a command how it ended.
fn told(outcome: Result<(), AnyError>) -> ExitCode {
    outcome.map_or_else(|error| complain(&*error), |()| ExitCode::SUCCESS)
}

/// etcd, for a command that needs nothing else.
fn store(file: &cli::ConfigFile) -> Result<Etcd, AnyError> {
    let config = StoreConfig::load(file.config.as_deref())?;
    Ok(setup::store(&config.kvstore)?)
}

async fn export(file: &cli::ConfigFile) -> Result<(), AnyError> {
    let export = Export::take(&store(file)?, SystemClock.now()).await?;
    writeln!(io::stdout().lock(), "{}", export.to_json())?;
    Ok(())
}

async fn import(arguments: &cli::ImportArguments) -> Result<(), AnyError> {
    let path = &arguments.export;
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let export = Export::parse(&text)?;
    let written = export.import(&store(&arguments.file)?, SystemClock.now()).await?;
    let (instances, taken) = (export.instances(), export.taken);
    writeln!(
        io::stdout().lock(),
        "imported {written} keys: {instances} instances as they were at {taken}"
    )?;
    Ok(())
}

async fn declare_destroyed(cell: &cli::DestroyedCell) -> Result<(), AnyError> {
    let store = store(&cell.file)?;
    let known = roll::declare_destroyed(&store, &cell.guid, SystemClock.now()).await?;
    let doubt = match known {
        Known::Yes => "",
        Known::No => ", though none was seen under this guid lately: is it the right one?",
    };
    writeln!(
        io::stdout().lock(),
        "cell {} is declared destroyed{doubt}",
        cell.guid
    )?;
    Ok(())
}

async fn show(view: status::View, arguments: &status::StatusArguments) -> Result<(), AnyError> {
    let config = StoreConfig::load(arguments.file.config.as_deref())?;
    let store = setup::store(&config.kvstore)?;
    Ok(status::show(&store, &config.backends, view, arguments).await?)
}

/// Resolves when the process is asked to stop. The handlers are in place once this returns.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupts = Interrupts::listen()?;
    Ok(async move { interrupts.next().await })
}

/// Tells a person what went wrong.
fn complain(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{}", chain(error));
    // Standard error may be closed; the code tells as well.
    let _ = writeln!(io::stderr().lock(), "error: {}", chain(error));
    ExitCode::FAILURE
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
