//! When HAProxy is to be given something to do.

use std::time::{Duration, Instant};

/// How long changes of the set of instances are gathered before a reload.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure: doubled each time.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// When to look again for stale sessions, if that was not possible.
const RETRY_SWEEP: Duration = Duration::from_secs(1);

/// What is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    apply: Option<Instant>,
    /// Whether HAProxy has to be replaced, and not only reloaded.
    anew: bool,
    sweep: Option<Instant>,
    /// How long to wait after the next failure, and when the last one was.
    backoff: Duration,
    failed: Option<Instant>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// HAProxy is to be started or reloaded; when `anew`, what runs is to be killed before.
    Apply {
        /// Whether what runs is of no use.
        anew: bool,
    },
    /// Stale sessions of replaced workers are to be ended.
    Sweep,
}

impl Schedule {
    /// A first configuration is due.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            apply: Some(now),
            anew: false,
            sweep: None,
            backoff: Duration::ZERO,
            failed: None,
        }
    }

    /// The set of ports has changed.
    pub(super) fn gather(&mut self, now: Instant) {
        self.apply.get_or_insert(now + GATHER);
    }

    /// HAProxy has to be started or reloaded after a failure: at once after the first one, then later and later.
    pub(super) fn again(&mut self, now: Instant) {
        if self
            .failed
            .is_none_or(|failed| now.saturating_duration_since(failed) > 3 * LONGEST_BACKOFF)
        {
            self.backoff = Duration::ZERO;
        }
        self.failed = Some(now);
        self.apply = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).clamp(SHORTEST_BACKOFF, LONGEST_BACKOFF);
    }

    /// The same, and what runs is of no use.
    pub(super) fn anew(&mut self, now: Instant) {
        self.anew = true;
        self.again(now);
    }

    /// Sessions of replaced workers may be stale.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep = Some(now);
    }

    /// They may be still, since a sweep has failed.
    pub(super) fn sweep_again(&mut self, now: Instant) {
        self.sweep = Some(now + RETRY_SWEEP);
    }

    /// Takes what is due, if anything is.
    pub(super) fn take(&mut self, now: Instant) -> Option<Due> {
        let due = |time: &mut Option<Instant>| time.take_if(|time| *time <= now).is_some();
        if due(&mut self.apply) {
            let anew = std::mem::take(&mut self.anew);
            return Some(Due::Apply { anew });
        }
        due(&mut self.sweep).then_some(Due::Sweep)
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.apply, self.sweep].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_gathered_and_done_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.take(start), Some(Due::Apply { anew: false }));
        assert_eq!(schedule.take(start), None);
        schedule.gather(start);
        schedule.gather(start + GATHER / 2);
        schedule.sweep(start);
        assert_eq!(schedule.take(start), Some(Due::Sweep));
        assert_eq!(schedule.next(), Some(start + GATHER));
        assert_eq!(schedule.take(start + GATHER), Some(Due::Apply { anew: false }));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            schedule.anew(now);
            let next = schedule.next().unwrap();
            pauses.push(next - now);
            now = next;
            assert_eq!(schedule.take(now), Some(Due::Apply { anew: true }));
        }
        assert_eq!(pauses[..3], [0, 100, 200].map(Duration::from_millis));
        assert_eq!(pauses[9], LONGEST_BACKOFF);
        // A failure after a long time is a first one.
        now += 4 * LONGEST_BACKOFF;
        schedule.again(now);
        assert_eq!(schedule.next(), Some(now));
    }
}
