//! What a schedule starts: everything that nobody asks for and that has to be done all the same (design.md, 5).

use serde::Serialize;
use shared::{
    error::Error,
    reconcile::{self, drift},
};

use tokio::join;

use crate::app::App;

/// What a run has found, in numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Found {
    /// Operations under way.
    pub in_progress: usize,
    /// Instances that wait for something that may take long.
    pub waiting: usize,
    /// How many instances were compared with their records.
    pub checked: usize,
    /// How many things differed and were mended.
    pub mended: usize,
}

impl Found {
    /// The same by name.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("in_progress", self.in_progress),
            ("waiting", self.waiting),
            ("checked", self.checked),
            ("mended", self.mended),
        ]
    }
}

/// Moves all operations on, and looks at the next slice of all instances.
///
/// # Errors
/// When etcd cannot be read. Whatever could be done is done; the next event begins anew.
pub async fn handle(app: &App) -> Result<Found, Error> {
    // At once: operations that wait for a cell that hangs may take all of the time there is.
    let (operations, slice) = join!(reconcile::operations(&app.broker), drift::slice(&app.broker));
    let (operations, slice) = (operations?, slice?);
    let found = Found {
        in_progress: operations.in_progress,
        waiting: operations.waiting,
        checked: slice.checked,
        mended: slice.mended,
    };
    let Found {
        in_progress,
        waiting,
        checked,
        mended,
    } = found;
    tracing::info!(in_progress, waiting, checked, mended, "reconciled");
    Ok(found)
}
