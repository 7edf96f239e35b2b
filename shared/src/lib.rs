//! What every part of the Patroni broker shares.

pub mod catalog;
pub mod cell_api;
pub mod config;
pub mod ids;
pub mod keyspace;
pub mod master_keys;
pub mod record;
pub mod store;
