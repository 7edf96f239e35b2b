//! What every part of the Patroni broker shares.

pub mod ids;
pub mod keyspace;
pub mod record;
pub mod store;
