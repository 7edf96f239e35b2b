//! Which endpoint answers which request. Whoever hosts the handlers takes the routes from here.

#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;
use lambda_http::Request;
use shared::error::Error;

use crate::{
    app::App, bind, catalog, deprovision, fetch_binding, fetch_instance, last_binding_operation,
    last_operation, provision, response::Success, unbind, update,
};

type Handler = for<'r> fn(&'r App, &'r Request) -> BoxFuture<'r, Result<Success, Error>>;

/// One endpoint.
pub struct Route {
    /// Its name, which is also that of its binary.
    pub name: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The path, with parameters in braces.
    pub path: &'static str,
    handler: Handler,
}

impl Route {
    /// Has a request handled that was let in.
    pub(crate) fn handle<'r>(
        &self,
        app: &'r App,
        request: &'r Request,
    ) -> BoxFuture<'r, Result<Success, Error>> {
        (self.handler)(app, request)
    }
}

macro_rules! route {
    ($name:ident, $module:ident, $method:literal, $path:literal) => {
        /// The route of the endpoint of the same name.
        pub static $name: Route = Route {
            name: stringify!($module),
            method: $method,
            path: $path,
            handler: |app, request| Box::pin($module::handle(app, request)),
        };
    };
}

route!(CATALOG, catalog, "GET", "/v2/catalog");
route!(PROVISION, provision, "PUT", "/v2/service_instances/{instance_id}");
route!(
    FETCH_INSTANCE,
    fetch_instance,
    "GET",
    "/v2/service_instances/{instance_id}"
);
route!(UPDATE, update, "PATCH", "/v2/service_instances/{instance_id}");
route!(
    DEPROVISION,
    deprovision,
    "DELETE",
    "/v2/service_instances/{instance_id}"
);
route!(
    LAST_OPERATION,
    last_operation,
    "GET",
    "/v2/service_instances/{instance_id}/last_operation"
);
route!(
    BIND,
    bind,
    "PUT",
    "/v2/service_instances/{instance_id}/service_bindings/{binding_id}"
);
route!(
    FETCH_BINDING,
    fetch_binding,
    "GET",
    "/v2/service_instances/{instance_id}/service_bindings/{binding_id}"
);
route!(
    UNBIND,
    unbind,
    "DELETE",
    "/v2/service_instances/{instance_id}/service_bindings/{binding_id}"
);

route!(
    LAST_BINDING_OPERATION,
    last_binding_operation,
    "GET",
    "/v2/service_instances/{instance_id}/service_bindings/{binding_id}/last_operation"
);

/// All endpoints.
pub static ALL: [&Route; 10] = [
    &CATALOG,
    &PROVISION,
    &FETCH_INSTANCE,
    &UPDATE,
    &DEPROVISION,
    &LAST_OPERATION,
    &BIND,
    &FETCH_BINDING,
    &UNBIND,
    &LAST_BINDING_OPERATION,
];
