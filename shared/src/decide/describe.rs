//! The descriptions of `last_operation`: Patroni's states in the words of the original (design.md, 5).

use crate::{
    cluster::{Cluster, Member},
    ids::NodeId,
    record::Record,
};

/// `members stopped, stopped` -> `master running; replicas stopped` -> `master running; replicas running`;
/// with one node `master running`.
///
/// Nodes that have not reported yet, or are not placed yet, count as `stopped`; Patroni 4's `primary` is a `master`;
/// other states appear as Patroni names them. A master that still starts is told like any other member. Replicas are
/// in the order of their ids.
#[must_use]
pub fn cluster(record: &Record, cluster: &Cluster) -> String {
    let members: Vec<(NodeId, Option<&Member>)> = record
        .staying()
        .map(|(node, _)| (node, cluster.member(node)))
        .collect();
    let primaries = members
        .iter()
        .filter(|(_, member)| member.is_some_and(Member::is_primary))
        .count();
    let is_master = |(node, member): &(NodeId, Option<&Member>)| {
        // Patroni 4 publishes the role some hundredths of a second before the leader key exists.
        let leads = cluster.is_led_by(*node) || (cluster.leader.is_none() && primaries == 1);
        // The first node of a bootstrap is a primary to Patroni while its PostgreSQL still starts.
        leads && member.is_some_and(|member| member.is_primary() && member.state != "starting")
    };
    let master = members.iter().find(|member| is_master(member));
    let others = members.iter().filter(|member| !is_master(member));
    let mut states: Vec<&str> = others
        .map(|(_, member)| member.map_or("stopped", |member| member.state.as_str()))
        .collect();
    let wanted = usize::try_from(record.node_count).unwrap_or(usize::MAX);
    states.resize(states.len() + wanted.saturating_sub(members.len()), "stopped");
    let states = states.join(", ");
    match master {
        Some((_, Some(master))) if states.is_empty() => format!("master {}", master.state),
        Some((_, Some(master))) => format!("master {}; replicas {states}", master.state),
        _ => format!("members {states}"),
    }
}
