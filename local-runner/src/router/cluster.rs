//! One cluster as Patroni's keys show it, and which of its members gets the sessions.

use std::{collections::HashMap, time::Instant};

use super::member::{Endpoint, Member};

/// The member that gets the sessions of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its name in Patroni.
    pub(crate) member: String,
    /// Where it listens.
    pub(crate) endpoint: Endpoint,
    /// The URL at which to ask whether it takes writes yet; `None` when there is nothing to ask.
    pub(crate) ask: Option<String>,
}

/// The keys of one cluster, and who was served last.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// The value of the leader key.
    holder: Option<String>,
    members: HashMap<String, Member>,
    served: Option<Leader>,
    /// Until when the absence of the leader key does not count.
    held_until: Option<Instant>,
}

impl Cluster {
    /// The member that gets the sessions; `None`: nobody, the leader is unknown.
    pub(crate) fn served(&self) -> Option<&Leader> {
        self.served.as_ref()
    }

    /// Until when the last leader is kept although nobody holds the leader key.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Whether nothing is known of it, so that it can be forgotten.
    pub(crate) fn is_empty(&self) -> bool {
        self.holder.is_none() && self.members.is_empty() && self.served.is_none()
    }

    /// The leader key was written.
    pub(crate) fn lead(&mut self, name: &str) {
        self.held_until = None;
        if self.holder.as_deref() != Some(name) {
            self.holder = Some(name.to_owned());
            self.elect();
        }
    }

    /// The leader key is gone. With `held_until` its absence does not count before that time.
    pub(crate) fn unlead(&mut self, held_until: Option<Instant>) {
        // A key that was gone already and is now deleted on purpose is not missing because of an outage.
        if self.holder.take().is_some() || held_until.is_none() {
            self.held_until = held_until;
        }
        self.elect();
    }

    /// A member key was written; `None`: with a value that is not understood.
    pub(crate) fn publish(&mut self, name: &str, member: Option<Member>) {
        match (self.members.get_mut(name), member) {
            (Some(known), Some(member)) if *known == member => return,
            (Some(known), Some(member)) => *known = member,
            (None, Some(member)) => {
                self.members.insert(name.to_owned(), member);
            }
            (_, None) => {
                self.members.remove(name);
            }
        }
        self.elect();
    }

    /// All member keys are gone.
    pub(crate) fn depopulate(&mut self) {
        self.members.clear();
        self.elect();
    }

    /// Time has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
            self.elect();
        }
    }

    /// Takes over from what was known before a snapshot, of which `self` is the new state.
    pub(crate) fn succeed(&mut self, before: Self, held_until: Option<Instant>) {
        self.served = before.served;
        if self.holder.is_none() && self.served.is_some() {
            self.held_until = before.held_until.or(held_until);
        }
        self.elect();
    }

    fn elect(&mut self) {
        let Some(holder) = &self.holder else {
            // A held leader that says itself that it is a primary no more is not held: it serves as a replica now.
            let held = self.held_until.is_some()
                && self.served.as_ref().is_some_and(|leader| {
                    self.members
                        .get(&leader.member)
                        .is_none_or(|member| member.may_be_primary)
                });
            if !held {
                self.served = None;
                self.held_until = None;
            }
            return;
        };
        match self.members.get(holder) {
            Some(member) => {
                self.served = Some(Leader {
                    member: holder.clone(),
                    endpoint: member.endpoint.clone(),
                    ask: member.ask.clone(),
                });
            }
            // Its member key has expired, or cannot be read: where it is has been known all the same.
            None if self
                .served
                .as_ref()
                .is_some_and(|leader| leader.member == *holder) => {}
            None => self.served = None,
        }
    }
}
