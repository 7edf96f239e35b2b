//! The catalog: the services and plans on offer, as handlers look them up and as `GET /v2/catalog` publishes them
//! (osb-reference.md, 3).
//!
//! **Guarantees.** A catalog comes out of [`crate::config`] only, which has checked the rules of the specification: ids
//! and names are unique, every service has a plan. What a plan's cluster is made of ([`Cluster`]) is never published,
//! except as the schema of its parameters.

mod published;
mod schema;
#[cfg(test)]
mod tests;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ids::PlanId, record::Failover};

pub use self::published::{NEWEST_MINOR, Published};

/// All services on offer.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    services: Vec<Service>,
}

/// One service. Fields that are not described here mean what they mean in the specification.
#[derive(Debug, Clone)]
pub struct Service {
    /// Unique among all ids of the catalog, and never changed.
    pub id: String,
    /// Unique among the services: lower case letters, digits and dashes.
    pub name: String,
    /// For people who choose a service.
    pub description: String,
    /// Words by which applications find their binding.
    pub tags: Vec<String>,
    /// What the platform must permit the service.
    pub requires: Vec<Permission>,
    /// Whether instances can be bound, where the plan does not say otherwise.
    pub bindable: bool,
    /// Whether instances can be fetched.
    pub instances_retrievable: bool,
    /// Whether bindings can be fetched.
    pub bindings_retrievable: bool,
    /// Whether a change of nothing but the context is accepted.
    pub allow_context_updates: bool,
    /// Passed on to the platform as it is.
    pub metadata: Map<String, Value>,
    /// The client by which the platform signs users in to a dashboard.
    pub dashboard_client: Option<DashboardClient>,
    /// Whether instances can change their plan, where the plan does not say otherwise.
    pub plan_updateable: bool,
    /// At least one.
    pub plans: Vec<Plan>,
}

/// One plan of a service.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Unique among all ids of the catalog, and never changed.
    pub id: String,
    /// Unique within the service: lower case letters, digits and dashes.
    pub name: String,
    /// For people who choose a plan.
    pub description: String,
    /// Passed on to the platform as it is.
    pub metadata: Map<String, Value>,
    /// Whether it costs nothing.
    pub free: bool,
    /// Instead of the service's.
    pub bindable: Option<bool>,
    /// Instead of the service's.
    pub plan_updateable: Option<bool>,
    /// Whether a binding can take the place of another one.
    pub binding_rotatable: bool,
    /// JSON Schemas that the operator wrote; without any, one is made from `cluster`.
    pub schemas: Option<Schemas>,
    /// After how many seconds the platform gives an operation up.
    pub maximum_polling_duration: Option<u32>,
    /// What instances of the plan are kept at.
    pub maintenance_info: Option<MaintenanceInfo>,
    /// What an instance of the plan is made of. Not published.
    pub cluster: Cluster,
    /// How many instances may have the plan at once; `None`: as many as there is room for. Not published.
    pub quota: Option<Quota>,
}

/// How many instances may have a plan at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The plan's id, under which they are counted.
    pub plan: PlanId,
    /// The most; at least 1.
    pub max: u32,
}

/// What a service may require of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Logs of applications are sent to the service.
    SyslogDrain,
    /// Requests to applications go through the service.
    RouteForwarding,
    /// Applications get a file system from the service.
    VolumeMount,
}

/// The OAuth client of a dashboard (Cloud Foundry).
#[derive(Debug, Clone)]
pub struct DashboardClient {
    /// Unique among the services.
    pub id: String,
    /// Its secret; the catalog hands it to the platform.
    pub secret: SecretString,
    /// Where users come back to.
    pub redirect_uri: Option<String>,
}

/// What instances of a plan are kept at, so that the platform can tell that one needs an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MaintenanceInfo {
    /// A semantic version 2.0.
    pub version: String,
    /// What an upgrade to it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// JSON Schemas of parameters, draft-04 or newer, each with its `$schema` and at most 64 kB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schemas {
    /// Of a provision request.
    pub create: Option<Map<String, Value>>,
    /// Of an update request.
    pub update: Option<Map<String, Value>>,
    /// Of a bind request.
    pub bind: Option<Map<String, Value>>,
}

/// What an instance of a plan is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// How many nodes.
    pub nodes: NodeCount,
    /// For how many megabytes of memory the PostgreSQL of each node is sized; `None`: for PostgreSQL's own default.
    pub memory: Option<u32>,
    /// PostgreSQL's configuration parameters by name; each value is a text, a number or a boolean.
    pub postgresql_parameters: Map<String, Value>,
    /// Whether a commit waits for a replica (`synchronous_mode` of Patroni).
    pub synchronous: bool,
    /// What happens when the leader's processes have died and a replica could take over at once.
    pub failover: Failover,
    /// Patroni's own timing.
    pub patroni: PatroniTiming,
}

/// How many nodes an instance has: `1 <= default <= max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCount {
    /// When the user asks for no number.
    pub default: u32,
    /// The most that a user may ask for.
    pub max: u32,
}

/// Patroni's dynamic settings of the same names. `loop_wait + 2 * retry_timeout <= ttl`, which Patroni 4 enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatroniTiming {
    /// Seconds after which a silent leader has lost its place; at least 20.
    pub ttl: u32,
    /// Seconds between two looks of Patroni at the cluster; at least 1.
    pub loop_wait: u32,
    /// Seconds for which a leader goes on without etcd; at least 3.
    pub retry_timeout: u32,
    /// By how many bytes of write-ahead log a replica may be behind and still become the leader.
    pub maximum_lag_on_failover: u64,
}

/// Why a request's service and plan are not on offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOnOffer {
    /// No service has that id.
    #[error("the catalog has no service with the id '{0}'")]
    Service(String),
    /// The service exists, but none of its own plans has that id.
    #[error("the service '{service}' has no plan with the id '{plan}'")]
    Plan {
        /// The service's name.
        service: String,
        /// The id asked for.
        plan: String,
    },
}

impl Catalog {
    /// A catalog of services that keep the rules of the specification.
    #[must_use]
    pub(crate) fn new(services: Vec<Service>) -> Self {
        Self { services }
    }

    /// All services, in the order of the configuration.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// A service by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, id: &str) -> Result<&Service, NotOnOffer> {
        let mut services = self.services.iter();
        services
            .find(|service| service.id == id)
            .ok_or_else(|| NotOnOffer::Service(id.to_owned()))
    }

    /// A plan by its id, which must be one of that service.
    ///
    /// # Errors
    /// When there is no such service, or it has no such plan.
    pub fn plan(&self, service_id: &str, plan_id: &str) -> Result<(&Service, &Plan), NotOnOffer> {
        let service = self.service(service_id)?;
        let plan = service.plan(plan_id).ok_or_else(|| NotOnOffer::Plan {
            service: service.name.clone(),
            plan: plan_id.to_owned(),
        })?;
        Ok((service, plan))
    }

    /// The quota of a plan, if it is on offer and has one.
    #[must_use]
    pub fn quota(&self, service_id: &str, plan_id: &str) -> Option<&Quota> {
        let (_, plan) = self.plan(service_id, plan_id).ok()?;
        plan.quota.as_ref()
    }

    /// Whether any plan has a quota.
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        let mut plans = self.services.iter().flat_map(|service| &service.plans);
        plans.any(|plan| plan.quota.is_some())
    }

    /// The body of `GET /v2/catalog` for a platform that speaks version 2.`minor`: later fields are left out, since
    /// checkers of older versions refuse them. [`NEWEST_MINOR`] leaves nothing out.
    #[must_use]
    pub fn published(&self, minor: u16) -> Published<'_> {
        Published::new(self, minor)
    }
}

impl Service {
    /// One of its plans by id.
    #[must_use]
    pub fn plan(&self, id: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.id == id)
    }

    /// Whether instances of one of its plans can be bound.
    #[must_use]
    pub fn binds(&self, plan: &Plan) -> bool {
        plan.bindable.unwrap_or(self.bindable)
    }

    /// Whether instances of the plan with this id can change to another plan. A plan that is not on offer any more says
    /// nothing about that: the service does.
    #[must_use]
    pub fn lets_leave(&self, plan_id: &str) -> bool {
        self.plan(plan_id)
            .and_then(|plan| plan.plan_updateable)
            .unwrap_or(self.plan_updateable)
    }
}

impl Plan {
    /// The schemas that are published: the operator's, or else those of the parameters that every plan takes.
    #[must_use]
    pub fn published_schemas(&self) -> Schemas {
        self.schemas.clone().unwrap_or_else(|| schema::of(&self.cluster))
    }
}
