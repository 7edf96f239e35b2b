//! Many processes at once, in an order that a seed decides on.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::{Chance, Handler, World};

/// Polls a task so often before time passes, on average.
const STEPS_IN_A_SECOND: usize = 30;

/// What runs at once.
pub struct Schedule<'w> {
    world: &'w World,
    chance: Chance,
    tasks: Vec<Task<'w>>,
}

struct Task<'w> {
    handler: Handler,
    future: Pin<Box<dyn Future<Output = ()> + 'w>>,
}

impl<'w> Schedule<'w> {
    /// Nothing yet.
    #[must_use]
    pub fn new(world: &'w World, chance: Chance) -> Self {
        Self {
            world,
            chance,
            tasks: Vec::new(),
        }
    }

    /// Adds what a handler does.
    pub fn add<F: Future<Output = ()> + 'w>(&mut self, handler: &Handler, task: impl FnOnce(Handler) -> F) {
        self.tasks.push(Task {
            handler: handler.clone(),
            future: Box::pin(task(handler.clone())),
        });
    }

    /// Runs until everything has ended or died, and calls `check` whenever a second has passed.
    ///
    /// # Panics
    /// When that takes more than so many seconds.
    pub fn run(&mut self, limit: usize, check: impl Fn(&World)) {
        let mut context = Context::from_waker(Waker::noop());
        let mut seconds = 0;
        while !self.tasks.is_empty() {
            if self.chance.once_in(STEPS_IN_A_SECOND) {
                self.world.tick();
                check(self.world);
                seconds += 1;
                assert!(seconds <= limit, "{} tasks do not end", self.tasks.len());
            }
            let chosen = self.chance.below(self.tasks.len());
            let task = &mut self.tasks[chosen];
            let ended = task.future.as_mut().poll(&mut context) == Poll::Ready(());
            if ended || task.handler.process().is_dead() {
                drop(self.tasks.swap_remove(chosen));
            }
        }
    }
}
