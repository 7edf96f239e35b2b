//! Runs reconcile again and again: at once when an operation begins, quickly while there are any, and now and then
//! otherwise, in case a change went unseen. Beside that, every half minute the next slice of all instances is compared with
//! what is there.

use std::time::Duration;

use shared::{
    broker::Broker,
    error::Error,
    keyspace,
    reconcile::{self, drift},
    store::WatchEvent,
};
use tokio::{
    join,
    time::{sleep, timeout},
};

/// Between two passes while operations are under way: clusters come up in seconds.
const BUSY: Duration = Duration::from_millis(300);
/// The same while all that is left waits for something that may take long, or etcd does not answer.
const PATIENT: Duration = Duration::from_secs(5);
/// The longest time without a pass.
const IDLE: Duration = Duration::from_secs(30);

/// Between two slices.
const SLICE: Duration = Duration::from_secs(30);

pub(super) async fn run(broker: Broker) {
    join!(operations(&broker), drift(&broker));
}

/// Half a minute after the start, not at once: cells that start with the broker take a moment to show up.
async fn drift(broker: &Broker) {
    loop {
        sleep(SLICE).await;
        if let Err(error) = drift::slice(broker).await {
            complain(&error);
        }
    }
}

fn complain(error: &Error) {
    let source = std::error::Error::source(error);
    tracing::warn!(%error, source, "reconcile could not run");
}

async fn operations(broker: &Broker) {
    let mut changes = broker.store.watch(keyspace::OPERATIONS);
    loop {
        let pause = match reconcile::operations(broker).await {
            Ok(found) if found.in_progress > 0 => BUSY,
            Ok(found) if found.waiting > 0 => PATIENT,
            Ok(_) => IDLE,
            Err(error) => {
                complain(&error);
                PATIENT
            }
        };
        if pause == BUSY {
            sleep(BUSY).await;
        } else {
            // Until an operation begins, that is. Removals are the ends of operations.
            let began = async {
                loop {
                    if let WatchEvent::Put { .. } | WatchEvent::Snapshot(_) = changes.next().await {
                        break;
                    }
                }
            };
            let _ = timeout(pause, began).await;
        }
    }
}
