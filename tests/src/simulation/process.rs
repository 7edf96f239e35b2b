//! A process that runs a handler: what befalls it at which of its calls.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::{Chance, immediate::yield_now};

/// What befalls a process at a write to the store, or at a call to a cell, Patroni or PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// It is killed before the call.
    DiesBefore,
    /// It is killed right after it.
    DiesAfter,
    /// It stands still before the call until it is thawed, or for so many seconds.
    Freezes {
        /// `None`: until [`Process::thaw`].
        seconds: Option<u32>,
    },
    /// It stands still right after the call.
    FreezesAfter {
        /// `None`: until [`Process::thaw`].
        seconds: Option<u32>,
    },
    /// The call is done, but its answer is lost.
    LosesAnswer,
    /// The same, and it stands still before it knows, until [`Process::thaw`].
    WaitsForLostAnswer,
    /// The call does not come through, but nobody says so.
    LosesCall,
    /// The call comes through so many seconds after it was given up.
    ComesLate {
        /// In seconds.
        seconds: u32,
    },
    /// It is certain that the call did not come through.
    IsRefused,
    /// The call is done twice.
    Repeats,
}

/// Whom what befalls.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Nothing happens.
    Kind,
    /// One accident, at the n-th call (from 1).
    Once(usize, Accident),
    /// The same at every call.
    Always(Accident),
    /// Any accident, once in so many calls; and reads fail.
    Cruel(Chance, usize),
}

/// A process.
#[derive(Debug)]
pub struct Process {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fate: Fate,
    calls: usize,
    reads: usize,
    dead: bool,
    /// While set, it stands still, until that time if there is one.
    frozen: Option<Option<Timestamp>>,
    /// Whether others may run between its calls.
    interleaved: bool,
}

impl Process {
    /// A process that runs alone.
    #[must_use]
    pub fn new(name: &str, fate: Fate) -> Self {
        Self::make(name, fate, false)
    }

    /// A process that lets others run at each of its calls.
    #[must_use]
    pub fn interleaved(name: &str, fate: Fate) -> Self {
        Self::make(name, fate, true)
    }

    fn make(name: &str, fate: Fate, interleaved: bool) -> Self {
        let state = State {
            fate,
            calls: 0,
            reads: 0,
            dead: false,
            frozen: None,
            interleaved,
        };
        Self {
            name: name.to_owned(),
            state: Mutex::new(state),
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many writes and calls it has begun.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.with(|state| state.calls)
    }

    /// How many reads it has begun, and questions to cells.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.with(|state| state.reads)
    }

    pub(super) fn reads_once_more(&self) {
        self.with(|state| state.reads += 1);
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.with(|state| state.dead)
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.with(|state| state.frozen.is_some())
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.with(|state| state.frozen = None);
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call, and says what befalls it.
    pub(super) fn begins(&self) -> Option<Accident> {
        self.with(|state| {
            state.calls += 1;
            match &mut state.fate {
                Fate::Kind => None,
                Fate::Once(at, accident) => (*at == state.calls).then_some(*accident),
                Fate::Always(accident) => Some(*accident),
                Fate::Cruel(chance, times) => chance.once_in(*times).then(|| any_accident(chance)),
            }
        })
    }

    /// Whether a read fails.
    pub(super) fn misses_a_read(&self) -> bool {
        self.with(|state| match &mut state.fate {
            Fate::Cruel(chance, times) => chance.once_in(*times * 3),
            Fate::Kind | Fate::Once(..) | Fate::Always(_) => false,
        })
    }

    /// Is killed: whoever waits for it waits for ever.
    pub(super) async fn die<T>(&self) -> T {
        self.with(|state| state.dead = true);
        std::future::pending().await
    }

    pub(super) fn freeze(&self, until: Option<Timestamp>) {
        self.with(|state| state.frozen = Some(until));
    }

    /// Lets others run, for as long as it stands still.
    pub(super) async fn pause(&self, now: impl Fn() -> Timestamp) {
        if self.with(|state| state.interleaved) {
            yield_now().await;
        }
        loop {
            let stands_still = self.with(|state| {
                state.frozen = state
                    .frozen
                    .filter(|until| until.is_none_or(|until| now() < until));
                state.frozen.is_some()
            });
            if !stands_still {
                return;
            }
            yield_now().await;
        }
    }
}

fn any_accident(chance: &mut Chance) -> Accident {
    let longest = if chance.once_in(3) { 400 } else { 10 };
    let seconds = u32::try_from(1 + chance.below(longest)).unwrap();
    match chance.below(9) {
        0 => Accident::DiesBefore,
        1 => Accident::DiesAfter,
        2 => Accident::Freezes {
            seconds: Some(seconds),
        },
        3 => Accident::FreezesAfter {
            seconds: Some(seconds),
        },
        4 => Accident::LosesAnswer,
        5 => Accident::LosesCall,
        // Later than a marker is left alone, it would be for a look at all records to find.
        6 => Accident::ComesLate {
            seconds: seconds.min(50),
        },
        7 => Accident::IsRefused,
        _ => Accident::Repeats,
    }
}
