//! Tests of the router: of the rules that make routes, and of the whole with real HAProxy and real etcd.

mod bench;
mod properties;
mod rules;
mod serving;
mod trouble;
mod view;
