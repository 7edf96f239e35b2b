//! Which cells get the nodes of an instance.
//!
//! **Guarantees.** Never two nodes of a cluster on one cell; never a cell that is full by its own account; availability
//! zones are filled evenly, then the least loaded cell comes first. Equally loaded cells take turns: instances that are made
//! at once, and see none or some of each other's nodes, are spread evenly as well.
//! **Caveats.** Requests that come together and fill more than [`SLACK`] of a cell are placed by heartbeats that are out of
//! date already.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::CellGuid;

/// A cell as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellView {
    /// Its name.
    pub guid: CellGuid,
    /// Its availability zone.
    pub availability_zone: String,
    /// How many nodes it may hold and holds, by its heartbeat; `None` for a cell that is known by configuration only.
    pub room: Option<Room>,
}

/// Capacity and load of a cell, in nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many nodes it may hold.
    pub capacity: u32,
    /// How many it holds.
    pub load: u32,
}

impl CellView {
    /// Whether it sends heartbeats.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.room.is_some()
    }

    fn is_full(&self) -> bool {
        self.room.is_some_and(|room| room.load >= room.capacity)
    }

    /// Load in thousandths of the capacity. A cell without a heartbeat comes after all others.
    fn fullness(&self) -> u32 {
        self.room.map_or(u32::MAX, |room| {
            room.load.saturating_mul(1000) / room.capacity.max(1)
        })
    }
}

/// Why nodes could not be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// No cell is known at all.
    #[error("no cell is alive")]
    NoCells,
    /// Fewer cells than nodes.
    #[error("{wanted} nodes need {wanted} cells, and {there} {} there", if *there == 1 { "is" } else { "are" })]
    TooFewCells {
        /// How many nodes the cluster shall have.
        wanted: usize,
        /// How many cells there are that may hold them.
        there: usize,
    },
    /// Enough cells, but not enough of them have room.
    #[error("{wanted} nodes need {wanted} cells with room, and {full} of the {there} cells are full")]
    Full {
        /// How many nodes the cluster shall have.
        wanted: usize,
        /// How many cells there are.
        there: usize,
        /// How many of them are full.
        full: usize,
    },
}

/// How much fuller a cell may be and still take its turn when a whole instance is placed, in thousandths of the capacity. Loads
/// are those of the last heartbeats: whoever took them at their word would send all that is asked for at once to one cell.
const SLACK: u32 = 100;

/// What must be placed.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// How many nodes are to be added.
    pub count: usize,
    /// The zones of the nodes that stay: where the spread starts from.
    pub zones: Vec<&'a str>,
    /// Cells that hold a node of this instance already, whatever its phase.
    pub occupied: BTreeSet<&'a CellGuid>,
    /// The only cells that may be used; `None`: any.
    pub only: Option<&'a [CellGuid]>,
    /// Whose turn it is among equally loaded cells. Instances that are made at once have consecutive ones: their ports.
    pub turn: usize,
}

/// Chooses a cell for each node to be added.
///
/// # Errors
/// [`Shortage`] when there are not enough cells; then none is chosen.
pub fn choose<'c>(cells: &'c [CellView], wanted: &Wanted<'_>) -> Result<Vec<&'c CellView>, Shortage> {
    let allowed: Vec<&CellView> = cells
        .iter()
        .filter(|cell| wanted.only.is_none_or(|only| only.contains(&cell.guid)))
        .collect();
    let ranks = ranks(&allowed);
    let first = wanted.turn.wrapping_mul(wanted.count) % allowed.len().max(1);
    let mut free: Vec<&CellView> = allowed
        .iter()
        .copied()
        .filter(|cell| !wanted.occupied.contains(&cell.guid) && !cell.is_full())
        .collect();
    if free.len() < wanted.count {
        return Err(shortage(&allowed, wanted));
    }
    let mut nodes_in: BTreeMap<&str, usize> = BTreeMap::new();
    for zone in &wanted.zones {
        *nodes_in.entry(zone).or_default() += 1;
    }
    let slack = if wanted.occupied.is_empty() { SLACK } else { 0 };
    let least = free.iter().map(|cell| cell.fullness()).min().unwrap_or(0);
    let mut chosen = Vec::with_capacity(wanted.count);
    while chosen.len() < wanted.count {
        let best = free.iter().enumerate().min_by_key(|(_, cell)| {
            let in_zone = nodes_in
                .get(cell.availability_zone.as_str())
                .copied()
                .unwrap_or(0);
            (
                !cell.is_alive(),
                in_zone,
                cell.fullness().saturating_sub(least.saturating_add(slack)),
                (ranks[&cell.guid] + allowed.len() - first) % allowed.len(),
            )
        });
        let Some((position, _)) = best else { break };
        let cell = free.swap_remove(position);
        *nodes_in.entry(&cell.availability_zone).or_default() += 1;
        chosen.push(cell);
    }
    Ok(chosen)
}

/// The order in which cells take turns: from zone to zone, by their names.
fn ranks<'c>(cells: &[&'c CellView]) -> BTreeMap<&'c CellGuid, usize> {
    let mut zones: BTreeMap<&str, BTreeSet<&CellGuid>> = BTreeMap::new();
    for cell in cells {
        zones
            .entry(&cell.availability_zone)
            .or_default()
            .insert(&cell.guid);
    }
    let numbered = zones.into_iter().flat_map(|(zone, guids)| {
        let numbered = guids.into_iter().enumerate();
        numbered.map(move |(number, guid)| (number, zone, guid))
    });
    let order: BTreeSet<_> = numbered.collect();
    order
        .into_iter()
        .enumerate()
        .map(|(rank, (_, _, guid))| (guid, rank))
        .collect()
}

fn shortage(allowed: &[&CellView], wanted: &Wanted<'_>) -> Shortage {
    let there = allowed.len();
    let occupied = allowed
        .iter()
        .filter(|cell| wanted.occupied.contains(&cell.guid))
        .count();
    let total = wanted.count + wanted.zones.len();
    if there == 0 {
        Shortage::NoCells
    } else if there - occupied < wanted.count {
        Shortage::TooFewCells { wanted: total, there }
    } else {
        let full = allowed.iter().filter(|cell| cell.is_full()).count();
        Shortage::Full {
            wanted: total,
            there,
            full,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell(guid: &str, zone: &str, load: u32, capacity: u32) -> CellView {
        CellView {
            guid: guid.parse().unwrap(),
            availability_zone: zone.to_owned(),
            room: Some(Room { capacity, load }),
        }
    }

    fn wanted(count: usize) -> Wanted<'static> {
        Wanted {
            count,
            zones: vec![],
            occupied: BTreeSet::new(),
            only: None,
            turn: 0,
        }
    }

    fn guids(cells: &[&CellView]) -> Vec<String> {
        cells.iter().map(|cell| cell.guid.to_string()).collect()
    }

    #[test]
    fn zones_come_before_load() {
        let cells = [
            cell("a", "z1", 0, 10),
            cell("b", "z1", 0, 10),
            cell("c", "z2", 9, 10),
        ];
        let chosen = choose(&cells, &wanted(2)).unwrap();
        let zones: BTreeSet<_> = chosen
            .iter()
            .map(|cell| cell.availability_zone.as_str())
            .collect();
        assert_eq!(zones, BTreeSet::from(["z1", "z2"]));
    }

    #[test]
    fn the_zones_of_the_nodes_that_stay_count() {
        let cells = [cell("a", "z1", 0, 10), cell("b", "z2", 5, 10)];
        let more = Wanted {
            zones: vec!["z1"],
            ..wanted(1)
        };
        assert_eq!(guids(&choose(&cells, &more).unwrap()), ["b"]);
    }

    #[test]
    fn within_a_zone_the_least_loaded_cell_comes_first() {
        let cells = [
            cell("a", "z1", 5, 10),
            cell("b", "z1", 9, 100),
            cell("c", "z1", 1, 2),
        ];
        assert_eq!(guids(&choose(&cells, &wanted(1)).unwrap()), ["b"]);
    }

    #[test]
    fn equally_loaded_cells_take_turns() {
        for (zones, counts) in [
            (vec!["z1"; 4], vec![1, 2, 3, 4]),
            (vec!["z1", "z2"], vec![1, 2]),
            (vec!["z1", "z1", "z2", "z2", "z3", "z3"], vec![1, 2, 3, 6]),
        ] {
            let named = |(number, zone): (usize, &&str)| cell(&format!("c{number}"), zone, 0, 100);
            let cells: Vec<_> = zones.iter().enumerate().map(named).collect();
            for count in counts {
                let mut loads = BTreeMap::new();
                for turn in 30_000..30_050 {
                    let one = Wanted {
                        turn,
                        ..wanted(count)
                    };
                    for guid in guids(&choose(&cells, &one).unwrap()) {
                        *loads.entry(guid).or_insert(0) += 1;
                    }
                }
                let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
                assert_eq!(loads.len(), cells.len());
                assert!(most - least <= 1, "{count} of {zones:?}: {loads:?}");
            }
        }
    }

    #[test]
    fn a_cell_that_is_a_little_fuller_takes_its_turn_in_a_new_instance() {
        let cells = [
            cell("a", "z1", 12, 100),
            cell("b", "z1", 2, 100),
            cell("c", "z1", 13, 100),
        ];
        let first = |turn, occupied: &BTreeSet<CellGuid>| {
            let one = Wanted {
                turn,
                occupied: occupied.iter().collect(),
                ..wanted(1)
            };
            guids(&choose(&cells, &one).unwrap()).remove(0)
        };
        let new: Vec<_> = (0..3).map(|turn| first(turn, &BTreeSet::new())).collect();
        assert_eq!(new, ["a", "b", "a"]);
        let more = BTreeSet::from(["d".parse().unwrap()]);
        assert!((0..3).all(|turn| first(turn, &more) == "b"));
    }

    #[test]
    fn a_cell_without_heartbeats_is_the_last_resort() {
        let configured = CellView {
            room: None,
            ..cell("a", "z2", 0, 0)
        };
        let cells = [configured, cell("b", "z1", 9, 10), cell("c", "z1", 9, 10)];
        let mut chosen = guids(&choose(&cells, &wanted(2)).unwrap());
        chosen.sort();
        assert_eq!(chosen, ["b", "c"]);
        assert_eq!(guids(&choose(&cells, &wanted(3)).unwrap())[2], "a");
    }

    #[test]
    fn shortages_say_what_is_short() {
        assert_eq!(
            choose(&[], &wanted(1)).unwrap_err().to_string(),
            "no cell is alive"
        );
        let cells = [cell("a", "z1", 0, 1), cell("b", "z1", 1, 1)];
        assert_eq!(
            choose(&cells, &wanted(3)).unwrap_err().to_string(),
            "3 nodes need 3 cells, and 2 are there"
        );
        assert_eq!(
            choose(&cells, &wanted(2)).unwrap_err().to_string(),
            "2 nodes need 2 cells with room, and 1 of the 2 cells are full"
        );
    }

    proptest! {
        #[test]
        fn the_rules_hold_whatever_the_cells(
            cells in prop::collection::btree_map("[a-f]", ("z[123]", 0u32..4, 1u32..4, any::<bool>()), 0..6),
            occupied in prop::collection::btree_set("[a-f]", 0..3),
            count in 0usize..6,
            turn in any::<u16>(),
        ) {
            let cells: Vec<CellView> = cells.into_iter().map(|(guid, (zone, load, capacity, alive))| {
                let cell = cell(&guid, &zone, load, capacity);
                if alive { cell } else { CellView { room: None, ..cell } }
            }).collect();
            let occupied: BTreeSet<CellGuid> = occupied.iter().map(|guid| guid.parse().unwrap()).collect();
            let wanted = Wanted { occupied: occupied.iter().collect(), turn: turn.into(), ..wanted(count) };
            let usable = cells.iter().filter(|c| !occupied.contains(&c.guid) && !c.is_full()).count();
            match choose(&cells, &wanted) {
                Ok(chosen) => {
                    prop_assert_eq!(chosen.len(), count);
                    let distinct: BTreeSet<_> = chosen.iter().map(|c| &c.guid).collect();
                    prop_assert_eq!(distinct.len(), count);
                    prop_assert!(chosen.iter().all(|c| !occupied.contains(&c.guid) && !c.is_full()));
                }
                Err(_) => prop_assert!(usable < count),
            }
        }
    }
}
