//! The endpoints of the Open Service Broker API: each a function of an [`App`](app::App) and a request, and a binary of its own.
//!
//! A handler decodes the request, makes one call into `shared`, and encodes the answer. What all of them have in common
//! (who may call, which version, how errors look) is in [`front_door`]; which paths there are is in [`routes`].

pub mod app;
pub mod bind;
pub mod catalog;
pub mod deprovision;
mod embedded_metrics;
pub mod fetch_binding;
pub mod fetch_instance;
pub mod front_door;
pub mod function;
pub mod last_binding_operation;
pub mod last_operation;
pub mod provision;
pub mod reconcile;
pub mod request;
pub mod response;
pub mod routes;
pub mod unbind;
pub mod update;
