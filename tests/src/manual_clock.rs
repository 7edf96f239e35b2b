//! A clock that goes only when it is told to, and numbers that are the same in every run.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use shared::clock::Clock;
use uuid::Uuid;

/// Time and chance of a simulation.
#[derive(Debug)]
pub struct ManualClock(Mutex<State>);

#[derive(Debug)]
struct State {
    now: Timestamp,
    /// Which of the series of numbers this is.
    seed: u64,
    drawn: u64,
}

impl ManualClock {
    /// A clock that stands at a certain time, the same for each; another seed gives other numbers.
    ///
    /// # Panics
    /// Never: the time exists.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self(Mutex::new(State { now, seed, drawn: 0 }))
    }

    /// Lets so much time pass.
    ///
    /// # Panics
    /// When it leads beyond the end of time.
    pub fn advance(&self, time: Duration) {
        self.with(|state| state.now = state.now.checked_add(time).unwrap());
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.with(|state| state.now)
    }

    fn random(&self) -> Uuid {
        self.with(|state| {
            state.drawn += 1;
            let name = format!("{}/{}", state.seed, state.drawn);
            Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_until_it_is_advanced() {
        let clock = ManualClock::new(1);
        let before = clock.now();
        assert_eq!(clock.now(), before);
        clock.advance(Duration::from_secs(90));
        assert_eq!(clock.now().duration_since(before).as_secs(), 90);
    }

    #[test]
    fn numbers_differ_and_come_again_with_the_same_seed() {
        let draw = |seed| {
            let clock = ManualClock::new(seed);
            [clock.random(), clock.random()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1)[0], draw(1)[1]);
        assert_ne!(draw(1), draw(2));
    }
}
