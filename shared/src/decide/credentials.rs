//! Other passwords for nodes and broker: who has them, and who is told next.
//!
//! **Guarantees.** First the roles, on the leader; then the cells, one request for each node: a replica that has lost its
//! connection needs the new password for the next one. (A node that has not begun yet is given the new ones from the start.) The former passwords are given up only when it is known, in one
//! pass, that every cell has taken the others over, and that every replica has received the change of the roles: no failover can
//! bring a role back that only knows a password which nobody has any more.
//! **Caveats.** Between the two, a connection that is made anew with the former password is refused: Patroni's connections
//! stay, and a replica whose connection breaks comes back a loop after its cell was told.

use super::{Situation, shortcomings::Shortcoming, whereabouts};
use crate::{
    database::Reach,
    effect::{Effect, StartAnswer},
    ids::NodeId,
    record::{Node, Phase, Record},
};

/// Writes down which cells have taken the passwords over.
pub(super) fn take_in(record: &mut Record, situation: &Situation<'_>) {
    let generation = record.credential_generation;
    for (id, node) in &mut record.nodes {
        if let Some(StartAnswer::Accepted(Some(taken_over))) = situation.facts.started.get(id)
            && *taken_over >= generation
        {
            node.credentials_due = false;
        }
    }
}

/// What still has the former passwords, or may have.
pub(super) fn missing(record: &Record, situation: &Situation<'_>) -> Vec<Shortcoming> {
    if record.former_credentials.is_none() {
        return Vec::new();
    }
    let reason = match &situation.facts.passwords {
        Some(Ok(Reach::All)) => None,
        Some(Ok(Reach::Leader)) => Some("not every replica has received them".to_owned()),
        Some(Err(reason)) => Some(reason.clone()),
        None => Some("not tried yet".to_owned()),
    };
    let roles = reason.map(|reason| Shortcoming::FormerRoles { reason });
    let cells = record.staying().filter_map(|(node, placed)| {
        let cell = placed.cell.clone();
        placed
            .credentials_due
            .then_some(Shortcoming::FormerPasswords { node, cell })
    });
    roles.into_iter().chain(cells).collect()
}

/// Gives the former passwords up, if nothing is missing that may have them: a node that does not stream may have missed the
/// change of the roles.
pub(super) fn settle(record: &mut Record, missing: &[Shortcoming]) {
    let may_have_them = |one: &Shortcoming| {
        matches!(
            one,
            Shortcoming::NoLeader
                | Shortcoming::LeaderLeaves
                | Shortcoming::NotRunning { .. }
                | Shortcoming::NotStreaming { .. }
                | Shortcoming::FormerRoles { .. }
                | Shortcoming::FormerPasswords { .. }
        )
    };
    if !missing.iter().any(may_have_them) {
        record.former_credentials = None;
    }
}

/// Whether the cell of a node may be asked for it. With other passwords than its PostgreSQL knows, a node that runs already
/// could neither lead nor follow.
pub(super) fn may_be_told(node: NodeId, record: &Record, situation: &Situation<'_>) -> bool {
    let is_new = |placed: &Node| placed.phase == Phase::Assigned;
    record.former_credentials.is_none()
        || record.nodes.get(&node).is_some_and(is_new)
        || matches!(situation.facts.passwords, Some(Ok(_)))
}

/// Tells the cell of a node, once the leader's roles have the passwords. A cell that has lost its disk takes this for a request to
/// run the node, so the data must be there to be copied.
pub(super) fn tell(node: NodeId, record: &Record, situation: &Situation<'_>) -> Option<Effect> {
    let have_changed = matches!(situation.facts.passwords, Some(Ok(_)));
    (have_changed && whereabouts::is_led(record, situation)).then_some(Effect::Start(node))
}

/// The record that begins a change: passwords of the next generation, derived from this master key.
#[must_use]
pub fn rotated(record: Record, master_key: &str) -> Record {
    let former = crate::record::FormerCredentials {
        master_key: record.master_key.clone(),
        generation: record.credential_generation,
    };
    let mut next = Record {
        master_key: master_key.to_owned(),
        credential_generation: record.credential_generation.saturating_add(1),
        former_credentials: Some(former),
        ..record
    };
    for node in next.nodes.values_mut() {
        node.credentials_due = true;
    }
    next
}
