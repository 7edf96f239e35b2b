//! A handler that panics: its client gets an answer, and the next request is handled as if nothing had happened.
//!
//! **Assumes.** Handlers keep nothing between requests that a panic could leave half changed.

use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use shared::error::{Error, Panic};

/// What the work comes to, if need be the error that it has panicked.
pub(crate) async fn caught<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|panic| Err(Panic(text(&*panic)).into()))
}

/// `panic!` with arguments makes a `String`, without them a `&str`.
fn text(panic: &(dyn Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    let text = owned.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "without a word".to_owned())
}
