//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use shared::ids::{CellGuid, InstanceId};

use crate::{status::StatusArguments, up};

/// Highly available PostgreSQL on demand: an Open Service Broker, its cells and its router.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: etcd, cells, the router and the broker. Ctrl-C stops it; the data stays.
    Up(up::Options),
    /// Show it all at work, from the first node to the last trace, and check it: takes a minute or two, leaves nothing.
    Demo,
    /// Serve the Open Service Broker API.
    Broker(ConfigFile),
    /// Run Patroni nodes on this machine.
    Cell(ConfigFile),
    /// Keep HAProxy pointing every public port at the leader of its instance.
    Router(ConfigFile),
    /// Show the members of all clusters: <id> <host:port> <role> <state>.
    ServiceStatus(StatusArguments),
    /// Show how many nodes each cell holds: <count> <guid>.
    ShowCells(StatusArguments),
    /// Declare that a cell, with all data on it, will never come back. Refused while it sends heartbeats.
    ///
    /// Deprovisions and removals of nodes do not wait for the cell any more, and its nodes are replaced on other cells where
    /// their cluster has a leader. Should the cell come back all the same, the declaration is void; nodes that counted as
    /// gone are deleted from it.
    DeclareCellDestroyed(DestroyedCell),
    /// Make an instance anew whose every copy is lost: empty, at the same port, with the logins that it had.
    ///
    /// Refused unless that is certain: of each node, the cell was declared destroyed, or runs and says itself that it does not
    /// hold the node. Waits for the end; given again meanwhile, it joins. A copy that turns up later is removed.
    Recreate(LostInstance),
    /// Give nodes and the broker itself other passwords, of the first master key. Bindings keep theirs.
    ///
    /// With --all, every instance whose passwords are of another key. Waits for the end; given again meanwhile, it joins. The
    /// bindings that depend on another key still are named.
    RotateCredentials(RotatedInstances),
    /// Print everything that etcd alone knows, as JSON: records, bindings, ports. No secret is in it.
    Export(ConfigFile),
    /// Write an export into an etcd that has lost everything. Nothing is overwritten; stop the brokers first.
    Import(ImportArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// What `export` printed.
    #[arg(value_name = "EXPORT")]
    pub(crate) export: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DestroyedCell {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The cell's guid, as `show-cells` prints it.
    pub(crate) guid: CellGuid,
}

#[derive(Debug, Args)]
pub(crate) struct LostInstance {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The instance's id.
    pub(crate) instance: InstanceId,
}

#[derive(Debug, Args)]
pub(crate) struct RotatedInstances {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The instances' ids.
    #[arg(value_name = "INSTANCE", required_unless_present = "all")]
    pub(crate) instances: Vec<InstanceId>,
    /// All instances whose passwords are of another key than the first.
    #[arg(long, conflicts_with = "instances")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration; otherwise the file that PATRONI_BROKER_CONFIG names.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
