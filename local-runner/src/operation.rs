//! Waiting for an operation that an operator has asked for, and telling how it goes.
//!
//! **Guarantees.** Nothing depends on this process once the command was accepted: brokers carry the operation on. An etcd that
//! is away for a moment does not end it.

use std::{
    io::{self, Write},
    time::Duration,
};

use shared::{
    advance::advance,
    broker::Broker,
    error::Error,
    ids::{InstanceId, OperationId},
    record::{OperationState, Record},
};
use tokio::time::sleep;

use crate::AnyError;

/// Between two looks. A bootstrap takes about 3 s.
const PAUSE: Duration = Duration::from_millis(500);

/// How far it is.
enum Stage {
    UnderWay(String),
    Done,
    Failed(String),
    /// Another operation took its place.
    Replaced,
}

/// Carries an operation on to its end, and hands over what is new about it.
pub(crate) async fn wait(
    broker: &Broker,
    id: &InstanceId,
    operation: OperationId,
    mut tell: impl FnMut(&str),
) -> Result<(), AnyError> {
    let mut told = String::new();
    loop {
        match advance(broker, id).await {
            Ok(Some(pass)) if !pass.is_gone() => match stage(&pass.record, operation) {
                Stage::Done => return Ok(()),
                Stage::Failed(why) => return Err(why.into()),
                Stage::Replaced => return Err("another operation took the place of this one".into()),
                Stage::UnderWay(text) if text != told => {
                    tell(&text);
                    told = text;
                }
                Stage::UnderWay(_) => {}
            },
            Ok(_) => return Err("the instance was deprovisioned meanwhile".into()),
            Err(Error::Store(_)) => {}
            Err(error) => return Err(error.into()),
        }
        sleep(PAUSE).await;
    }
}

fn stage(record: &Record, operation: OperationId) -> Stage {
    let is_it = |one: &&shared::record::Operation| one.id == operation;
    if let Some(current) = record.operation.as_ref().filter(is_it) {
        return Stage::UnderWay(current.description.clone());
    }
    match record.last_operation.as_ref().filter(is_it) {
        Some(last) if last.state == OperationState::Failed => Stage::Failed(last.description.clone()),
        Some(_) => Stage::Done,
        None => Stage::Replaced,
    }
}

/// Tells a person. That standard output is closed is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}
