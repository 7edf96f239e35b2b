//! What operators look at: `service-status` and `show-cells`, in the original's lines or as JSON or a table.
//!
//! **Guarantees.** Each look costs two requests to etcd, however many instances there are, and nothing that stands in
//! etcd makes it fail: what cannot be understood is shown as `unknown`. With `--watch`, an etcd that is away for a moment
//! does not end it.
//! **Caveats.** The reads may be a moment behind (they are not decided on).

mod cells;
mod output;
mod services;

use std::{
    io::{Write, stderr},
    time::Duration,
};

use clap::{Args, ValueEnum};
use shared::{
    config::Backend,
    store::{Store, StoreError},
};
use tokio::time::sleep;

use self::output::Sheet;
use crate::cli::ConfigFile;

/// Between two looks with `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Lines)]
    output: Output,
    /// Look again every two seconds, until interrupted.
    #[arg(long)]
    watch: bool,
}

/// The forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The original's lines, for scripts.
    Lines,
    /// A JSON array, with everything that is known.
    Json,
    /// A table for people, with everything that is known.
    Table,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The members of all clusters.
    Services,
    /// All cells.
    Cells,
}

/// Why a status could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    /// etcd could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output could not be written.
    #[error("the output cannot be written")]
    Write(#[from] std::io::Error),
}

/// Shows a view once, or again and again. The `backends` are cells that are known by configuration.
///
/// # Errors
/// When etcd cannot be read the first time, or the output cannot be written.
pub(crate) async fn show(
    store: &dyn Store,
    backends: &[Backend],
    view: View,
    arguments: &StatusArguments,
) -> Result<(), StatusError> {
    let look = async || match view {
        View::Services => services::sheet(store).await,
        View::Cells => cells::sheet(store, backends).await,
    };
    let print = |sheet: &Sheet| output::print(sheet, arguments.output, arguments.watch);
    print(&look().await?)?;
    if !arguments.watch {
        return Ok(());
    }
    loop {
        sleep(PAUSE).await;
        match look().await {
            Ok(sheet) => print(&sheet)?,
            // Standard error may be closed; it looks again all the same.
            Err(error) => drop(writeln!(stderr().lock(), "looking again: {error}")),
        }
    }
}
