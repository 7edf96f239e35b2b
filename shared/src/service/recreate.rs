//! An operator's command: makes an instance anew whose every copy is lost, empty, with the port and the bindings it had.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{
    begin,
    command::{begin_or_join, check_made},
};
use crate::{
    act::call_roll,
    advance::read_cluster,
    broker::Broker,
    decide::{
        placement::{self, CellView, Wanted},
        recreation::{self, Evidence},
    },
    error::Error,
    ids::{CellGuid, InstanceId},
    record::{Operation, OperationKind, Record},
};

/// Begins to make an instance anew, or joins whoever does; answers the operation, which anybody carries on as any other.
///
/// # Errors
/// `NotFound`, `Concurrency`, `Unprocessable` with everything that speaks against it; then nothing was changed. 503 of
/// [`Error`]: it may have begun.
pub async fn recreate(broker: &Broker, id: &InstanceId) -> Result<Operation, Error> {
    begin_or_join(broker, id, OperationKind::Recreate, async |record| {
        next(broker, record).await
    })
    .await
}

/// The record that begins it, and the operation in it.
async fn next(broker: &Broker, record: Record) -> Result<(Record, Operation), Error> {
    check_made(&record)?;
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
        let anew = recreation::anew(record, operation.clone(), active);
        return Ok((anew, operation));
    }
    if recreation::was_given_up(&record) {
        return Ok((recreation::going_on(record, operation.clone()), operation));
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
