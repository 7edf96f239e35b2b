//! `up`: everything on one machine, for a person at a terminal.

mod blueprint;
mod component;
mod error;
mod etcd;
mod facts;
mod ports;
mod processes;
mod settings;
mod stack;
mod state_directory;

use std::{net::Ipv4Addr, path::PathBuf};

use clap::Args;

use self::stack::MOST_CELLS;
pub(crate) use self::{
    error::UpError,
    facts::{Example, Facts},
    settings::Settings,
    stack::{Stack, clear},
    state_directory::StateDirectory,
};
use crate::{interrupts::Interrupts, log, steps::Steps};

/// The options of `up`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many cells, one for each loopback address from 127.0.0.2 on.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_CELLS)))]
    cells: u8,
    /// The broker's port on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 8888, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// etcd's port on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 4001, value_parser = clap::value_parser!(u16).range(1..))]
    etcd_port: u16,
    /// Where everything is kept; by default /var/lib/patroni-broker/up for root, otherwise
    /// .local/state/patroni-broker in the user's home.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Take users, catalog, deadlines and the cells' settings from this file in place of the built-in
    /// config/bosh-lite.example.yml. Addresses and the master key are not taken from it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl From<Options> for Settings {
    fn from(options: Options) -> Self {
        Self {
            state_directory: options.state_dir.unwrap_or_else(state_directory::default_path),
            config: options.config,
            cells: options.cells,
            address: Ipv4Addr::LOCALHOST,
            port: options.port,
            etcd_port: options.etcd_port,
            cell_port: None,
            public_ports: None,
        }
    }
}

/// Runs everything until the process is asked to stop.
///
/// # Errors
/// When it cannot be started; what was started is stopped again.
pub(crate) async fn run(options: Options, mut interrupts: Interrupts) -> Result<(), UpError> {
    let steps = Steps::new();
    let mut stack = Stack::prepare(options.into()).await?;
    let facts = stack.facts().clone();
    log::to_file(&facts.log).map_err(|source| UpError::System {
        doing: "opening the log",
        source,
    })?;
    tracing::info!(directory = %facts.state_directory.display(), "up begins");
    let outcome = tokio::select! {
        outcome = stack.start(steps) => Some(outcome),
        () = interrupts.next() => None,
    };
    if let Some(Ok(())) = outcome {
        for cell in stack.idle_cells() {
            steps.line(&format!(
                "! Cell {cell} of an earlier start has nodes, which stay down: --cells {cell} or more brings them up."
            ));
        }
        welcome(steps, &facts, stack.instances().await);
        interrupts.next().await;
    }
    let step = steps.begin("stopping everything (Ctrl-C again: at once)");
    let by_force = stack.stop(interrupts.next()).await?;
    step.done(if by_force {
        "killed everything; the data stays"
    } else {
        "stopped everything; the data stays"
    });
    tracing::info!(by_force, "up ends");
    outcome.unwrap_or(Ok(()))
}

fn welcome(steps: Steps, facts: &Facts, instances: Option<usize>) {
    let found = match instances {
        None | Some(0) => String::new(),
        Some(1) => "1 instance is here from before and comes up.\n".to_owned(),
        Some(count) => format!("{count} instances are here from before and come up.\n"),
    };
    let (directory, log) = (facts.state_directory.display(), facts.log.display());
    let mut text = format!(
        "\n{found}State: {directory}   log (JSON): {log}\n\n  export BROKER_URI={}\n",
        facts.broker_uri()
    );
    if let Some(Example {
        service_id, plan_id, ..
    }) = &facts.example
    {
        let body = format!(r#"'{{"service_id":"{service_id}","plan_id":"{plan_id}"}}'"#);
        let instance = "$BROKER_URI/v2/service_instances/first";
        text += &format!(
            "  curl -X PUT {instance} \\\n    -d {body}\n  curl -X PUT {instance}/service_bindings/me \\\n    -d {body}\n"
        );
    }
    text += &format!(
        "  PATRONI_BROKER_KVSTORE_MACHINES={} local-runner service-status\n",
        facts.etcd
    );
    steps.line(&format!("{text}\nCtrl-C stops everything; the data stays."));
}
