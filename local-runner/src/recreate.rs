//! `recreate`: an operator has an instance made anew whose every copy is lost, and waits for it.
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
    config::Config,
    error::Error,
    ids::{InstanceId, OperationId},
    record::{OperationState, Record},
    service::recreate::recreate,
    setup,
};
use tokio::time::sleep;

use crate::{AnyError, cli::LostInstance};

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

/// Begins, or joins, and tells how it goes until it has ended.
pub(crate) async fn run(lost: &LostInstance) -> Result<(), AnyError> {
    let broker = setup::broker(Config::load(lost.file.config.as_deref())?)?;
    let id = &lost.instance;
    let operation = recreate(&broker, id).await?;
    say(&format!("instance {id} is being made anew"));
    wait(&broker, id, operation.id).await?;
    say(&format!("instance {id} stands again, empty"));
    Ok(())
}

async fn wait(broker: &Broker, id: &InstanceId, operation: OperationId) -> Result<(), AnyError> {
    let mut told = String::new();
    loop {
        match advance(broker, id).await {
            Ok(Some(pass)) if !pass.is_gone() => match stage(&pass.record, operation) {
                Stage::Done => return Ok(()),
                Stage::Failed(why) => return Err(why.into()),
                Stage::Replaced => return Err("another operation took the place of this one".into()),
                Stage::UnderWay(text) if text != told => {
                    say(&text);
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

/// That standard output is closed is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}
