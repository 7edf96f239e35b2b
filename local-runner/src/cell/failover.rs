//! Failover in a fraction of the ttl: a leader whose processes have all died on this cell gives its place up, instead of
//! leaving its key to run out.
//!
//! Patroni notices a leader that was killed when its key in etcd expires, up to a ttl later; replicas take over within
//! some hundredths of a second once the key is gone. The cell is on the leader's machine and sees the processes die at
//! once. PostgreSQL is not its child, and a Patroni that it adopted is not either, so that the order of steps is fixed:
//!
//! 1. The cell holds the lock on its data directory for life, and a node has one task, which does nothing else meanwhile:
//!    nobody starts the node.
//! 2. It acts on unexpected death only: Patroni has ended without being told to, and so has the postmaster, which was held
//!    by its descriptor and has left its pid file ([`witness`]). When Patroni alone has died it is started again, and
//!    PostgreSQL goes on serving; when PostgreSQL alone has died, that is Patroni's matter.
//! 3. Patroni first, then everything else that has been left in the node's directory is killed, until two looks at the
//!    process table in a row find nothing, and nobody has the dead server's shared memory attached ([`shared_memory`]).
//!    What was not there when it died was started by somebody else: it is left alone.
//! 4. Only then record and keys are read, with a quorum, and judged ([`verdict`]): the leader key names this node (index M);
//!    no pause, nothing under way; another member that is certain to be able to take over, and is named in the `sync` key
//!    where commits wait for it; and once more nothing works for the node or has that memory attached, looked up after M was
//!    read. Otherwise the node is only started again.
//! 5. The leader key is deleted on the condition that it still names this node *and* still is at index M. When that does
//!    not hold, and still nothing works for the node: again from 4.
//! 6. Only then Patroni is started again. What could not be judged, since etcd was away, is tried once more just before that,
//!    and so is a death that came in between. A place is given up at most once a minute for a node, also over a restart of
//!    the cell.
//!
//! **Guarantees.**
//! - *Never two primaries.* A process that could confirm a commit has the server's shared memory attached, wherever it works.
//!   Nobody has before the keys are read at M, and by the look that follows nobody has started another server. A Patroni that
//!   somebody starts since then renews the leader key *before* it lets PostgreSQL be a primary ("has lock" is `update_leader`,
//!   which moves the index): then the key is not at M any more, and is not deleted. If it has not renewed the key yet, it
//!   finds it gone, and is a follower or a candidate like any other. So the cell may stand still between any two steps, or a
//!   delete be under way in the network, for any time: what comes late fails.
//! - *Nothing acknowledged is lost on a synchronous plan.* The `sync` key must name this node as the leader whose commits
//!   wait for the standbys in it, and no commit is confirmed after it was read, as nobody is left who could. Patroni lets
//!   none but these standbys, or this node, take over.
//! - Whatever is missing or fails (etcd, the process table, the disk) leaves the key to run out, as it would without this.
//!
//! **Assumes.** Linux with a `/proc` of the cell's own PID namespace; the System V segment of a server tells who of it is left,
//! as PostgreSQL itself assumes when it starts; nobody starts this node's PostgreSQL as a primary past Patroni, or has it
//! run in another place; an etcd whose indexes only grow.
//!
//! **Caveats.**
//! - Not certain, so that the node is only started again: a process in uninterruptible sleep that does not end within two
//!   seconds; one that cannot be looked at; a backend that has left the data directory (a function in an untrusted language
//!   can), which is not found and killed, but seen by the shared memory; a postmaster in another PID or IPC namespace, or one
//!   that this cell has not seen alive (it began within half a second before its death).
//! - What is killed is found by its working directory. A shell of the node's user in the node's directory is killed with the
//!   node; what left the directory without holding the server's memory (an archive command) goes on, and confirms nothing.
//! - Without synchronous replication the last commits that no replica had yet are lost, which a restart in place would
//!   have kept: the plan says what it prefers (`cluster.failover`).
//! - When cell and node die together (the machine does), the key runs out as before.

mod dead_node;
mod limit;
mod shared_memory;
mod steps;
#[cfg(test)]
mod tests;
mod verdict;
mod witness;

use std::sync::Arc;

pub(super) use self::witness::Witness;
use self::{
    dead_node::DeadNode,
    steps::{Cause, Outcome, carry_out},
    witness::Fate,
};
use super::{
    context::Context,
    directory::NodeDirectory,
    judgement::Identity,
    process::{certainly_working_in, look},
};

/// Gives the place of a node up whose Patroni has died and whose postmaster was killed, if that is certain to be right: once
/// for each death, unless nothing could be judged. May be dropped at any time.
pub(super) async fn attempt(
    context: &Context,
    id: &Identity,
    directory: &NodeDirectory,
    witness: &mut Witness,
) {
    if witness.fate() != Fate::Killed {
        return;
    }
    let (home, uid) = (directory.home(), context.account.uid());
    let leftovers = look(&home, uid, certainly_working_in).await;
    // Again: while the pid file is the dead postmaster's, what was found just before does not serve anybody.
    let shared = witness.memory();
    if witness.fate() != Fate::Killed {
        return;
    }
    let outcome = match (leftovers, shared) {
        (Ok(leftovers), Some(shared)) => {
            let (memory, now) = (directory.last_failover(), context.unix_time());
            let node = DeadNode {
                store: Arc::clone(&context.store),
                http: context.http.clone(),
                id: id.clone(),
                home,
                uid,
                leftovers,
                shared,
                last: limit::elapsed(&memory, now),
                memory,
                now,
            };
            carry_out(&node).await
        }
        (Ok(_), None) => Outcome::Left(Cause::Uncertain),
        (Err(error), _) => Outcome::Left(Cause::System(error)),
    };
    if !outcome.is_passing() {
        witness.settle();
    }
    match outcome {
        Outcome::GivenUp => {
            tracing::warn!(instance = %id.instance, node = %id.node, "the leader's Patroni and PostgreSQL have died: its leader key was deleted, so that a replica takes over at once");
        }
        Outcome::Unclear(cause) => {
            tracing::warn!(instance = %id.instance, node = %id.node, reason = %cause, "the leader's Patroni and PostgreSQL have died: whether etcd has deleted its leader key is not known");
        }
        Outcome::Left(cause) => {
            tracing::info!(instance = %id.instance, node = %id.node, reason = %cause, "the node's Patroni and PostgreSQL have died: it is restarted in place");
        }
    }
}
