//! Tests of the router: of the rules that make routes, and of the whole with real HAProxy and real etcd.

mod bench;
mod churn;
mod fuzz;
mod properties;
mod rules;
mod serving;
mod succession;
mod trouble;
mod view;
