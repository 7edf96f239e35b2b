//! Every check of [`tests::conformance`], on the real etcd.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::store::Store;
use tests::{conformance::Subject, etcd::EtcdServer};

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

macro_rules! on_etcd {
    ($($check:ident,)*) => {
        mod etcd {
            $(
                #[tokio::test]
                async fn $check() {
                    tests::conformance::$check(&super::Real::start().await).await;
                }
            )*
        }
    };
}

tests::for_each_check!(on_etcd);
