//! What every part of the Patroni broker shares. Knows no HTTP server and no command line.
//!
//! The life of an instance: [`record`] (the truth), [`cluster`] (what Patroni says), [`decide`] (what follows), [`effect`]
//! (what is then done), [`advance`] (one pass through all of it).

pub mod act;
pub mod advance;
pub mod basic_auth;
pub mod binding;
pub mod broker;
pub mod catalog;
pub mod cell_api;
pub mod cells;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod database;
pub mod decide;
pub mod effect;
pub mod error;
pub mod etcd;
pub mod export;
pub mod ids;
pub mod keyspace;
pub mod marker;
pub mod master_keys;
pub mod parameters;
pub mod patroni_rest;
pub mod ports;
pub mod quota;
pub mod reconcile;
pub mod record;
pub mod roll;
pub mod service;
pub mod setup;
pub mod store;
pub mod transition;
