//! An HTTP port, the broker's or a cell's: connections, and how long each may take.
//!
//! **Guarantees.** A client that sends slowly or nothing, or does not read what it is answered, holds a connection for
//! seconds and nothing else (how long a body may take is the router's business); connections beyond the limit wait until one is free. When the server is told to stop, requests
//! that are under way are finished first.

mod taken;
mod tls;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::taken::Taken;
pub(crate) use self::tls::Certificate;

/// How long a client may take for a TLS handshake, and for the head of a request, the first as well as the next one on a
/// connection.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to receive what it is answered, once that has to wait for it.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The largest head of a request.
const HEAD_LIMIT: usize = 64 * 1024;
/// How many connections may be open at once.
const CONNECTIONS: usize = 1024;
/// After a connection could not be accepted, which happens when file descriptors are used up.
const BREATHER: Duration = Duration::from_millis(100);
/// How long requests that are under way may take when the server is told to stop. What they do is safe to leave.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(BREATHER).await;
                    continue;
                }
            };
            let (certificate, router, stopped) = (certificate.clone(), router.clone(), stopped.clone());
            connections.spawn(async move {
                connection(stream, certificate, router, stopped).await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    drop(listener);
    stopping.send_replace(true);
    // Dropping the set ends what is left.
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_REQUESTS, ended).await.is_err() {
        tracing::warn!("requests were under way when the server stopped");
    }
}

async fn connection(
    stream: TcpStream,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    stopped: watch::Receiver<bool>,
) {
    let stream = Taken::new(stream, ANSWER_TIME);
    let Some(certificate) = certificate else {
        return requests(stream, router, stopped).await;
    };
    match timeout(HEAD_TIME, certificate.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, router, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let told_to_stop = async { drop(stopped.wait_for(|stopping| *stopping).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
