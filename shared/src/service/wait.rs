//! Waiting for an operation within a request, for clients that do not poll.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    advance::{Pass, advance},
    broker::Broker,
    error::Error,
    ids::InstanceId,
    record::{Operation, OperationState},
};

/// How often an instance is looked at while somebody waits. A bootstrap takes about 3 s.
const PAUSE: Duration = Duration::from_millis(100);

/// How an operation went that somebody waited for.
pub(super) enum Ended {
    /// As asked for, or its instance is gone.
    Well,
    /// It was given up.
    Badly(Operation),
}

/// Advances an instance until its operation has ended.
///
/// # Errors
/// `Timeout` with what is still missing: the operation goes on, and the same request joins it again.
pub(super) async fn until_ended(broker: &Broker, id: &InstanceId) -> Result<Ended, Error> {
    let end = Instant::now() + broker.settings.synchronous_wait;
    let mut latest = String::from("the broker's store did not answer");
    loop {
        match advance(broker, id).await {
            Ok(None) => return Ok(Ended::Well),
            Ok(Some(pass)) if pass.is_gone() => return Ok(Ended::Well),
            Ok(Some(Pass { record, .. })) => match (&record.operation, &record.last_operation) {
                (Some(operation), _) => latest.clone_from(&operation.description),
                (None, Some(last)) if last.state == OperationState::Failed => {
                    return Ok(Ended::Badly(last.clone()));
                }
                (None, _) => return Ok(Ended::Well),
            },
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
