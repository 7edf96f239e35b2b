//! The catalog as JSON: exactly the fields of the specification, in its order.

use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Catalog, DashboardClient, MaintenanceInfo, Permission, Plan, Schemas, Service};

/// The minor version of the newest specification that the catalog knows the fields of: 2.17.
pub const NEWEST_MINOR: u16 = 17;

/// The body of `GET /v2/catalog`.
#[derive(Debug, Serialize)]
pub struct Published<'a> {
    services: Vec<PublishedService<'a>>,
}

#[derive(Debug, Serialize)]
struct PublishedService<'a> {
    name: &'a str,
    id: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    requires: &'a [Permission],
    bindable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances_retrievable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bindings_retrievable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_context_updates: Option<bool>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dashboard_client: Option<PublishedClient<'a>>,
    plan_updateable: bool,
    plans: Vec<PublishedPlan<'a>>,
}

#[derive(Serialize)]
struct PublishedClient<'a> {
    id: &'a str,
    /// The platform needs it; the catalog is answered to authenticated requests only.
    secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<&'a str>,
}

impl std::fmt::Debug for PublishedClient<'_> {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishedClient")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize)]
struct PublishedPlan<'a> {
    id: &'a str,
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
    free: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bindable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_rotatable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_updateable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemas: Option<PublishedSchemas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_polling_duration: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance_info: Option<&'a MaintenanceInfo>,
}

#[derive(Debug, Serialize)]
struct PublishedSchemas {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_instance: Option<InstanceSchemas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_binding: Option<BindingSchemas>,
}

#[derive(Debug, Serialize)]
struct InstanceSchemas {
    #[serde(skip_serializing_if = "Option::is_none")]
    create: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<Parameters>,
}

#[derive(Debug, Serialize)]
struct BindingSchemas {
    create: Parameters,
}

#[derive(Debug, Serialize)]
struct Parameters {
    parameters: Map<String, Value>,
}

impl<'a> Published<'a> {
    pub(super) fn new(catalog: &'a Catalog, minor: u16) -> Self {
        let services = catalog.services.iter().map(|it| service(it, minor)).collect();
        Self { services }
    }
}

fn service(service: &Service, minor: u16) -> PublishedService<'_> {
    PublishedService {
        name: &service.name,
        id: &service.id,
        description: &service.description,
        tags: &service.tags,
        requires: &service.requires,
        bindable: service.bindable,
        instances_retrievable: (minor >= 14).then_some(service.instances_retrievable),
        bindings_retrievable: (minor >= 14).then_some(service.bindings_retrievable),
        allow_context_updates: (minor >= 15).then_some(service.allow_context_updates),
        metadata: &service.metadata,
        dashboard_client: service.dashboard_client.as_ref().map(client),
        plan_updateable: service.plan_updateable,
        plans: service.plans.iter().map(|it| plan(it, minor)).collect(),
    }
}

fn client(client: &DashboardClient) -> PublishedClient<'_> {
    PublishedClient {
        id: &client.id,
        secret: client.secret.expose_secret(),
        redirect_uri: client.redirect_uri.as_deref(),
    }
}

fn plan(plan: &Plan, minor: u16) -> PublishedPlan<'_> {
    let since_15 = minor >= 15;
    PublishedPlan {
        id: &plan.id,
        name: &plan.name,
        description: &plan.description,
        metadata: &plan.metadata,
        free: plan.free,
        bindable: plan.bindable,
        binding_rotatable: (minor >= 17).then_some(plan.binding_rotatable),
        plan_updateable: plan.plan_updateable.filter(|_| since_15),
        schemas: (minor >= 13).then(|| schemas(plan.published_schemas())).flatten(),
        maximum_polling_duration: plan.maximum_polling_duration.filter(|_| since_15),
        maintenance_info: plan.maintenance_info.as_ref().filter(|_| since_15),
    }
}

fn schemas(schemas: Schemas) -> Option<PublishedSchemas> {
    let parameters = |parameters| Parameters { parameters };
    let create = schemas.create.map(parameters);
    let update = schemas.update.map(parameters);
    let service_instance =
        (create.is_some() || update.is_some()).then_some(InstanceSchemas { create, update });
    let service_binding = schemas.bind.map(|bind| BindingSchemas {
        create: parameters(bind),
    });
    (service_instance.is_some() || service_binding.is_some()).then_some(PublishedSchemas {
        service_instance,
        service_binding,
    })
}
