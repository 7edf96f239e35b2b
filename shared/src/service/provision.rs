//! `PUT /v2/service_instances/:id`: makes an instance (osb-reference.md, 4).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::try_join;

use super::{
    Patience, TOO_OLD, announce, begin, mark, mark_if_late, operation_name, push, stood_still, wait,
};
use crate::{
    advance::{Current, Pass, Walk, advance, advance_from, read_cluster, read_record},
    broker::Broker,
    catalog::Plan,
    cells::Cell,
    decide::{
        active, dynamic_configuration,
        placement::{self, Wanted},
    },
    effect::{PortFact, StartAnswer},
    error::Error,
    ids::{Incarnation, InstanceId, NodeId, Port},
    keyspace,
    marker::Marker,
    parameters::{self, Wishes},
    ports, quota,
    record::{
        FIRST_GENERATION, Node, Operation, OperationKind, OperationState, Phase, PortClaim, Record, Request,
        SCHEMA, State,
    },
    store::{Index, Read, StoreError},
    transition,
};

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Provision {
    /// The instance to make.
    pub instance: InstanceId,
    /// What it shall be.
    pub request: Request,
    /// The platform's context.
    pub context: Map<String, Value>,
    /// `maintenance_info.version`, if given.
    pub maintenance_version: Option<String>,
    /// How the client takes the end.
    pub patience: Patience,
    /// Who asks.
    pub originating_identity: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provisioned {
    /// It was there already, the same.
    Exists,
    /// This request, or one like it, has made it.
    Created,
    /// It is being made.
    Accepted {
        /// The operation to poll for.
        operation: String,
    },
}

/// Makes an instance, or joins whoever makes the same.
///
/// # Errors
/// 400, 409, 422, 503 and 504 of [`Error`], each with nothing left behind unless it says so.
pub async fn provision(broker: &Broker, command: &Provision) -> Result<Provisioned, Error> {
    let began = broker.clock.now();
    let request = &command.request;
    let (_, plan) = broker
        .settings
        .catalog
        .plan(&request.service_id, &request.plan_id)?;
    let wishes = parameters::wishes(&request.parameters, plan, plan.cluster.nodes.default)?;
    parameters::check_maintenance(command.maintenance_version.as_deref(), plan)?;
    command.patience.check()?;
    if let Some(current) = read_record(broker, &command.instance).await? {
        return join(broker, command, current).await;
    }
    let (cells, candidate, cluster) = try_join!(
        async { Ok(broker.settings.known_cells.list(&*broker.store).await?) },
        async { Ok(ports::first_candidate(&*broker.store, broker.settings.ports).await?) },
        read_cluster(broker, &command.instance),
    )?;
    check_room(&cells, &wishes)?;

    let identity = command.originating_identity.clone();
    let count = usize::try_from(wishes.node_count).unwrap_or(usize::MAX);
    let description = format!("members {}", vec!["stopped"; count].join(", "));
    let operation = begin(broker, OperationKind::Provision, request, description, identity);
    let record = first_record(broker, command, plan, wishes, candidate, operation.clone());
    if active::is_somebody_elses(&record, &cluster) {
        return Err(Error::Unprocessable(active::SCOPE_IN_USE.to_owned()));
    }
    let mut walk = Walk::new(broker, cluster).with_cells(cells);
    let first = walk.decide(&record);
    // First of all that is written: who is refused leaves nothing, and a marker may be shared with others.
    let reserved = quota::reserve(broker, plan, &command.instance, record.incarnation, operation.id).await?;
    let claimed = announce_and_claim(broker, first.record, &operation, began).await;
    let is_written = matches!(&claimed, Ok((_, Some(_))));
    if !is_written && !matches!(&claimed, Err(Error::Store(StoreError::Ambiguous { .. }))) {
        quota::give_back(broker, reserved).await;
    }
    let (announced, Some(current)) = claimed? else {
        // Somebody else claimed it between the two looks.
        let Some(current) = read_record(broker, &command.instance).await? else {
            return Err(Error::Concurrency(
                "another request about this instance is under way".to_owned(),
            ));
        };
        return join(broker, command, current).await;
    };
    let marker = broker
        .store
        .get(&keyspace::operation(&command.instance), Read::Quorum)
        .await?;
    if marker.is_none_or(|marker| marker.index != announced) {
        withdraw(broker, current, "it was taken back before it had begun").await?;
        return Err(stood_still());
    }
    transition::log(None, &current.record, broker.clock.now());
    walk.act(&current, first.effects).await?;
    let pass = walk.run(current).await?;
    if let Some(reason) = hopeless(&pass, broker.clock.now())
        && withdraw(broker, pass.into(), &reason.to_string()).await?
    {
        return Err(reason);
    }
    finish(broker, command, &operation).await
}

/// The record of an instance that was just asked for.
fn first_record(
    broker: &Broker,
    command: &Provision,
    plan: &Plan,
    wishes: Wishes,
    candidate: Port,
    operation: Operation,
) -> Record {
    Record {
        schema: SCHEMA,
        instance_id: command.instance.clone(),
        incarnation: Incarnation::from(broker.clock.random()),
        request: command.request.clone(),
        context: command.context.clone(),
        maintenance_version: plan.maintenance_info.as_ref().map(|info| info.version.clone()),
        maintenance_change: None,
        node_count: wishes.node_count,
        cells: wishes.cells,
        port: PortClaim::Candidate {
            port: candidate,
            misses: 0,
        },
        nodes: BTreeMap::new(),
        retired: Vec::new(),
        retired_earlier: 0,
        state: State::Active,
        bootstrapped: false,
        bootstrap_started: operation.started,
        bootstrap_restarts: 0,
        scope_cleared: None,
        failover: Some(plan.cluster.failover),
        plan_change: None,
        // Its nodes are started with these.
        settings: dynamic_configuration::version(&dynamic_configuration::of_plan(&plan.cluster))
            .map(str::to_owned),
        master_key: broker.settings.master_keys.active().to_owned(),
        credential_generation: FIRST_GENERATION,
        former_credentials: None,
        operation: Some(operation),
        last_operation: None,
        last_requested: None,
    }
}

/// Announces the provision, and writes its first record unless there is one already, another's. Answers the index of the
/// marker, too.
async fn announce_and_claim(
    broker: &Broker,
    record: Record,
    operation: &Operation,
    began: Timestamp,
) -> Result<(Index, Option<Current>), Error> {
    let marker = Marker::of(record.incarnation, operation);
    let announced = announce(broker, &record.instance_id, &marker, began).await?;
    if broker.clock.now().duration_since(began) > TOO_OLD {
        return Err(stood_still());
    }
    Ok((announced, claim(broker, record).await?))
}

/// Writes the first record. `None`: there is one already, another's.
async fn claim(broker: &Broker, record: Record) -> Result<Option<Current>, Error> {
    let key = keyspace::record(&record.instance_id);
    match broker.store.create(&key, &record.to_json(), None).await {
        Ok(index) => Ok(Some(Current { record, index })),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(lost @ StoreError::Ambiguous { .. }) => match broker.store.get(&key, Read::Quorum).await {
            // The incarnation is random: it is ours, so our write came through.
            Ok(Some(entry)) if entry.value == record.to_json() => Ok(Some(Current {
                record,
                index: entry.index,
            })),
            // Ours as well if only somebody has moved it on meanwhile. The same request joins it then.
            Ok(Some(entry)) => match Record::parse(&entry.value) {
                Ok(there) if there.incarnation != record.incarnation => Ok(None),
                _ => Err(lost.into()),
            },
            // It may still come, or have come. The marker lets reconcile find it then.
            Ok(None) | Err(_) => Err(lost.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The instance is there, or is being made, by a request like this one or another.
async fn join(broker: &Broker, command: &Provision, current: Current) -> Result<Provisioned, Error> {
    let record = &current.record;
    if record.state == State::Deleting {
        return Err(Error::Concurrency(
            "the instance is being deprovisioned".to_owned(),
        ));
    }
    let under_way = record.operation.as_ref().map(|operation| operation.kind);
    match under_way {
        Some(OperationKind::Update) => {
            return Err(Error::Concurrency("the instance is being updated".to_owned()));
        }
        Some(OperationKind::Recreate) => {
            return Err(Error::Concurrency("the instance is being made anew".to_owned()));
        }
        Some(OperationKind::Rotate) => {
            return Err(Error::Concurrency(
                "the instance's own passwords are being changed".to_owned(),
            ));
        }
        Some(OperationKind::Provision | OperationKind::Deprovision) | None => {}
    }
    let known = record.known_request();
    if known != command.request {
        return Err(Error::Conflict(format!(
            "an instance with this id exists, and differs in {}",
            known.differences(&command.request).join(", ")
        )));
    }
    match (&record.operation, &record.last_operation) {
        (Some(operation), _) => {
            if command.patience == Patience::Polls && push(broker, &command.instance, operation).await? {
                return Ok(Provisioned::Exists);
            }
            finish(broker, command, operation).await
        }
        (None, Some(last))
            if last.kind == OperationKind::Provision && last.state == OperationState::Failed =>
        {
            go_on(broker, command, current).await
        }
        (None, _) => Ok(Provisioned::Exists),
    }
}

/// A provision that was given up at its deadline is taken up again.
async fn go_on(broker: &Broker, command: &Provision, current: Current) -> Result<Provisioned, Error> {
    let Current { record, index } = current;
    let description = record
        .last_operation
        .as_ref()
        .map(|last| last.description.clone())
        .unwrap_or_default();
    let operation = begin(
        broker,
        OperationKind::Provision,
        &record.request,
        description,
        command.originating_identity.clone(),
    );
    mark(broker, &command.instance, record.incarnation, &operation).await?;
    let given_up = record.clone();
    let record = Record {
        operation: Some(operation.clone()),
        bootstrap_started: operation.started,
        bootstrap_restarts: 0,
        ..record
    };
    let key = keyspace::record(&command.instance);
    match broker
        .store
        .compare_and_swap(&key, &record.to_json(), index, None)
        .await
    {
        Ok(index) => {
            transition::log(Some(&given_up), &record, broker.clock.now());
            mark_if_late(broker, &command.instance, record.incarnation, &operation).await?;
            advance_from(broker, Current { record, index }).await?;
            finish(broker, command, &operation).await
        }
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Err(Error::Concurrency(
            "another request about this instance is under way".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

async fn finish(broker: &Broker, command: &Provision, operation: &Operation) -> Result<Provisioned, Error> {
    if command.patience == Patience::Polls {
        return Ok(Provisioned::Accepted {
            operation: operation_name(operation),
        });
    }
    match wait::until_ended(broker, &command.instance, operation).await? {
        wait::Ended::Well => Ok(Provisioned::Created),
        wait::Ended::Badly(operation) => Err(operation.into()),
    }
}

/// Would there be a cell for each node? Asked before anything is written, so that nothing is left behind.
fn check_room(cells: &[Cell], wishes: &Wishes) -> Result<(), Error> {
    let views: Vec<_> = cells.iter().map(|cell| cell.view.clone()).collect();
    wishes.check_count()?;
    wishes.check_cells(&views, None)?;
    let wanted = Wanted {
        count: usize::try_from(wishes.node_count).unwrap_or(usize::MAX),
        zones: Vec::new(),
        occupied: BTreeSet::new(),
        only: wishes.cells.as_deref(),
        turn: 0,
    };
    placement::choose(&views, &wanted)?;
    Ok(())
}

/// Why the first pass of a provision shows that there is no use in going on: no cell took a node, or there is no port.
/// Only where it is certain that no other handler has got further.
fn hopeless(pass: &Pass, now: Timestamp) -> Option<Error> {
    let record = &pass.record;
    if pass.facts.port == PortFact::Exhausted && record.port.owned().is_none() {
        let text = "no public port is free: all ports of the range are owned or in quarantine";
        return Some(Error::Unprocessable(text.to_owned()));
    }
    // Every node was refused to this handler, and nobody else has asked for it: one that leaves is not asked for again.
    let answer = |node: &NodeId| pass.facts.started.get(node);
    let hopeless = |(id, node): (&NodeId, &Node)| {
        let left_alone = node.phase == Phase::Leaving || !active::may_be_asked_again(node, now);
        matches!(answer(id), Some(StartAnswer::Refused(_))) && left_alone
    };
    if record.bootstrapped || record.nodes.is_empty() || !record.nodes.iter().all(hopeless) {
        return None;
    }
    let answers = || record.nodes.keys().filter_map(answer);
    let reasons: BTreeSet<&str> = answers()
        .filter_map(|answer| match answer {
            StartAnswer::Refused(reason) => Some(reason.as_str()),
            StartAnswer::Accepted(_) | StartAnswer::Unclear(_) => None,
        })
        .collect();
    Some(Error::CellsUnavailable(
        reasons.into_iter().collect::<Vec<_>>().join("; "),
    ))
}

/// Takes a provision back that no cell has taken part in, so that nothing is left of it. Answers whether that could be
/// done: if somebody else took it further meanwhile, it goes on, and ends as every provision does.
///
/// # Errors
/// When etcd cannot be read or written; then it is not known.
pub(crate) async fn withdraw(broker: &Broker, current: Current, reason: &str) -> Result<bool, Error> {
    let Current { mut record, index } = current;
    let before = record.clone();
    if let Some(operation) = record.operation.take() {
        let ended = Some(broker.clock.now());
        record.last_operation = Some(Operation {
            state: OperationState::Failed,
            description: reason.to_owned(),
            ended,
            ..operation
        });
    }
    record.state = State::Deleting;
    // These nodes are known not to run. Should a request to start one still be on its way, its cell finds that no record
    // names the node.
    let never_ran: Vec<_> = record
        .nodes
        .iter()
        .filter(|(_, node)| node.phase != Phase::Running)
        .map(|(id, _)| *id)
        .collect();
    record.nodes.retain(|node, _| !never_ran.contains(node));
    record.retired.extend(never_ran);
    // A provision that has failed has lost its marker, and what follows must be found by reconcile should this handler die.
    if let Some(operation) = record.latest_operation() {
        // No provision may take it for its own: it goes with this life.
        let going = Operation {
            kind: OperationKind::Deprovision,
            ..operation.clone()
        };
        mark(broker, &record.instance_id, record.incarnation, &going).await?;
    }
    let key = keyspace::record(&record.instance_id);
    match broker
        .store
        .compare_and_swap(&key, &record.to_json(), index, None)
        .await
    {
        Ok(_) => {
            transition::log(Some(&before), &record, broker.clock.now());
            advance(broker, &record.instance_id).await.map(|_| true)
        }
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
