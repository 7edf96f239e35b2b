//! The etcd v2 client: the [`Store`](crate::store::Store) in service.
//!
//! **Guarantees.** A write is sent to a second machine only when the request to the first was certainly never
//! complete; a write whose answer was lost is `Ambiguous`, never "not done". A read is asked of every machine in turn
//! before it is `Unavailable`. No request runs without a time limit, and a call over several machines ends after twice
//! `request_timeout`. No redirect is followed, no proxy is used, no value and no password is logged.
//! A watch reports every change since its last snapshot in order, or else a new snapshot.
//! **Assumes.** All machines are members of one etcd 3.4 cluster (or of a later one that still has `--enable-v2`).
//! **Caveats.** A call blocks a thread of tokio's blocking pool until it is answered or out of time; dropping its
//! future does not stop a write that was sent. The transport below ureq is wrapped (see `meter.rs`) through ureq's
//! `unversioned` modules, which may change between minor versions.

mod answer;
mod client;
mod exchange;
mod follow;
mod meter;
mod path;
mod settings;
mod tls;
mod watch;

pub use client::Etcd;
pub use meter::Traffic;
pub use settings::{InvalidSettings, Settings};
