//! An operator's command: makes an instance anew whose every copy is lost, empty, with the port and the bindings it had.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{begin, mark, mark_if_late};
use crate::{
    act::call_roll,
    advance::{Current, advance_from, read_cluster, read_record},
    broker::Broker,
    decide::{
        placement::{self, CellView, Wanted},
        recreation::{self, Evidence},
    },
    error::Error,
    ids::{CellGuid, InstanceId},
    keyspace,
    record::{Operation, OperationKind, OperationState, Record, State},
    store::StoreError,
    transition,
};

/// How often a lost compare-and-swap is tried again.
const TRIES: usize = 5;

/// Begins to make an instance anew, or joins whoever does; answers the operation, which anybody carries on as any other.
///
/// # Errors
/// `NotFound`, `Concurrency`, `Unprocessable` with everything that speaks against it, and 503 of [`Error`]; then nothing was
/// changed.
pub async fn recreate(broker: &Broker, id: &InstanceId) -> Result<Operation, Error> {
    let mut meant = None;
    for _ in 0..TRIES {
        let Some(Current { record, index }) = read_record(broker, id).await? else {
            return Err(Error::NotFound("there is no such instance".to_owned()));
        };
        if *meant.get_or_insert(record.incarnation) != record.incarnation {
            return Err(Error::Concurrency(
                "the instance was taken away and made again meanwhile".to_owned(),
            ));
        }
        if let Some(operation) = under_way(&record)? {
            return Ok(operation);
        }
        let next = next(broker, record.clone()).await?;
        let Some(operation) = next.operation.clone() else {
            return Err(Error::Concurrency("the instance changes".to_owned()));
        };
        mark(broker, id, next.incarnation, &operation).await?;
        let written = broker
            .store
            .compare_and_swap(&keyspace::record(id), &next.to_json(), index, None)
            .await;
        match written {
            Ok(index) => {
                transition::log(Some(&record), &next, broker.clock.now());
                mark_if_late(broker, id, next.incarnation, &operation).await?;
                tracing::warn!(
                    instance = %id, operation = %operation.id, generation = next.credential_generation,
                    "the instance is made anew: whatever turns up of its old data is removed"
                );
                // It is accepted now; the first steps are taken by the next pass if they cannot be taken by this one.
                if let Err(error) = advance_from(broker, Current { record: next, index }).await {
                    tracing::warn!(instance = %id, %error, "the first steps of making it anew were not taken");
                }
                return Ok(operation);
            }
            // It moved; or our write came through, and is found as under way.
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Concurrency(
        "other requests about this instance are under way; try again".to_owned(),
    ))
}

/// The operation to join.
fn under_way(record: &Record) -> Result<Option<Operation>, Error> {
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    match &record.operation {
        Some(operation) if operation.kind == OperationKind::Recreate => Ok(Some(operation.clone())),
        Some(operation) => Err(Error::Concurrency(format!(
            "the instance is busy with its {}: {}",
            operation.kind.as_str(),
            operation.description
        ))),
        None => Ok(None),
    }
}

/// The record that begins it.
async fn next(broker: &Broker, record: Record) -> Result<Record, Error> {
    let never_made = record
        .last_operation
        .as_ref()
        .is_some_and(|last| last.kind == OperationKind::Provision && last.state == OperationState::Failed);
    if never_made {
        return Err(Error::Unprocessable(
            "the instance was never made completely; delete it".to_owned(),
        ));
    }
    // What the new cluster needs of the configuration must be there.
    broker.plan_configuration(&record)?;
    if broker.public_door(&record)?.is_none() {
        return Err(Error::Unprocessable("the instance has no public port".to_owned()));
    }
    let evidence = gather(broker, &record).await?;
    let doubts = recreation::doubts(&record, &evidence);
    let count = usize::try_from(record.node_count).unwrap_or(usize::MAX);
    let description = format!("members {}", vec!["stopped"; count].join(", "));
    let operation = begin(
        broker,
        OperationKind::Recreate,
        &record.request,
        description,
        None,
    );
    if doubts.is_empty() {
        check_room(&record, &evidence, count)?;
        let active = broker.settings.master_keys.active();
        return Ok(recreation::anew(record, operation, active));
    }
    if recreation::was_given_up(&record) {
        return Ok(recreation::going_on(record, operation));
    }
    let doubts: Vec<String> = doubts.into_iter().collect();
    Err(Error::Unprocessable(format!(
        "it is not certain that every copy is lost, and nothing was changed: {}",
        doubts.join("; ")
    )))
}

async fn gather(broker: &Broker, record: &Record) -> Result<Evidence, Error> {
    let cluster = read_cluster(broker, &record.instance_id).await?;
    let named: BTreeSet<CellGuid> = record.nodes.values().map(|node| node.cell.clone()).collect();
    let (cells, roll) = call_roll(broker, &named).await?;
    let answers = join_all(cells.iter().map(|cell| broker.cells.status(cell))).await;
    let views = cells.iter().map(|cell| cell.view.clone());
    Ok(Evidence {
        cluster,
        roll,
        cells: views.zip(answers).collect(),
    })
}

/// Would there be a cell for each node?
fn check_room(record: &Record, evidence: &Evidence, count: usize) -> Result<(), Error> {
    let views: Vec<CellView> = evidence.cells.iter().map(|(view, _)| view.clone()).collect();
    let is_missing = |view: &CellView| evidence.roll.missing_since(&view.guid).is_some();
    let there: Vec<CellView> = views.into_iter().filter(|view| !is_missing(view)).collect();
    let wanted = Wanted {
        count,
        zones: Vec::new(),
        occupied: BTreeSet::new(),
        only: record.cells.as_deref(),
        turn: 0,
    };
    placement::choose(&there, &wanted)?;
    Ok(())
}
