//! Reservations of plans with a quota: those that say something else than the record.
//!
//! **Guarantees.** No request that has been accepted loses the reservation that it was let in by. A reservation comes before
//! the record that it is for, so it may be of a request that is under way, or stands still:
//! * of a provision: that one announces itself after its reservation, and before its record. If it has not for a minute, it
//!   is too old to be accepted; if its marker has gone since, it takes back what it may write yet.
//! * of a change of the plan: that one compares and swaps the record which it has seen. So the record is written once more,
//!   as it is, before a later reservation goes.
//!
//! **Assumes.** The survey has seen reservations, markers and records in this order.

use super::{
    drift::Run,
    mend::Mend,
    settled::{Seen, delete},
    survey::{ReservationKey, Traces},
};
use crate::{
    advance::read_record,
    error::Error,
    ids::InstanceId,
    keyspace, quota,
    record::{Record, State},
    store::StoreError,
};

/// Removes the reservations of lives that are over, and of plans that the instance does not have. `seen` is the record at rest,
/// if there is one.
pub(super) async fn remove_superfluous(
    run: &Run<'_>,
    id: &InstanceId,
    seen: Option<Seen<'_>>,
    traces: &Traces,
) -> Result<(), Error> {
    if run.survey.marked.contains(id) {
        return Ok(());
    }
    let taken = run.survey.taken;
    let is_needed = |key: &ReservationKey| {
        let of_this_life = |seen: Seen<'_>| seen.record.incarnation == key.life;
        seen.is_some_and(|seen| of_this_life(seen) && seen.record.has_plan(key.plan.as_str()))
    };
    let superfluous = |key: &&ReservationKey| key.reservation.is_stale(taken) && !is_needed(key);
    for key in traces.reservations.iter().filter(superfluous) {
        let same_life = seen.filter(|seen| seen.record.incarnation == key.life);
        if let Some(seen) = same_life
            && key.index > seen.index
            && !keep_back_changes(run, seen).await?
        {
            return Ok(());
        }
        if delete(run, &keyspace::reservation(&key.plan, key.life), key.index).await? {
            let why = match same_life {
                Some(_) => "the instance does not have the plan",
                None => "it is of a life of the instance that is over",
            };
            let what = format!("the reservation of a place in the plan {} was removed", key.plan);
            run.mended(id, Mend::Reservation, &what, why);
        }
    }
    Ok(())
}

/// Writes a record again as it is, so that a change fails whose request has seen it before. Answers whether that was done: if
/// not, somebody else has written it.
async fn keep_back_changes(run: &Run<'_>, seen: Seen<'_>) -> Result<bool, StoreError> {
    let key = keyspace::record(&seen.record.instance_id);
    let Some(entry) = seen.tree.leaves.get(&key) else {
        return Ok(false);
    };
    let store = &*run.broker.store;
    match store
        .compare_and_swap(&key, &entry.value, entry.index, None)
        .await
    {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the reservations that an instance at rest lacks: its plan had no quota when it was made, or they were lost.
pub(super) async fn restore_missing(run: &Run<'_>, record: &Record, traces: &Traces) -> Result<(), Error> {
    let (broker, id) = (run.broker, &record.instance_id);
    for plan in record.plans() {
        let Some(quota) = broker.settings.catalog.quota(&record.request.service_id, plan) else {
            continue;
        };
        let is_its = |key: &ReservationKey| key.life == record.incarnation && key.plan == quota.plan;
        if traces.reservations.iter().any(is_its) {
            continue;
        }
        let Some(index) = quota::restore(broker, record, &quota.plan).await? else {
            continue;
        };
        let still_has_it = |now: &Record| {
            now.incarnation == record.incarnation && now.state == State::Active && now.has_plan(plan)
        };
        let now = read_record(broker, id).await?;
        if now.is_some_and(|now| still_has_it(&now.record)) {
            let what = format!("the reservation of a place in the plan {plan}");
            run.mended(
                id,
                Mend::Reservation,
                &what,
                "the instance has the plan, and was not counted",
            );
        } else {
            delete(
                run,
                &keyspace::reservation(&quota.plan, record.incarnation),
                index,
            )
            .await?;
        }
    }
    Ok(())
}
