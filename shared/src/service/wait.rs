//! Waiting for an operation within a request, for clients that do not poll.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    advance::{Pass, advance},
    broker::Broker,
    error::Error,
    ids::InstanceId,
    record::{Operation, OperationKind, OperationState},
};

/// How often an instance is looked at while somebody waits. A bootstrap takes about 3 s.
const PAUSE: Duration = Duration::from_millis(100);

/// How an operation went that somebody waited for.
pub(super) enum Ended {
    /// As asked for.
    Well,
    /// It was given up.
    Badly(Operation),
}

/// Advances an instance until this operation has ended.
///
/// # Errors
/// `Timeout` with what is still missing: the operation goes on, and the same request joins it again. `Concurrency` when
/// the instance was taken away meanwhile, or another operation took this one's place.
pub(super) async fn until_ended(
    broker: &Broker,
    id: &InstanceId,
    operation: &Operation,
) -> Result<Ended, Error> {
    let end = Instant::now() + broker.settings.synchronous_wait;
    let mut latest = String::from("the broker's store did not answer");
    loop {
        match advance(broker, id).await {
            Ok(None) => return gone(operation),
            Ok(Some(pass)) if pass.is_gone() => return gone(operation),
            Ok(Some(Pass { record, .. })) => {
                let Some(known) = record.operations().find(|known| known.id == operation.id) else {
                    return Err(Error::Concurrency(
                        "another operation took the place of this one".to_owned(),
                    ));
                };
                match known.state {
                    OperationState::InProgress => latest.clone_from(&known.description),
                    OperationState::Succeeded => return Ok(Ended::Well),
                    OperationState::Failed => return Ok(Ended::Badly(known.clone())),
                }
            }
            // The operation does not depend on this request; a store that is away for a moment ends nothing.
            Err(Error::Store(_)) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= end {
            return Err(Error::Timeout(format!(
                "not finished yet: {latest}. It goes on; the same request waits for it again"
            )));
        }
        sleep(PAUSE).await;
    }
}

/// An instance that is gone is what a deprovision asks for, and nothing else does.
fn gone(operation: &Operation) -> Result<Ended, Error> {
    if operation.kind == OperationKind::Deprovision {
        return Ok(Ended::Well);
    }
    Err(Error::Concurrency(
        "the instance was deprovisioned meanwhile".to_owned(),
    ))
}
