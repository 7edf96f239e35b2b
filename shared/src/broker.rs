//! Everything a handler works with: the outside world behind traits, and what the configuration says.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::{
    binding::Binding,
    catalog::Catalog,
    cell_api::{NodeParameters, StartNode},
    cells::{CellClient, KnownCells},
    clock::Clock,
    database::{Databases, Door},
    decide::{Decision, Situation, dynamic_configuration},
    error::Error,
    ids::{BindingId, NodeId},
    master_keys::{DeriveError, Kind, MasterKeys, Passwords, Purpose},
    patroni_rest::PatroniClient,
    ports::PortRange,
    record::{FIRST_GENERATION, FormerCredentials, Record},
    store::Store,
};

/// What the handlers share: no state of its own, only ways to reach it.
#[derive(Clone)]
pub struct Broker {
    /// etcd.
    pub store: Arc<dyn Store>,
    /// The cells' APIs.
    pub cells: Arc<dyn CellClient>,
    /// Patroni's REST APIs.
    pub patroni: Arc<dyn PatroniClient>,
    /// The instances' PostgreSQL.
    pub databases: Arc<dyn Databases>,
    /// What moves instances on: [`decide`](mod@crate::decide).
    pub decide: fn(&Situation<'_>) -> Decision,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// What the configuration says.
    pub settings: Arc<Settings>,
}

/// What the configuration says, as far as the life of an instance depends on it.
#[derive(Debug)]
pub struct Settings {
    /// The host that clients connect to, with their instance's public port.
    pub router_hostname: String,
    /// Public ports to hand out.
    pub ports: PortRange,
    /// How long a port that was handed back stays unused.
    pub quarantine: Duration,
    /// How long a provision may take.
    pub provision_deadline: Duration,
    /// How long an update may take.
    pub update_deadline: Duration,
    /// How long a deprovision may take before it is reported as failed (it goes on all the same).
    pub deprovision_deadline: Duration,
    /// How long a request waits for the end of an operation, in the lenient posture.
    pub synchronous_wait: Duration,
    /// How long the outcome of a deprovision is kept.
    pub tombstone_ttl: Duration,
    /// How long a cell must be missing before its nodes are replaced.
    pub replace_after: Duration,
    /// What is known of cells beside their heartbeats.
    pub known_cells: KnownCells,
    /// Where passwords come from.
    pub master_keys: MasterKeys,
    /// The catalog.
    pub catalog: Catalog,
}

impl Broker {
    /// Patroni's dynamic configuration for an instance's plan.
    ///
    /// # Errors
    /// When the catalog does not hold the plan any more.
    pub fn plan_configuration(&self, record: &Record) -> Result<Map<String, Value>, Error> {
        let plan = self
            .settings
            .catalog
            .plan(&record.request.service_id, &record.request.plan_id);
        let (_, plan) = plan
            .map_err(|error| Error::Unprocessable(format!("the plan of this instance is gone: {error}")))?;
        Ok(dynamic_configuration::of_plan(&plan.cluster))
    }

    /// One of an instance's own passwords.
    ///
    /// # Errors
    /// When the instance's master key is not configured.
    pub fn password(&self, record: &Record, kind: Kind<'_>) -> Result<SecretString, DeriveError> {
        let generation = match kind {
            Kind::Bind(..) => FIRST_GENERATION,
            Kind::Superuser | Kind::Replication | Kind::Rewind | Kind::Rest => record.credential_generation,
        };
        let purpose = Purpose {
            instance: &record.instance_id,
            incarnation: record.incarnation,
            kind,
            generation,
        };
        self.settings.master_keys.derive(&record.master_key, &purpose)
    }

    /// One of an instance's own passwords, as whoever has to get in somewhere needs it: with the one before it, while not
    /// every door is known to have it.
    ///
    /// # Errors
    /// When the instance's master key is not configured.
    pub fn passwords(&self, record: &Record, kind: Kind<'_>) -> Result<Passwords, DeriveError> {
        let former = record.former_credentials.as_ref().map(|former| {
            let FormerCredentials {
                master_key,
                generation,
            } = former.clone();
            let before = Record {
                master_key,
                credential_generation: generation,
                ..record.clone()
            };
            self.password(&before, kind)
        });
        let former = former.transpose().unwrap_or_else(|error| {
            tracing::error!(instance = %record.instance_id, %error, "doors that still have the former passwords are closed to this broker");
            None
        });
        Ok(Passwords {
            current: self.password(record, kind)?,
            former,
        })
    }

    /// The password of a binding, which depends on the binding's own key.
    ///
    /// # Errors
    /// When that key is not configured.
    pub fn binding_password(
        &self,
        record: &Record,
        id: &BindingId,
        binding: &Binding,
    ) -> Result<SecretString, DeriveError> {
        let of_its_key = Record {
            master_key: binding.master_key.clone(),
            ..record.clone()
        };
        self.password(&of_its_key, Kind::Bind(id, binding.incarnation))
    }

    /// What a cell is told to run a node.
    ///
    /// # Errors
    /// When the instance's master key is not configured.
    pub fn start_request(
        &self,
        record: &Record,
        node: NodeId,
        configuration: Map<String, Value>,
    ) -> Result<StartNode, DeriveError> {
        use secrecy::ExposeSecret;
        let password = |kind| {
            self.password(record, kind)
                .map(|secret| secret.expose_secret().to_owned())
        };
        Ok(StartNode {
            service_id: record.request.service_id.clone(),
            plan_id: record.request.plan_id.clone(),
            organization_guid: record.request.organization_guid.clone(),
            space_guid: record.request.space_guid.clone(),
            parameters: NodeParameters {
                patroni_scope: record.instance_id.clone(),
                node_id: node,
                incarnation: record.incarnation,
                credential_generation: record.credential_generation,
                superuser_password: password(Kind::Superuser)?,
                replication_password: password(Kind::Replication)?,
                rewind_password: password(Kind::Rewind)?,
                restapi_password: password(Kind::Rest)?,
                patroni_config: configuration,
            },
        })
    }

    /// The way into an instance's PostgreSQL through its public port; `None` while it owns none.
    ///
    /// # Errors
    /// When the instance's master key is not configured.
    pub fn public_door(&self, record: &Record) -> Result<Option<Door>, DeriveError> {
        let Some(port) = record.port.owned() else {
            return Ok(None);
        };
        let passwords = self.passwords(record, Kind::Superuser)?;
        Ok(Some(Door {
            host: self.settings.router_hostname.clone(),
            port: port.number(),
            passwords,
        }))
    }
}
