//! Runs the Patroni broker, its cells and its router.

mod cell;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use shared::{etcd, ids::CellGuid};
use tokio::signal::unix::{SignalKind, signal};

/// A cell by flags only, until the real command line is here.
#[derive(Parser)]
enum Command {
    /// Runs Patroni nodes.
    Cell(CellFlags),
}

#[derive(clap::Args)]
struct CellFlags {
    #[arg(long)]
    guid: CellGuid,
    #[arg(long)]
    address: IpAddr,
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[arg(long, default_value = "z1")]
    availability_zone: String,
    #[arg(long)]
    data_directory: PathBuf,
    #[arg(long, default_value_t = 20)]
    capacity: u32,
    #[arg(long, default_value_t = 15000)]
    first_port: u16,
    #[arg(long)]
    username: String,
    #[arg(long, env = "CELL_PASSWORD", hide_env_values = true)]
    password: String,
    #[arg(long, default_value = "/usr/bin/patroni")]
    patroni: String,
    #[arg(long = "etcd", required = true)]
    machines: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Command::Cell(flags) = Command::parse();
    match run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the cell ended");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: CellFlags) -> Result<(), Box<dyn std::error::Error>> {
    let store = etcd::Etcd::new(&etcd::Settings::new(flags.machines.clone()))?;
    let settings = cell::Settings {
        guid: flags.guid,
        address: flags.address,
        host: flags.address.to_string(),
        api_port: flags.port,
        availability_zone: flags.availability_zone,
        data_directory: flags.data_directory,
        capacity: flags.capacity,
        username: flags.username,
        password: flags.password.into(),
        first_port: flags.first_port,
        heartbeat_ttl: cell::HEARTBEAT_TTL,
        patroni: cell::PatroniSettings {
            command: vec![flags.patroni],
            ..cell::PatroniSettings::default()
        },
        etcd: cell::EtcdAccess {
            machines: flags.machines,
            ..cell::EtcdAccess::default()
        },
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    Ok(cell::run(settings, Arc::new(store), |_| (), stop).await?)
}
