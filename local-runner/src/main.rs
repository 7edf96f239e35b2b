//! Hosts every handler, and runs the cells and the router that the handlers need.

mod router;

use std::{process::ExitCode, sync::Arc};

use shared::etcd::Etcd;

/// `local-runner router <etcd URL> <state directory> <bind address>`, until the command line is there.
#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, etcd, directory, address] = arguments.as_slice() else {
        return ExitCode::FAILURE;
    };
    let (Ok(store), Ok(bind_address), "router") = (
        Etcd::new(&shared::etcd::Settings::new(vec![etcd.clone()])),
        address.parse(),
        command.as_str(),
    ) else {
        return ExitCode::FAILURE;
    };
    let settings = router::Settings {
        bind_address,
        haproxy: "/usr/sbin/haproxy".into(),
        state_directory: directory.into(),
        max_connections: 4000,
    };
    match router::Router::start(settings, Arc::new(store)).await {
        Ok(router) => {
            let mut ready = router.ready();
            tokio::spawn(async move {
                if ready.wait_for(|ready| *ready).await.is_ok() {
                    tracing::info!("the router is ready");
                }
            });
            router
                .run(async {
                    if let Err(error) = tokio::signal::ctrl_c().await {
                        tracing::error!(%error, "no signal can be received");
                    }
                })
                .await;
            ExitCode::SUCCESS
        }
        Err(router::RouterError::Busy { path }) => {
            tracing::error!(path = %path.display(), "another router is running");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(%error, "the router cannot start");
            ExitCode::FAILURE
        }
    }
}
