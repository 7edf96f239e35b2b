//! The operations that tests disturb, and those who carry them on.

use std::sync::Arc;

use shared::{
    error::Error,
    ids::{BindingId, InstanceId},
    keyspace,
    record::{OperationState, Record, State},
    service::{deprovision::Deprovisioned, provision::Provisioned, update::Updated},
};

use super::{Fate, Handler, Layout, Process, World, audit, binding, instance};

/// An operation, from its request to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Two nodes are made.
    Provision,
    /// Two nodes become three.
    Grow,
    /// Three nodes become two.
    Shrink,
    /// Two nodes go to other cells.
    Move,
    /// Three nodes come to a plan with larger settings.
    Widen,
    /// Three nodes come to a plan with smaller settings.
    Narrow,
    /// Two nodes are taken away.
    Deprovision,
    /// An instance is taken away that was being made.
    DeprovisionHalfMade,
    /// Two nodes get other passwords.
    Rotate,
    /// A login is made.
    Bind,
    /// A login is taken away.
    Unbind,
}

/// Those that are operations: anybody can carry them on.
pub const STORIES: [Story; 9] = [
    Story::Provision,
    Story::Grow,
    Story::Shrink,
    Story::Move,
    Story::Widen,
    Story::Narrow,
    Story::Rotate,
    Story::Deprovision,
    Story::DeprovisionHalfMade,
];

/// Where the nodes of [`Story::Move`] are.
const FROM: [&str; 2] = ["c1", "c2"];
/// Where they go.
const TO: [&str; 2] = ["c3", "c4"];

/// Who carries an operation on whose handler has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Nothing but the schedule.
    Reconcile,
    /// Nothing but a client that polls.
    Polls,
    /// Nothing but a client that repeats its request.
    Requests,
}

/// All of them.
pub const CARRIERS: [Carrier; 3] = [Carrier::Reconcile, Carrier::Polls, Carrier::Requests];

/// More seconds than any operation takes in which nobody is away for long.
const LONG: usize = 300;

/// The instance of all stories.
#[must_use]
pub fn id() -> InstanceId {
    instance("f1")
}

/// A handler that nothing befalls.
#[must_use]
pub fn kind(world: &Arc<World>) -> Handler {
    world.handler(Process::new("kind", Fate::Kind))
}

impl Story {
    /// How many nodes there are before, and after.
    pub fn nodes(self) -> (usize, usize) {
        match self {
            Self::Provision => (0, 2),
            Self::Grow => (2, 3),
            Self::Shrink => (3, 2),
            Self::Widen | Self::Narrow => (3, 3),
            Self::Move | Self::Rotate | Self::Bind | Self::Unbind => (2, 2),
            Self::Deprovision | Self::DeprovisionHalfMade => (2, 0),
        }
    }

    /// The plan that it ends with, and with how many connections its nodes run then.
    fn plan(self) -> (&'static str, i64) {
        match self {
            Self::Widen => ("wide", 200),
            Self::Narrow => ("narrow", 50),
            _ => ("p1", 100),
        }
    }

    /// A world in which it can begin.
    pub fn world(self, layout: Layout) -> Arc<World> {
        let world = World::new(layout);
        self.set_in(&world);
        world
    }

    /// Makes a fresh world one in which it can begin.
    ///
    /// # Panics
    /// When that does not succeed.
    pub fn set_in(self, world: &Arc<World>) {
        let handler = kind(world);
        let before = u32::try_from(self.nodes().0).unwrap();
        if before == 0 {
            return;
        }
        let cells = (self == Self::Move).then(|| cells(FROM));
        let id = id();
        let provision = handler.provision_on(&id, before, cells.as_deref());
        handler.ask(provision).unwrap().unwrap();
        if self == Self::DeprovisionHalfMade {
            world.tick();
            return;
        }
        let last = handler.ask(handler.poll_to_the_end(&id)).unwrap().unwrap();
        assert_eq!(last.state, OperationState::Succeeded, "{last:?}");
        if self == Self::Unbind {
            handler.ask(handler.bind(&id, &login())).unwrap().unwrap();
        }
        audit::assert_in_order(world);
    }

    /// The request; `true` when it is answered by: it is done.
    pub async fn request(self, handler: &Handler) -> Result<bool, Error> {
        Ok(match self {
            Self::Provision => !matches!(handler.provision(&id(), 2).await?, Provisioned::Accepted { .. }),
            Self::Grow => !matches!(handler.update(&id(), 3).await?, Updated::Accepted { .. }),
            Self::Shrink => !matches!(handler.update(&id(), 2).await?, Updated::Accepted { .. }),
            Self::Widen | Self::Narrow => {
                let changed = handler.change_plan(&id(), self.plan().0).await?;
                !matches!(changed, Updated::Accepted { .. })
            }
            Self::Move => {
                let moved = handler.relocate(&id(), 2, &cells(TO)).await?;
                !matches!(moved, Updated::Accepted { .. })
            }
            Self::Rotate => {
                // As `--all` has it, which can be repeated.
                let needed = |record: Record| record.credential_generation == 1 || !record.is_at_rest();
                let is_needed = handler.world().record(&id()).is_none_or(needed);
                if is_needed {
                    handler.rotate(&id()).await?;
                }
                !is_needed
            }
            Self::Deprovision | Self::DeprovisionHalfMade => match handler.deprovision(&id()).await {
                Err(Error::Gone(_)) => true,
                other => other? == Deprovisioned::Done,
            },
            Self::Bind => handler.bind(&id(), &login()).await.map(|_| true)?,
            Self::Unbind => match handler.unbind(&id(), &login()).await {
                Err(Error::Gone(_)) => true,
                other => other.map(|()| true)?,
            },
        })
    }

    /// The request and the polls up to its end, by one handler.
    pub async fn tell(self, handler: &Handler) {
        if let Ok(false) = self.request(handler).await {
            handler.poll_to_the_end(&id()).await;
        }
    }

    /// Whether the world knows that it was asked for.
    pub fn has_begun(self, world: &World) -> bool {
        match (self, world.record(&id())) {
            (Self::Provision, record) => record.is_some(),
            (Self::Grow, record) => record.is_some_and(|record| record.node_count == 3),
            (Self::Shrink, record) => record.is_some_and(|record| record.node_count == 2),
            (Self::Widen | Self::Narrow, record) => {
                record.is_some_and(|record| record.request.plan_id == self.plan().0)
            }
            (Self::Rotate, record) => record.is_some_and(|record| record.credential_generation == 2),
            (Self::Move, record) => {
                let wanted = cells(TO);
                record.and_then(|record| record.cells).is_some_and(|cells| {
                    let cells: Vec<_> = cells.iter().map(ToString::to_string).collect();
                    cells == wanted
                })
            }
            // Nobody carries them on but who asks for them again.
            (Self::Bind | Self::Unbind, _) => false,
            (Self::Deprovision | Self::DeprovisionHalfMade, record) => {
                record.is_none_or(|record| record.state == State::Deleting)
            }
        }
    }

    fn has_ended(self, world: &World) -> bool {
        world
            .record(&id())
            .is_none_or(|record| record.operation.is_none() && record.state == State::Active)
    }

    /// Carries it on from wherever it is.
    pub fn carry_on(self, world: &Arc<World>, carrier: Carrier) {
        let handler = kind(world);
        for _ in 0..LONG {
            let done = match carrier {
                Carrier::Reconcile => {
                    handler.ask(handler.reconcile()).unwrap().unwrap();
                    self.has_ended(world)
                }
                Carrier::Polls => {
                    // An instance that is gone is not polled, but all that may be said of it is.
                    let _ = handler.ask(handler.poll(&id())).unwrap();
                    self.has_ended(world)
                }
                Carrier::Requests => handler.ask(self.request(&handler)).unwrap().unwrap_or(false),
            };
            if done {
                return;
            }
            world.tick();
            audit::assert_safe(world);
        }
        panic!("{self:?} does not end by {carrier:?}: {:#?}", world.record(&id()));
    }

    /// Asserts that it ended as asked, or that nothing has happened, and that nothing else is left.
    pub fn check(self, world: &Arc<World>, begun: bool) {
        settle(world);
        let nodes = world.record(&id()).map_or(0, |record| record.nodes.len());
        let (before, after) = self.nodes();
        // What was being made goes on being made.
        assert_eq!(nodes, if begun { after } else { before }, "begun: {begun}");
        if let Some(record) = world.record(&id()) {
            let (plan, connections) = if begun { self.plan() } else { ("p1", 100) };
            assert_eq!((record.known_plan(), &record.plan_change), (plan, &None));
            let run_with = world.run_with(&id());
            assert_eq!(
                run_with,
                vec![(connections, false); nodes],
                "{self:?}, begun: {begun}"
            );
        }
        if let Some(record) = world.record(&id()).filter(|_| self == Self::Rotate) {
            assert_eq!(record.credential_generation, 1 + u32::from(begun));
        }
        if self == Self::Move {
            let record = world.record(&id()).unwrap();
            let mut now: Vec<_> = record.nodes.values().map(|node| node.cell.to_string()).collect();
            now.sort();
            assert_eq!(now, cells(if begun { TO } else { FROM }));
        }
        let bound = match self {
            Self::Bind => usize::from(begun),
            Self::Unbind => usize::from(!begun),
            _ => 0,
        };
        let key = keyspace::binding(&id(), &login());
        assert_eq!(usize::from(world.store.content().contains_key(&key)), bound);
        let logins = world.logins(&id());
        assert_eq!(logins.values().filter(|open| **open).count(), bound);
        audit::assert_in_order(world);
    }
}

fn cells(names: [&str; 2]) -> Vec<String> {
    names.map(str::to_owned).into()
}

fn login() -> BindingId {
    binding("b1")
}

/// Lets the schedule run for as long as anything may be left that runs out or is swept.
pub fn settle(world: &Arc<World>) {
    let handler = kind(world);
    for _ in 0..LONG {
        handler.ask(handler.reconcile()).unwrap().unwrap();
        world.tick();
        audit::assert_safe(world);
        if audit::is_at_rest(world) {
            break;
        }
    }
    world.pass(65);
    handler.ask(handler.reconcile()).unwrap().unwrap();
}
