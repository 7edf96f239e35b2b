//! One handler in a process of its own, and the requests that clients make.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use jiff::SignedDuration;
use serde_json::{Map, Value, json};
use shared::{
    act::{self, Directory, Scene},
    advance::{advance, read_cluster, read_record},
    binding::{BindRequest, Wanted},
    broker::Broker,
    clock::Clock,
    decide::{Situation, decide},
    effect::Facts,
    error::Error,
    ids::{BindingId, InstanceId},
    keyspace, reconcile,
    record::{OperationState, Request},
    roll::{self, Known},
    service::{
        Patience,
        bind::{self, Bind, Bound},
        deprovision::{self, Deprovision, Deprovisioned},
        last_operation::{self, LastOperation},
        provision::{self, Provision, Provisioned},
        recreate, rotate,
        unbind::{self, Unbind},
        update::{self, Update, Updated},
    },
    store::StoreError,
};

use super::{Process, World, immediate::yield_now};

/// More polls of one future than any request needs.
const PATIENCE: usize = 1_000_000;

/// An instance id.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn instance(id: &str) -> InstanceId {
    id.parse().unwrap()
}

/// A binding id.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn binding(id: &str) -> BindingId {
    id.parse().unwrap()
}

/// A handler. Its requests are those of a client that polls.
#[derive(Clone)]
pub struct Handler {
    world: Arc<World>,
    broker: Broker,
    process: Arc<Process>,
}

impl Handler {
    pub(super) fn new(world: Arc<World>, broker: Broker, process: Arc<Process>) -> Self {
        Self {
            world,
            broker,
            process,
        }
    }

    /// The process that it runs in.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it lives.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// What it works with.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Runs something of this handler until it ends, or the process dies or freezes: then `None`.
    ///
    /// # Panics
    /// When it neither ends nor stops.
    pub fn run<T>(&self, future: &mut Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..PATIENCE {
            if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
                return Some(answer);
            }
            if self.process.is_dead() || self.process.is_frozen() {
                return None;
            }
        }
        panic!(
            "{} does not end:\n{}",
            self.process.name(),
            self.world.log().join("\n")
        );
    }

    /// The same, for something that is not needed any more when the process stops.
    pub fn ask<'f, T>(&self, future: impl Future<Output = T> + 'f) -> Option<T> {
        let mut future: Pin<Box<dyn Future<Output = T> + 'f>> = Box::pin(future);
        self.run(&mut future)
    }

    /// Lets so many seconds pass while others run.
    pub async fn wait(&self, seconds: i64) {
        let end = self.world.clock.now() + SignedDuration::from_secs(seconds);
        while self.world.clock.now() < end {
            yield_now().await;
        }
    }

    /// PUT of an instance with so many nodes.
    ///
    /// # Errors
    /// As [`provision::provision`].
    pub async fn provision(&self, id: &InstanceId, nodes: u32) -> Result<Provisioned, Error> {
        self.provision_on(id, nodes, None).await
    }

    /// PUT of an instance of the plan that has a quota.
    ///
    /// # Errors
    /// As [`provision::provision`].
    pub async fn provision_few(&self, id: &InstanceId) -> Result<Provisioned, Error> {
        self.provision_as(id, "few", node_count(1)).await
    }

    /// PUT of an instance with so many nodes on these cells.
    ///
    /// # Errors
    /// As [`provision::provision`].
    pub async fn provision_on(
        &self,
        id: &InstanceId,
        nodes: u32,
        cells: Option<&[String]>,
    ) -> Result<Provisioned, Error> {
        let mut parameters = node_count(nodes);
        parameters.extend(cells.map(|cells| ("cells".to_owned(), json!(cells))));
        self.provision_as(id, "p1", parameters).await
    }

    async fn provision_as(
        &self,
        id: &InstanceId,
        plan: &str,
        parameters: Map<String, Value>,
    ) -> Result<Provisioned, Error> {
        let request = Request {
            service_id: "s1".to_owned(),
            plan_id: plan.to_owned(),
            organization_guid: "o".to_owned(),
            space_guid: "s".to_owned(),
            parameters,
        };
        let command = Provision {
            instance: id.clone(),
            request,
            context: Map::new(),
            maintenance_version: None,
            patience: Patience::Polls,
            originating_identity: None,
        };
        provision::provision(&self.broker, &command).await
    }

    /// PATCH of an instance to so many nodes.
    ///
    /// # Errors
    /// As [`update::update`].
    pub async fn update(&self, id: &InstanceId, nodes: u32) -> Result<Updated, Error> {
        self.change(id, node_count(nodes)).await
    }

    /// PATCH of an instance to so many nodes on these cells.
    ///
    /// # Errors
    /// As [`update::update`].
    pub async fn relocate(&self, id: &InstanceId, nodes: u32, cells: &[String]) -> Result<Updated, Error> {
        let mut parameters = node_count(nodes);
        parameters.insert("cells".to_owned(), json!(cells));
        self.change(id, parameters).await
    }

    /// PATCH of an instance to another plan.
    ///
    /// # Errors
    /// As [`update::update`].
    pub async fn change_plan(&self, id: &InstanceId, plan: &str) -> Result<Updated, Error> {
        self.change_to(id, Some(plan), Map::new(), None).await
    }

    /// PATCH of an instance to another context.
    ///
    /// # Errors
    /// As [`update::update`].
    pub async fn change_context(
        &self,
        id: &InstanceId,
        context: Map<String, Value>,
    ) -> Result<Updated, Error> {
        self.change_to(id, None, Map::new(), Some(context)).await
    }

    async fn change(&self, id: &InstanceId, parameters: Map<String, Value>) -> Result<Updated, Error> {
        self.change_to(id, None, parameters, None).await
    }

    async fn change_to(
        &self,
        id: &InstanceId,
        plan: Option<&str>,
        parameters: Map<String, Value>,
        context: Option<Map<String, Value>>,
    ) -> Result<Updated, Error> {
        let command = Update {
            instance: id.clone(),
            service_id: "s1".to_owned(),
            plan_id: plan.map(str::to_owned),
            parameters,
            context,
            maintenance_version: None,
            patience: Patience::Polls,
            originating_identity: None,
        };
        update::update(&self.broker, &command).await
    }

    /// DELETE of an instance.
    ///
    /// # Errors
    /// As [`deprovision::deprovision`].
    pub async fn deprovision(&self, id: &InstanceId) -> Result<Deprovisioned, Error> {
        let command = Deprovision {
            instance: id.clone(),
            patience: Patience::Polls,
            originating_identity: None,
        };
        deprovision::deprovision(&self.broker, &command).await
    }

    /// PUT of a binding.
    ///
    /// # Errors
    /// As [`bind::bind`].
    pub async fn bind(&self, id: &InstanceId, binding: &BindingId) -> Result<Bound, Error> {
        let request = BindRequest {
            service_id: "s1".to_owned(),
            plan_id: "p1".to_owned(),
            bind_resource: Map::new(),
            parameters: Map::new(),
            predecessor_binding_id: None,
        };
        let command = Bind {
            instance: id.clone(),
            binding: binding.clone(),
            wanted: Wanted::New(request),
            originating_identity: None,
        };
        bind::bind(&self.broker, &command).await
    }

    /// DELETE of a binding.
    ///
    /// # Errors
    /// As [`unbind::unbind`].
    pub async fn unbind(&self, id: &InstanceId, binding: &BindingId) -> Result<(), Error> {
        let command = Unbind {
            instance: id.clone(),
            binding: binding.clone(),
            lacks: None,
            originating_identity: None,
        };
        unbind::unbind(&self.broker, &command).await
    }

    /// GET of the last operation.
    ///
    /// # Errors
    /// As [`last_operation::last_operation`].
    pub async fn poll(&self, id: &InstanceId) -> Result<LastOperation, Error> {
        last_operation::last_operation(&self.broker, id, None).await
    }

    /// GET of the last operation by a client that names its own.
    ///
    /// # Errors
    /// As [`last_operation::last_operation`].
    pub async fn poll_named(&self, id: &InstanceId, operation: &str) -> Result<LastOperation, Error> {
        last_operation::last_operation(&self.broker, id, Some(operation)).await
    }

    /// Polls every second until the operation has ended, and answers how; `None` for an instance that is not there.
    pub async fn poll_to_the_end(&self, id: &InstanceId) -> Option<LastOperation> {
        loop {
            match self.poll(id).await {
                Ok(last) if last.state != OperationState::InProgress => return Some(last),
                Err(Error::NotFound(_) | Error::Gone(_)) => return None,
                Ok(_) | Err(_) => self.world.tick(),
            }
        }
    }

    /// One round of the schedule.
    ///
    /// # Errors
    /// As [`reconcile::operations`].
    pub async fn reconcile(&self) -> Result<usize, Error> {
        let found = reconcile::operations(&self.broker).await?;
        Ok(found.in_progress + found.waiting)
    }

    /// A look at the next slice of all instances. Answers how many things it mended.
    ///
    /// # Errors
    /// As [`reconcile::drift::slice`].
    pub async fn mend(&self) -> Result<usize, Error> {
        Ok(reconcile::drift::slice(&self.broker).await?.mended)
    }

    /// A pass that carries every effect out twice: [`advance`], as a handler does it that forgets what it has done.
    ///
    /// # Errors
    /// As [`advance`].
    pub async fn advance_twice(&self, id: &InstanceId) -> Result<(), Error> {
        let broker = &self.broker;
        let (mut facts, mut directory) = (Facts::default(), Directory::default());
        let mut done = Vec::new();
        for _ in 0..24 {
            let Some(current) = read_record(broker, id).await? else {
                return Ok(());
            };
            let cluster = read_cluster(broker, id).await?;
            let plan = broker.plan_configuration(&current.record)?;
            let replace_after = broker.settings.replace_after;
            let decision = decide(&Situation {
                record: &current.record,
                cluster: &cluster,
                facts: &facts,
                plan: Some(&plan),
                replace_after: SignedDuration::try_from(replace_after).unwrap(),
                now: broker.clock.now(),
                seed: broker.clock.random(),
            });
            let mut index = current.index;
            if decision.record != current.record {
                let key = keyspace::record(id);
                let value = decision.record.to_json();
                match broker.store.compare_and_swap(&key, &value, index, None).await {
                    Ok(written) => index = written,
                    Err(StoreError::Conflict { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            } else if decision.effects.iter().all(|effect| done.contains(effect)) {
                return Ok(());
            }
            let scene = Scene {
                record: &decision.record,
                index,
                cluster: &cluster,
            };
            for _ in 0..2 {
                act::act(broker, scene, &decision.effects, &mut directory, &mut facts).await?;
            }
            done.extend(decision.effects);
        }
        Ok(())
    }

    /// An operator declares a cell destroyed.
    ///
    /// # Errors
    /// As [`roll::declare_destroyed`].
    ///
    /// # Panics
    /// When it is not the name of a cell.
    pub async fn declare_destroyed(&self, cell: &str) -> Result<Known, Error> {
        let now = self.broker.clock.now();
        roll::declare_destroyed(&*self.broker.store, &cell.parse().unwrap(), now).await
    }

    /// An operator has an instance made anew whose every copy is lost.
    ///
    /// # Errors
    /// As [`recreate::recreate`].
    pub async fn recreate(&self, id: &InstanceId) -> Result<(), Error> {
        recreate::recreate(&self.broker, id).await.map(drop)
    }

    /// An operator has an instance's own passwords changed.
    ///
    /// # Errors
    /// As [`rotate::rotate`].
    pub async fn rotate(&self, id: &InstanceId) -> Result<(), Error> {
        rotate::rotate(&self.broker, id).await.map(drop)
    }

    /// One ordinary pass.
    ///
    /// # Errors
    /// As [`advance`].
    pub async fn advance(&self, id: &InstanceId) -> Result<(), Error> {
        advance(&self.broker, id).await.map(drop)
    }
}

fn node_count(nodes: u32) -> Map<String, Value> {
    Map::from_iter([("node-count".to_owned(), json!(nodes))])
}
