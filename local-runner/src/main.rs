//! Hosts the broker's handlers behind one HTTP port, and runs the cells and the router that they need.

mod broker;
mod cell;
mod cli;
mod durable;
mod interrupts;
mod log;
mod port_holder;
mod process;
mod steps;
mod up;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use cli::{Command, CommandLine};
use interrupts::Interrupts;
use shared::{
    config::{CellConfig, Config},
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
    let interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(error) => return complain(&error),
    };
    match command {
        Command::Up(options) => match up::run(options, interrupts).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        },
        service => {
            log::to_stderr();
            match serve(service, interrupts).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("{}", chain(&*error));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Runs one part of the broker, as a system's service.
async fn serve(command: Command, mut interrupts: Interrupts) -> Result<(), AnyError> {
    let stop = async move { interrupts.next().await };
    match command {
        Command::Broker(file) => {
            let config = Config::load(file.config.as_deref())?;
            broker::BrokerServer::open(config).await?.serve(stop).await?;
        }
        Command::Cell(file) => {
            let config = CellConfig::load(file.config.as_deref())?;
            let store = setup::store(&config.kvstore)?;
            cell::run(cell::Settings::of(config), Arc::new(store), |_| (), stop).await?;
        }
        Command::Up(_) => {}
    }
    Ok(())
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
