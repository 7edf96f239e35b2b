//! What a schedule starts: everything that nobody asks for and that has to be done all the same (design.md, 5).

use serde_json::{Value, json};
use shared::{
    error::Error,
    reconcile::{self, drift},
};

use tokio::join;

use crate::app::App;

/// Moves all operations on, and looks at the next slice of all instances. Answers what was found, in numbers.
///
/// # Errors
/// When etcd cannot be read. Whatever could be done is done; the next event begins anew.
pub async fn handle(app: &App) -> Result<Value, Error> {
    // At once: operations that wait for a cell that hangs may take all of the time there is.
    let (operations, slice) = join!(reconcile::operations(&app.broker), drift::slice(&app.broker));
    let (operations, slice) = (operations?, slice?);
    let found = json!({
        "in_progress": operations.in_progress,
        "waiting": operations.waiting,
        "checked": slice.checked,
        "mended": slice.mended,
    });
    tracing::info!(%found, "reconciled");
    Ok(found)
}
