//! A world in which handlers live, die, freeze and race: the real record, `decide`, `advance`, services and
//! reconcile, on the store in memory or a real etcd, with simulated cells, Patroni and PostgreSQL.
//!
//! **Guarantees.** Deterministic: the same [`World`], the same [`Process`]es and the same seed lead to the same run, call by
//! call. Nothing sleeps; time passes only in [`World::tick`]. (On a real etcd, keys run out by the clock on the wall.)
//! **Assumes.** The rules of a cell are those of `local-runner/src/cell/judgement.rs`, written down again in `cell`: when
//! they change there, they change here.
//! **Caveats.** Patroni is simulated as far as it decides about the life of an instance: its keys and their order, elections,
//! the cloning of replicas. Data is one name for each cluster, and replicas are never behind.
//!
//! The parts: `world` (time and everything outside handlers), `cell`, `patroni`, `settings`, `database`, `outside` (what calls to them do); [`Process`] and `wire` (what one
//! handler sees of the world, and what befalls it), [`Handler`] (its requests), [`Schedule`] (many at once, from a seed),
//! [`story`] (operations that tests disturb) and `steps` (at each of their steps), [`audit`] (what must hold); `ground` (where
//! the keys are), and [`stand_in`] (the world's cells for brokers that are processes of their own).

pub mod audit;
mod bug;
mod cell;
mod chance;
mod damage;
mod database;
mod ground;
mod handler;
mod immediate;
mod judgement;
mod outside;
mod patroni;
mod process;
mod schedule;
mod settings;
pub mod stand_in;
mod steps;
pub mod story;
mod transitions;
mod wire;
mod world;

pub use self::{
    bug::{BUGS, Bug},
    chance::Chance,
    ground::{EtcdGround, Ground},
    handler::{Handler, binding, instance},
    immediate::now,
    process::{Accident, Fate, Process},
    schedule::Schedule,
    steps::{DEATHS, each_step},
    world::{Layout, QUOTA, World},
};
