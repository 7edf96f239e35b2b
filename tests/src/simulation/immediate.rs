//! Futures that never wait.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

/// The answer of a future that has it at once, as all of a [`super::Ground`] have.
///
/// # Panics
/// When it has to wait.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a world's store never waits"),
    }
}

/// Lets others run.
pub(super) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        // Combinators poll only what asked for it.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
