//! The life of instances in the simulated world: undisturbed, with a crash at every step, with lost answers, with everything
//! done twice, with handlers that stand still for minutes, and with many at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod absences;
mod bindings;
mod crashes;
mod drift;
mod fences;
mod freezes;
mod imports;
mod plan_changes;
mod quotas;
mod races;
mod recreation;
mod reservations;
mod rotation;
mod turns;
mod undisturbed;

use tests::simulation::story;
