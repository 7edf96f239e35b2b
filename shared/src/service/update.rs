//! `PATCH /v2/service_instances/:id`: changes an instance (osb-reference.md, 6).

use serde_json::{Map, Value};

use super::{Patience, TOO_OLD, TRIES, begin, limit, mark, mark_if_late, operation_name, push, wait};
use crate::{
    advance::{Current, advance_from, read_record},
    broker::Broker,
    catalog::Plan,
    decide::{
        placement::{self, Wanted},
        recreation,
    },
    error::Error,
    ids::{Incarnation, InstanceId},
    keyspace,
    parameters::{self, Wishes},
    quota,
    record::{
        Failover, MaintenanceChange, Operation, OperationKind, OperationState, PlanChange, Record, State,
    },
    store::{Index, StoreError},
    transition,
};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Update {
    /// The instance to change.
    pub instance: InstanceId,
    /// Its service.
    pub service_id: String,
    /// The plan it shall have; `None`: the one that the platform knows it to have.
    pub plan_id: Option<String>,
    /// The parameters to change; the others stay as they are.
    pub parameters: Map<String, Value>,
    /// The platform's context, if given.
    pub context: Option<Map<String, Value>>,
    /// `maintenance_info.version`, if given.
    pub maintenance_version: Option<String>,
    /// How the client takes the end.
    pub patience: Patience,
    /// Who asks.
    pub originating_identity: Option<String>,
}

/// What the record shall say.
struct Target<'p> {
    plan: &'p Plan,
    wishes: Wishes,
    parameters: Map<String, Value>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Updated {
    /// It is as asked for.
    Done,
    /// It is being changed.
    Accepted {
        /// The operation to poll for.
        operation: String,
    },
}

/// Changes an instance, or joins whoever changes it the same way.
///
/// # Errors
/// 400, 404 and 422 of [`Error`]: nothing was changed, unless the client waited and the instance was taken away meanwhile. 503 and
/// 504: it may be under way, and the same request joins it. 500: it was given up; the description says why.
pub async fn update(broker: &Broker, command: &Update) -> Result<Updated, Error> {
    let service = broker.settings.catalog.service(&command.service_id)?;
    if let Some(plan_id) = &command.plan_id {
        let (_, plan) = broker.settings.catalog.plan(&command.service_id, plan_id)?;
        check(command, plan)?;
    }
    if service.allow_context_updates
        && command.parameters.is_empty()
        && let Some(context) = &command.context
        && only_context(broker, command, context).await?
    {
        return Ok(Updated::Done);
    }
    command.patience.check()?;
    let began = broker.clock.now();
    let mut meant = None;
    for _ in 0..TRIES {
        let Some(current) = read_record(broker, &command.instance).await? else {
            return Err(Error::NotFound("there is no such instance".to_owned()));
        };
        let record = &current.record;
        check_same_life(&mut meant, record)?;
        check_not_deleting(record)?;
        let plan = plan_of(broker, command, record)?;
        check(command, plan)?;
        let (wishes, parameters) = target(command, record, plan)?;
        let as_asked = (record.node_count, &record.cells) == (wishes.node_count, &wishes.cells)
            && record.request.parameters == parameters
            && record.request.plan_id == plan.id
            && is_maintained(command, record);
        if let Some(operation) = &record.operation
            && operation.kind == OperationKind::Update
            && as_asked
        {
            if command.patience == Patience::Polls && push(broker, &command.instance, operation).await? {
                return Ok(Updated::Done);
            }
            return finish(broker, command, operation).await;
        }
        check_idle(record)?;
        let failed = record
            .last_requested()
            .filter(|last| last.state == OperationState::Failed);
        if failed.is_some_and(|last| last.kind == OperationKind::Provision) {
            return Err(Error::Unprocessable(
                "the instance was never made completely; delete it".to_owned(),
            ));
        }
        if recreation::was_given_up(record) {
            return Err(Error::Unprocessable(recreation::GIVEN_UP.to_owned()));
        }
        let is_whole = record.plan_change.is_none() && record.maintenance_change.is_none();
        if as_asked && failed.is_none() && is_whole {
            return Ok(Updated::Done);
        }
        check_room(broker, record, &wishes).await?;
        if broker.clock.now().duration_since(began) > TOO_OLD {
            return Err(Error::Concurrency(
                "the request stood still, and nothing was changed; send it again".to_owned(),
            ));
        }
        let target = Target {
            plan,
            wishes,
            parameters,
        };
        if let Some(updated) = begin_update(broker, command, current, target).await? {
            return Ok(updated);
        }
    }
    Err(Error::Concurrency(
        "another request about this instance is under way".to_owned(),
    ))
}

/// Takes over a new context where nothing else is to change, which no cell and no client of the cluster takes part in.
/// Answers whether that was all.
async fn only_context(
    broker: &Broker,
    command: &Update,
    context: &Map<String, Value>,
) -> Result<bool, Error> {
    let mut meant = None;
    for _ in 0..TRIES {
        let Some(Current { record, index }) = read_record(broker, &command.instance).await? else {
            return Err(Error::NotFound("there is no such instance".to_owned()));
        };
        check_same_life(&mut meant, &record)?;
        let named = command.plan_id.as_ref();
        let same_plan = record.request.service_id == command.service_id
            && named.is_none_or(|plan| *plan == record.request.plan_id);
        if !same_plan || !is_maintained(command, &record) {
            return Ok(false);
        }
        // It may be the repetition of a request that has begun more than that.
        let failed = |last: &Operation| last.state == OperationState::Failed;
        let is_unfinished = record.operation.is_some()
            || record.plan_change.is_some()
            || record.maintenance_change.is_some()
            || record.last_requested().is_some_and(failed);
        let goes_on = record.operation.is_none() && record.plan_change.is_some() && named.is_some();
        if is_unfinished && (record.context == *context || goes_on) {
            return Ok(false);
        }
        check_idle(&record)?;
        if record.context == *context {
            return Ok(true);
        }
        let next = Record {
            context: context.clone(),
            ..record
        };
        let key = keyspace::record(&command.instance);
        match broker
            .store
            .compare_and_swap(&key, &next.to_json(), index, None)
            .await
        {
            Ok(_) => return Ok(true),
            Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Concurrency(
        "another request about this instance is under way".to_owned(),
    ))
}

/// A request is about the life of the instance that it found first.
fn check_same_life(meant: &mut Option<Incarnation>, record: &Record) -> Result<(), Error> {
    if *meant.get_or_insert(record.incarnation) != record.incarnation {
        return Err(Error::Concurrency(
            "the instance was taken away and made again meanwhile".to_owned(),
        ));
    }
    Ok(())
}

/// Whether the instance is at the version of the plan's maintenance that the client asks for, if it asks for one.
fn is_maintained(command: &Update, record: &Record) -> bool {
    command.maintenance_version.is_none() || command.maintenance_version == record.maintenance_version
}

fn check_idle(record: &Record) -> Result<(), Error> {
    check_not_deleting(record)?;
    match &record.operation {
        None => Ok(()),
        Some(operation) => Err(Error::Concurrency(format!(
            "the instance is busy with its {}",
            operation.kind.as_str()
        ))),
    }
}

fn check_not_deleting(record: &Record) -> Result<(), Error> {
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    Ok(())
}

/// Writes the changed record and takes the first steps. `None`: somebody else wrote first.
async fn begin_update(
    broker: &Broker,
    command: &Update,
    current: Current,
    target: Target<'_>,
) -> Result<Option<Updated>, Error> {
    let Current { record, index } = current;
    let description = record
        .last_operation
        .as_ref()
        .map(|last| last.description.clone())
        .unwrap_or_default();
    let plan = target.plan;
    let mut next = changed(record.clone(), command, target);
    let mut operation = begin(
        broker,
        OperationKind::Update,
        &next.request,
        description,
        command.originating_identity.clone(),
    );
    // The specification does not say by which of the two plans the platform polls: the shorter time counts.
    let known = limit(broker, OperationKind::Update, &next.known_request());
    operation.deadline = operation.deadline.min(operation.started + known);
    next.operation = Some(operation.clone());
    let reserved = if record.has_plan(&plan.id) {
        None
    } else {
        quota::reserve(broker, plan, &command.instance, next.incarnation, operation.id).await?
    };
    if let Err(error) = mark(broker, &command.instance, next.incarnation, &operation).await {
        quota::give_back(broker, reserved).await;
        return Err(error);
    }
    let key = keyspace::record(&command.instance);
    match broker
        .store
        .compare_and_swap(&key, &next.to_json(), index, None)
        .await
    {
        Ok(index) => {
            transition::log(Some(&record), &next, broker.clock.now());
            leave_former_plan(broker, &record, &next, index).await;
            mark_if_late(broker, &command.instance, next.incarnation, &operation).await?;
            // It is accepted now; the first steps are taken by the next pass if they cannot be taken by this one.
            if let Err(error) = advance_from(broker, Current { record: next, index }).await {
                tracing::warn!(instance = %command.instance, %error, "the first steps of an update were not taken");
            }
            finish(broker, command, &operation).await.map(Some)
        }
        // Our write came through, and is found as under way; or it may still come, and needs the reservation.
        Err(StoreError::Ambiguous { .. }) => Ok(None),
        Err(error) => {
            quota::give_back(broker, reserved).await;
            match error {
                // It moved.
                StoreError::Conflict { .. } | StoreError::Missing { .. } => Ok(None),
                error => Err(error.into()),
            }
        }
    }
}

/// A change that has failed goes on to another plan, or back: the instance does not count among those of its target any more.
async fn leave_former_plan(broker: &Broker, before: &Record, record: &Record, index: Index) {
    for plan in before.plans().filter(|plan| !record.has_plan(plan)) {
        if let Err(error) = quota::release(broker, record, plan, Some(index)).await {
            let instance = &record.instance_id;
            tracing::warn!(%instance, %error, "a reservation was not released; reconcile does it");
        }
    }
}

/// The record as the request wants it.
fn changed(record: Record, command: &Update, target: Target<'_>) -> Record {
    let Target {
        plan,
        wishes: Wishes { node_count, cells },
        parameters,
    } = target;
    let known = record.known_plan().to_owned();
    let changes_plan = record.request.plan_id != plan.id || record.plan_change.is_some();
    let failover = plan.cluster.failover;
    let mut next = Record {
        node_count,
        cells,
        // What loses nothing counts at once; the rest when the plan is in force.
        failover: match failover {
            Failover::Promote if changes_plan => record.failover,
            failover => Some(failover),
        },
        plan_change: changes_plan.then_some(PlanChange {
            from: known,
            failover,
        }),
        ..record
    };
    next.request.plan_id.clone_from(&plan.id);
    next.request.parameters = parameters;
    next.context = command.context.clone().unwrap_or(next.context);
    let offered = plan.maintenance_info.as_ref().map(|info| info.version.clone());
    let known = next.known_maintenance_version().map(str::to_owned);
    next.maintenance_version = if changes_plan {
        offered
    } else {
        command.maintenance_version.clone().or(next.maintenance_version)
    };
    let changes_version = next.maintenance_version != known || next.maintenance_change.is_some();
    next.maintenance_change = changes_version.then_some(MaintenanceChange { from: known });
    next
}

async fn finish(broker: &Broker, command: &Update, operation: &Operation) -> Result<Updated, Error> {
    if command.patience == Patience::Polls {
        return Ok(Updated::Accepted {
            operation: operation_name(operation),
        });
    }
    match wait::until_ended(broker, &command.instance, operation).await? {
        wait::Ended::Well => Ok(Updated::Done),
        wait::Ended::Badly(operation) => Err(operation.into()),
    }
}

fn check(command: &Update, plan: &Plan) -> Result<(), Error> {
    // How many nodes there are is not known yet: one is the fewest that cells must be given for.
    parameters::wishes(&command.parameters, plan, 1)?;
    parameters::check_maintenance(command.maintenance_version.as_deref(), plan)
}

/// The plan that the instance shall have.
fn plan_of<'b>(broker: &'b Broker, command: &Update, record: &Record) -> Result<&'b Plan, Error> {
    if record.request.service_id != command.service_id {
        return Err(Error::BadRequest(
            "the instance is of another service than this request names".to_owned(),
        ));
    }
    let known = record.known_plan();
    let wanted = command.plan_id.as_deref().unwrap_or(known);
    let (service, plan) = broker.settings.catalog.plan(&command.service_id, wanted)?;
    // Going back after a change that has failed is always allowed: to the platform the instance never left its plan.
    if wanted != known && !service.lets_leave(known) {
        return Err(Error::PlanChangeNotSupported);
    }
    Ok(plan)
}

/// What the instance shall be: parameters that the request does not name stay as they are.
fn target(command: &Update, record: &Record, plan: &Plan) -> Result<(Wishes, Map<String, Value>), Error> {
    let mut merged = record.request.parameters.clone();
    merged.extend(command.parameters.clone());
    // Without a count in the request the instance keeps the one it has, also when the plan's default, or most, has changed.
    // Another plan comes with its own count, unless the user has asked for one.
    let usual = if record.request.plan_id == plan.id {
        record.node_count
    } else {
        parameters::wishes(&merged, plan, plan.cluster.nodes.default)
            .map_err(|_| too_many(record, plan))?
            .node_count
    };
    let mut wishes = parameters::wishes(&command.parameters, plan, usual)?;
    if !command.parameters.contains_key(parameters::CELLS) {
        wishes.cells.clone_from(&record.cells);
    }
    Ok((wishes, merged))
}

/// Nodes that a user has asked for are not taken away by a change of the plan alone.
fn too_many(record: &Record, plan: &Plan) -> Error {
    Error::Unprocessable(format!(
        "the instance was asked to have {} nodes, and the plan '{}' allows {} at most: \
         name the number that it shall have (node-count) in the same request",
        record.node_count, plan.name, plan.cluster.nodes.max
    ))
}

/// Would there be a cell for each node that is to be added? Asked before anything is written.
async fn check_room(broker: &Broker, record: &Record, wishes: &Wishes) -> Result<(), Error> {
    let fitting = || record.staying().filter(|(_, node)| wishes.allow(&node.cell));
    let count = usize::try_from(wishes.node_count)
        .unwrap_or(usize::MAX)
        .saturating_sub(fitting().count());
    if count == 0 && wishes.cells == record.cells {
        return Ok(());
    }
    wishes.check_count()?;
    let cells = broker.settings.known_cells.list(&*broker.store).await?;
    let views: Vec<_> = cells.into_iter().map(|cell| cell.view).collect();
    wishes.check_cells(&views, record.cells.as_deref())?;
    let wanted = Wanted {
        count,
        zones: fitting()
            .map(|(_, node)| node.availability_zone.as_str())
            .collect(),
        occupied: record.nodes.values().map(|node| &node.cell).collect(),
        only: wishes.cells.as_deref(),
        turn: 0,
    };
    placement::choose(&views, &wanted)?;
    Ok(())
}
