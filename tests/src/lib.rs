//! The harness: real servers on ports of their own, and waiting for conditions.

// A harness reports to whoever runs the tests: it panics with what went wrong, and prints.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

pub mod binaries;
pub mod canned;
pub mod child;
pub mod conformance;
pub mod etcd;
pub mod exposition;
pub mod faults;
pub mod functions;
pub mod fuzz;
pub mod gateway;
pub mod instance;
pub mod keys;
pub mod load;
mod locks;
pub mod log_lines;
pub mod manual_clock;
pub mod measure;
pub mod memory_store;
pub mod network;
pub mod osb;
pub mod patroni;
pub mod pki;
pub mod population;
pub mod ports;
pub mod prober;
pub mod processes;
pub mod proxy;
pub mod psql;
pub mod raw;
pub mod readme;
pub mod request_log;
pub mod runtime_api;
pub mod simulation;
pub mod stack;
pub mod visitor;
pub mod wait;
pub mod writer;
