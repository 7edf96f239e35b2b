//! Work that blocks (the process table, files), away from the threads of the async runtime.

use std::io;

use tokio::task::spawn_blocking;

/// Does it on a thread of its own. It goes on when nobody waits for it any more.
///
/// # Errors
/// Its own, and when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await?
}
