//! Every check of [`tests::conformance`], on the real etcd and on the store in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::store::Store;
use tests::{conformance::Subject, etcd::EtcdServer, manual_clock::ManualClock, memory_store::MemoryStore};

/// etcd's clock is the machine's; it looks for what has expired twice a second.
const TICK: Duration = Duration::from_millis(700);

struct Real {
    store: Arc<dyn Store>,
    _server: EtcdServer,
}

impl Real {
    async fn start() -> Self {
        let server = EtcdServer::start().await;
        Self {
            store: Arc::new(server.client()),
            _server: server,
        }
    }
}

#[async_trait]
impl Subject for Real {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time + TICK).await;
    }
}

struct InMemory {
    store: MemoryStore,
    clock: Arc<ManualClock>,
}

impl InMemory {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::new(0));
        let store = MemoryStore::new(Arc::<ManualClock>::clone(&clock));
        Self { store, clock }
    }
}

#[async_trait]
impl Subject for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.store.tick();
    }
}

macro_rules! on_both {
    ($($check:ident,)*) => {
        mod etcd {
            $(
                #[tokio::test]
                async fn $check() {
                    tests::conformance::$check(&super::Real::start().await).await;
                }
            )*
        }

        mod memory {
            $(
                #[tokio::test]
                async fn $check() {
                    tests::conformance::$check(&super::InMemory::start().await).await;
                }
            )*
        }
    };
}

tests::for_each_check!(on_both);
