//! `rotate-credentials`: an operator has instances get other passwords of their own, and waits for it.
//!
//! **Guarantees.** Of many instances, one that cannot be changed now does not keep the others from it. Repeated, the command goes
//! on where it was.

use std::str::FromStr;

use futures_util::{StreamExt, stream};
use shared::{
    advance::{Current, read_record},
    broker::Broker,
    config::Config,
    ids::InstanceId,
    keyspace,
    record::State,
    service::rotate::{bindings_of_other_keys, is_current, rotate},
    setup,
    store::Read,
};

use crate::{
    AnyError, chain,
    cli::RotatedInstances,
    operation::{say, wait},
};

/// How many instances are changed at once: each takes some seconds, most of which it waits.
const AT_ONCE: usize = 8;

/// One that is joined, one of one's own, and one that comes between.
const CHANGES: usize = 3;

/// Changes those that are named, or all that need it, and tells which bindings depend on other keys still.
pub(crate) async fn run(rotated: &RotatedInstances) -> Result<(), AnyError> {
    let broker = setup::broker(Config::load(rotated.file.config.as_deref())?)?;
    let instances = if rotated.all {
        all(&broker).await?
    } else {
        rotated.instances.clone()
    };
    let changes = instances.iter().map(|id| is_changed(&broker, id, rotated.all));
    let changed: Vec<bool> = stream::iter(changes).buffer_unordered(AT_ONCE).collect().await;
    let failed = changed.iter().filter(|changed| !**changed).count();
    if failed > 0 {
        let all = instances.len();
        return Err(format!(
            "{failed} of {all} instances were not changed, for the reasons above; the command can be repeated"
        )
        .into());
    }
    Ok(())
}

/// Changes passwords until they are of the first master key, and of a later generation than `before`, if that is given: whoever
/// joins a change that was begun earlier may need another one.
async fn complete(broker: &Broker, id: &InstanceId, before: Option<u32>) -> Result<(), AnyError> {
    for _ in 0..CHANGES {
        let operation = rotate(broker, id).await?;
        wait(broker, id, operation.id, |_| {}).await?;
        let Some(Current { record, .. }) = read_record(broker, id).await? else {
            return Err("the instance was deprovisioned meanwhile".into());
        };
        let is_later = before.is_none_or(|before| record.credential_generation > before);
        if is_later && is_current(broker, &record) {
            return Ok(());
        }
    }
    Err("others change its passwords at the same time, to those of another master key".into())
}

/// The ids of all instances.
async fn all(broker: &Broker) -> Result<Vec<InstanceId>, AnyError> {
    let listed = broker.store.list(keyspace::INSTANCES, Read::Quorum).await?;
    let ids = listed.unwrap_or_default().into_keys();
    Ok(ids.filter_map(|name| InstanceId::from_str(&name).ok()).collect())
}

async fn is_changed(broker: &Broker, id: &InstanceId, needed: bool) -> bool {
    let changed = change(broker, id, needed).await;
    let failed = changed.inspect_err(|error| say(&format!("instance {id}: {}", chain(&**error))));
    failed.is_ok()
}

/// `needed`: an instance is left alone whose passwords are of the first master key already, or that is on its way out.
async fn change(broker: &Broker, id: &InstanceId, needed: bool) -> Result<(), AnyError> {
    let current = read_record(broker, id).await?;
    let is_needed =
        |Current { record, .. }: &Current| record.state == State::Active && !is_current(broker, record);
    if !needed || current.as_ref().is_some_and(is_needed) {
        let before = current.map_or(0, |current| current.record.credential_generation);
        complete(broker, id, (!needed).then_some(before)).await?;
        say(&format!(
            "instance {id}: nodes and broker have other passwords now"
        ));
    }
    let dependent = bindings_of_other_keys(broker, id).await?;
    for (binding, key) in dependent {
        say(&match key {
            Ok(key) => {
                format!(
                    "instance {id}: binding {binding} depends on the master key '{key}' until it is unbound"
                )
            }
            Err(error) => {
                format!("instance {id}: which master key binding {binding} depends on is not known: {error}")
            }
        });
    }
    Ok(())
}
