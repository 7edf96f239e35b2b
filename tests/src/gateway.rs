//! An API gateway: HTTP requests as events of functions, and what functions answer as HTTP.

mod call;
mod server;

pub use self::{
    call::{Call, Format},
    server::Gateway,
};
