//! `GET /v2/service_instances/:id`: what an instance is (osb-reference.md, 5).

use serde_json::{Map, Value};

use crate::{
    advance::{Current, read_record},
    broker::Broker,
    error::Error,
    ids::InstanceId,
    record::{OperationKind, OperationState, Record, State},
};

/// An instance as its platform asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its service.
    pub service_id: String,
    /// Its plan.
    pub plan_id: String,
    /// Its parameters as they were given; those of updates are laid over those of the provision.
    pub parameters: Map<String, Value>,
    /// The version of the plan's `maintenance_info` that it is at, if the plan had any.
    pub maintenance_version: Option<String>,
}

/// Reads an instance.
///
/// # Errors
/// `NotFound` when there is none, also while it is being made or taken away, and when making it has failed;
/// `Concurrency` while it is being updated.
pub async fn fetch_instance(broker: &Broker, id: &InstanceId) -> Result<Instance, Error> {
    let Some(Current { record, .. }) = read_record(broker, id).await? else {
        return Err(Error::NotFound("there is no such instance".to_owned()));
    };
    check_stands(&record)?;
    let request = record.known_request();
    Ok(Instance {
        service_id: request.service_id,
        plan_id: request.plan_id,
        parameters: request.parameters,
        maintenance_version: record.known_maintenance_version().map(str::to_owned),
    })
}

fn check_stands(record: &Record) -> Result<(), Error> {
    let not_found = |why: &str| Err(Error::NotFound(format!("the instance {why}")));
    if record.state == State::Deleting {
        return not_found("is being deprovisioned");
    }
    let under_way = record.operation.as_ref().map(|operation| operation.kind);
    let last = record.last_operation.as_ref();
    match under_way {
        Some(OperationKind::Provision) => not_found("is still being made"),
        Some(OperationKind::Update) => Err(Error::Concurrency("the instance is being updated".to_owned())),
        Some(OperationKind::Recreate) => {
            Err(Error::Concurrency("the instance is being made anew".to_owned()))
        }
        _ if last.is_some_and(|last| {
            last.kind == OperationKind::Provision && last.state == OperationState::Failed
        }) =>
        {
            not_found("was never made completely")
        }
        _ => Ok(()),
    }
}
