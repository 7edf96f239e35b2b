//! A part of the stack that is kept running: etcd, a cell, the router, the broker.
//!
//! **Guarantees.** A component that ends by itself, or panics, is started again, later each time; the others are not
//! disturbed. Only its first start may fail for good, which whoever waits for it is told.
//! **Caveats.** Dropping a component lets go of it as it is, like a kill; [`Component::stop`] ends it in order.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::AnyError;

/// The wait before a component is started again: doubled each time, up to the last.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// A component that ran this long failed for a new reason.
const HEALTHY: Duration = Duration::from_secs(60);

/// A component that runs, or begins to.
#[derive(Debug)]
pub(super) struct Component {
    name: String,
    stop: watch::Sender<bool>,
    start: watch::Receiver<Start>,
    task: JoinHandle<()>,
}

/// How far the first start has come.
#[derive(Debug, Clone)]
enum Start {
    UnderWay,
    /// Ready, and what there is to say about it.
    Ready(String),
    /// With all its reasons.
    Failed(String),
}

/// A component cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotStarted(String);

/// How a component says that it is ready.
#[derive(Debug, Clone)]
pub(super) struct Ready(watch::Sender<Start>);

impl Ready {
    /// It is; `text` says what it is like.
    pub(super) fn with(&self, text: impl Into<String>) {
        self.0.send_replace(Start::Ready(text.into()));
    }
}

/// How a component is told to stop.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until it is told. Cancel-safe.
    pub(super) async fn told(mut self) {
        // A sender that is gone means that nobody waits for the component any more; its task is being aborted.
        if self.0.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn is_told(&self) -> bool {
        *self.0.borrow()
    }
}

impl Component {
    /// Runs a component: `run` is called for every start of it, and returns when it was told to stop, or has failed.
    pub(super) fn start<R>(
        name: impl Into<String>,
        mut run: impl FnMut(Ready, Stop) -> R + Send + 'static,
    ) -> Self
    where
        R: Future<Output = Result<(), AnyError>> + Send + 'static,
    {
        let name = name.into();
        let (stop, told) = watch::channel(false);
        let (started, start) = watch::channel(Start::UnderWay);
        let (told, ready) = (Stop(told), Ready(started));
        let component = name.clone();
        let task = tokio::spawn(async move {
            let mut delay = FIRST_DELAY;
            loop {
                let since = Instant::now();
                let Some(trouble) = end_of(run(ready.clone(), told.clone())).await else {
                    return;
                };
                if told.is_told() {
                    tracing::error!(component, trouble, "the component failed while it stopped");
                    return;
                }
                let was_ready = matches!(*ready.0.borrow(), Start::Ready(_));
                if !was_ready {
                    ready.0.send_replace(Start::Failed(trouble));
                    return;
                }
                if since.elapsed() >= HEALTHY {
                    delay = FIRST_DELAY;
                }
                tracing::error!(
                    component,
                    trouble,
                    "the component failed; starting it again in {} s",
                    delay.as_secs()
                );
                tokio::select! {
                    () = sleep(delay) => (),
                    () = told.clone().told() => return,
                }
                delay = (delay * 2).min(LAST_DELAY);
            }
        });
        Self {
            name,
            stop,
            start,
            task,
        }
    }

    /// Waits until it is ready; answers what there is to say about it. Cancel-safe.
    ///
    /// # Errors
    /// When it could not be started.
    pub(super) async fn ready(&mut self) -> Result<String, NotStarted> {
        let ended = || NotStarted(format!("{} ended before it was ready", self.name));
        let start = self
            .start
            .wait_for(|start| !matches!(start, Start::UnderWay))
            .await
            .map_err(|_| ended())?;
        match &*start {
            Start::Ready(text) => Ok(text.clone()),
            Start::Failed(trouble) => Err(NotStarted(trouble.clone())),
            Start::UnderWay => Err(ended()),
        }
    }

    /// Tells it to stop, and waits until it has. Cancel-safe.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        if !self.task.is_finished() {
            // It handles its own panics; an abort is what was wanted.
            let _ = (&mut self.task).await;
        }
    }

    /// Lets go of it as it is, like a kill. It is not started again; what runs of it ends with its next step.
    pub(super) async fn kill(&mut self) {
        self.task.abort();
        if !self.task.is_finished() {
            // It was aborted.
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for the end of a run; answers what was wrong with it.
async fn end_of(run: impl Future<Output = Result<(), AnyError>> + Send + 'static) -> Option<String> {
    // A task of its own, since it may panic; it goes with this one when this one is aborted.
    let mut task = JoinSet::new();
    task.spawn(run);
    match task.join_next().await {
        Some(Ok(Ok(()))) | None => None,
        Some(Ok(Err(error))) => Some(crate::chain(&*error)),
        Some(Err(error)) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_or_panics_later_is_started_again() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let mut component = Component::start("x", move |ready, stop| {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                ready.with("well");
                match number {
                    0 => Err("oh".into()),
                    1 => panic!("ah"),
                    _ => {
                        stop.told().await;
                        Ok(())
                    }
                }
            }
        });
        assert_eq!(component.ready().await.unwrap(), "well");
        while starts.load(Ordering::SeqCst) < 3 {
            sleep(Duration::from_millis(100)).await;
        }
        component.stop().await;
        component.stop().await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_first_start_that_fails_is_reported() {
        let mut component = Component::start("x", |_, _| async { Err("no such thing".into()) });
        assert_eq!(component.ready().await.unwrap_err().to_string(), "no such thing");
        component.stop().await;
        let mut component = Component::start("x", |_, _| async { Ok(()) });
        assert_eq!(
            component.ready().await.unwrap_err().to_string(),
            "x ended before it was ready"
        );
    }

    #[tokio::test]
    async fn a_component_that_was_killed_is_let_go_of() {
        let held = Arc::new(());
        let lent = Arc::clone(&held);
        let mut component = Component::start("x", move |ready, _| {
            let lent = Arc::clone(&lent);
            async move {
                ready.with("");
                std::future::pending::<()>().await;
                drop(lent);
                Ok(())
            }
        });
        component.ready().await.unwrap();
        component.kill().await;
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        component.stop().await;
    }

    #[tokio::test]
    async fn a_component_is_stopped_while_it_starts() {
        let mut component = Component::start("x", |_, stop| async {
            stop.told().await;
            Ok(())
        });
        component.stop().await;
    }
}
