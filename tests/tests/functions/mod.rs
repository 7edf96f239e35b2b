//! The handlers as they are deployed: each a binary behind the Lambda runtime API and a gateway, configured by its
//! environment alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod alone;
mod interruptions;
mod life;
mod local_gateway;
mod logs;
