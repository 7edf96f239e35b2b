//! Hosts the broker's handlers behind one HTTP port, and runs the cells and the router that they need.

mod broker;
mod cell;
mod cli;
mod port_holder;
mod router;
mod status;

use std::{io::IsTerminal, process::ExitCode, sync::Arc};

use clap::Parser;
use cli::{Command, CommandLine};
use shared::{
    config::{CellConfig, Config, RouterConfig, StoreConfig},
    setup,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    start_log();
    match run(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), AnyError> {
    let stop = stop_signal()?;
    match command {
        Command::Broker(file) => {
            let config = Config::load(file.config.as_deref())?;
            broker::BrokerServer::open(config).await?.serve(stop).await?;
        }
        Command::Router(file) => {
            let config = RouterConfig::load(file.config.as_deref())?;
            let store = setup::store(&config.kvstore)?;
            let router = router::Router::start(router::Settings::of(config.router), Arc::new(store)).await?;
            let mut routes_stand = router.ready();
            let announce = async {
                if routes_stand.wait_for(|ready| *ready).await.is_ok() {
                    tracing::info!("the router is ready");
                }
            };
            tokio::join!(router.run(stop), announce);
        }
        Command::ServiceStatus(arguments) => show(status::View::Services, &arguments).await?,
        Command::ShowCells(arguments) => show(status::View::Cells, &arguments).await?,
        Command::Cell(file) => {
            let config = CellConfig::load(file.config.as_deref())?;
            let store = setup::store(&config.kvstore)?;
            let ready = |uri: &str| tracing::info!(uri, "the cell is ready");
            cell::run(cell::Settings::of(config), Arc::new(store), ready, stop).await?;
        }
    }
    Ok(())
}

async fn show(view: status::View, arguments: &status::StatusArguments) -> Result<(), AnyError> {
    let config = StoreConfig::load(arguments.file.config.as_deref())?;
    let store = setup::store(&config.kvstore)?;
    Ok(status::show(&store, view, arguments).await?)
}

/// Resolves when the process is asked to stop. The handlers are in place once this returns.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, std::io::Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

/// Lines for people on a terminal, JSON for programs otherwise.
fn start_log() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new("info"));
    if std::io::stderr().is_terminal() {
        subscriber.with_target(false).init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
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
