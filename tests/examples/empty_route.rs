//! The floor of what an HTTP server needs for an answer: axum with a route that answers nothing. `make bench` measures
//! local-runner against it. The address to listen on is the only argument.

use axum::{Router, routing::get};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_default();
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, Router::new().route("/", get(async || "{}\n"))).await
}
