//! What every part of the Patroni broker shares.

pub mod cell_api;
pub mod clock;
pub mod cluster;
pub mod decide;
pub mod effect;
pub mod etcd;
pub mod ids;
pub mod keyspace;
pub mod master_keys;
pub mod record;
pub mod store;
