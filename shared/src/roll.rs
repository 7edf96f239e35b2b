//! The roll of cells, at `/cell-roll`: which cells there were lately, which of them are missing and since when, and which an
//! operator has declared destroyed.
//!
//! **Guarantees.** A cell counts as missing for as long as that was *watched*: when nobody has looked for a while (brokers or
//! etcd were away), the time starts over. A cell that sends heartbeats is neither missing nor destroyed. One that has been
//! missing for long is forgotten, destroyed or not, when no record has named it for [`FORGOTTEN_AFTER`].
//! **Assumes.** Somebody calls the roll now and then while all is well, so that it knows cells before they are missing; and
//! reconcile comes to each record that names a missing cell within that time.
//! **Caveats.** A cell that never sent a heartbeat, known by configuration only, is not on it and never missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    ids::CellGuid,
    keyspace,
    store::{Entry, Read, Store, StoreError},
};

/// A cell that has been missing for longer does not count any more when it is asked whether many are missing. To look for it
/// as often as this is to watch it: nothing hangs on a minute any more.
const LATELY: SignedDuration = SignedDuration::from_hours(24);

/// How long a cell must be missing, and named by no record, before it is forgotten.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How often a lost compare-and-swap of an operator's declaration is tried again.
const TRIES: usize = 5;

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// When somebody looked last. Kept up to date only while a cell is missing.
    pub looked: Timestamp,
    /// The cells.
    pub cells: BTreeMap<CellGuid, Presence>,
}

/// What is known of one cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Since when its heartbeat has been missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// When an operator declared it destroyed, with all that was on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<Timestamp>,
    /// When a missing cell was last named by a record, or first missed. Kept up to date to a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<Timestamp>,
}

impl Presence {
    fn missed(&mut self, now: Timestamp) {
        self.missing_since = Some(now);
        self.needed = Some(now);
    }
}

impl Roll {
    /// A roll that nobody has written anything on.
    #[must_use]
    pub fn empty(now: Timestamp) -> Self {
        Self {
            looked: now,
            cells: BTreeMap::new(),
        }
    }

    /// Since when a cell has been missing; `None` when it is not, or was never known.
    #[must_use]
    pub fn missing_since(&self, cell: &CellGuid) -> Option<Timestamp> {
        self.cells.get(cell).and_then(|presence| presence.missing_since)
    }

    /// Whether an operator has declared a cell destroyed, and it was not heard of since.
    #[must_use]
    pub fn is_destroyed(&self, cell: &CellGuid) -> bool {
        self.cells
            .get(cell)
            .is_some_and(|presence| presence.destroyed.is_some())
    }

    /// Whether more than a third of the cells that there were lately are missing. Then it is more likely that the network or
    /// etcd is to blame than that as many machines have died, and nothing is concluded from any of them.
    #[must_use]
    pub fn many_are_missing(&self, now: Timestamp) -> bool {
        let lately = |presence: &&Presence| {
            presence.destroyed.is_none()
                && presence
                    .missing_since
                    .is_none_or(|since| now.duration_since(since) < LATELY)
        };
        let there: Vec<&Presence> = self.cells.values().filter(lately).collect();
        let missing = there.iter().filter(|presence| presence.missing_since.is_some());
        missing.count() * 3 > there.len()
    }

    /// The roll after a look that found these cells `alive`, for a record that names these, or none. `patience` is how long
    /// nobody may have looked for a cell that is missing lately.
    #[must_use]
    pub fn after_a_look(
        &self,
        alive: &BTreeSet<CellGuid>,
        named: &BTreeSet<CellGuid>,
        now: Timestamp,
        patience: SignedDuration,
    ) -> Self {
        // Observers' clocks differ a little: a look somewhat in the future is one of another observer.
        let unwatched_for = now.duration_since(self.looked).abs();
        let is_out_of_service = |since| self.looked.duration_since(since) > LATELY;
        let mut next = self.clone();
        for (guid, presence) in &mut next.cells {
            if alive.contains(guid) {
                *presence = Presence::default();
                continue;
            }
            let patience = match presence.missing_since {
                Some(since) if is_out_of_service(since) => LATELY,
                _ => patience,
            };
            if presence.missing_since.is_none() || unwatched_for > patience {
                presence.missed(now);
            }
            let needed = presence.needed.get_or_insert(now);
            if named.contains(guid) && now.duration_since(*needed) > LATELY {
                *needed = now;
            }
        }
        let is_needed = |needed| now.duration_since(needed) <= FORGOTTEN_AFTER;
        next.cells
            .retain(|_, presence| presence.needed.is_none_or(is_needed));
        for guid in alive {
            next.cells.entry(guid.clone()).or_default();
        }
        // A clock that was far ahead is not followed, otherwise nothing would be watched until the others are there.
        next.looked = if unwatched_for > patience {
            now
        } else {
            now.max(self.looked)
        };
        next
    }

    /// Whether it is worth writing: something is different, or a cell is missing and must be seen to be watched.
    fn is_news(&self, before: &Self, patience: SignedDuration) -> bool {
        let is_lately = |since: Timestamp| before.looked.duration_since(since) <= LATELY;
        let missing = self.cells.values().filter_map(|presence| {
            let since = presence.missing_since?;
            let is_watched = presence.destroyed.is_none() && is_lately(since);
            Some(if is_watched { patience } else { LATELY })
        });
        let unseen_for = self.looked.duration_since(before.looked);
        self.cells != before.cells || missing.min().is_some_and(|patience| unseen_for > patience / 4)
    }
}

/// Reads the roll as it stands, for [`call`]. To be done before looking which cells are alive.
///
/// # Errors
/// When etcd cannot be read.
pub async fn open(store: &dyn Store) -> Result<Option<Entry>, StoreError> {
    store.get(keyspace::CELL_ROLL, Read::Quorum).await
}

/// Calls the roll: writes down which cells are alive now, and since when the others are not. `replace_after` is how long a
/// cell must be missing before its nodes are replaced; of that, nobody may have looked for half at most.
///
/// `entry` is what [`open`] found before the look: what was written since then, an operator's declaration above all, is
/// newer than the look and stays. `named` are the cells of the record that the look is for.
///
/// # Errors
/// When etcd cannot be written.
pub async fn call(
    store: &dyn Store,
    entry: Option<Entry>,
    alive: &BTreeSet<CellGuid>,
    named: &BTreeSet<CellGuid>,
    now: Timestamp,
    replace_after: Duration,
) -> Result<Roll, StoreError> {
    let patience = SignedDuration::try_from(replace_after).unwrap_or(SignedDuration::MAX) / 2;
    let before = parse(entry.as_ref()).unwrap_or_else(|| Roll::empty(now));
    let roll = before.after_a_look(alive, named, now, patience);
    if roll.is_news(&before, patience) {
        // If nobody's look was written, the next is.
        write(store, entry.as_ref(), &roll).await?;
    }
    Ok(roll)
}

/// Writes the roll over what was read. Answers whether it certainly was written: somebody else may have been faster.
async fn write(store: &dyn Store, read: Option<&Entry>, roll: &Roll) -> Result<bool, StoreError> {
    let value = serde_json::to_string(roll).unwrap_or_default();
    let written = match read {
        Some(entry) => {
            store
                .compare_and_swap(keyspace::CELL_ROLL, &value, entry.index, None)
                .await
        }
        None => store.create(keyspace::CELL_ROLL, &value, None).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. } | StoreError::Missing { .. } | StoreError::Ambiguous { .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What cannot be understood is written anew. Time is lost, and operators' declarations, which they must make again.
fn parse(entry: Option<&Entry>) -> Option<Roll> {
    let entry = entry?;
    serde_json::from_str(&entry.value)
        .inspect_err(
            |error| tracing::error!(%error, "the roll of cells cannot be understood and is written anew: cells that were declared destroyed must be declared again"),
        )
        .ok()
}

/// The cells that an operator has declared destroyed, and when.
///
/// # Errors
/// When etcd cannot be read.
pub async fn destroyed(store: &dyn Store) -> Result<BTreeMap<CellGuid, Timestamp>, StoreError> {
    let roll = parse(open(store).await?.as_ref());
    let cells = roll.map(|roll| roll.cells).unwrap_or_default();
    let destroyed = |(guid, presence): (CellGuid, Presence)| Some((guid, presence.destroyed?));
    Ok(cells.into_iter().filter_map(destroyed).collect())
}

/// An operator declares that a cell, with all data on it, will not come back (design.md, 4, rule 5). Deprovisions and
/// removals do not wait for it any more, and its nodes are replaced where others of their cluster live.
///
/// # Errors
/// `Unprocessable` when the cell sends heartbeats; when etcd cannot be read or written.
pub async fn declare_destroyed(store: &dyn Store, cell: &CellGuid, now: Timestamp) -> Result<Known, Error> {
    match declare(store, cell, now, now).await? {
        Declared::Alive => Err(Error::Unprocessable(format!(
            "cell {cell} is alive: stop it for good, and wait until its heartbeat at {} has run out",
            keyspace::cell(cell)
        ))),
        Declared::Unheard => Ok(Known::No),
        Declared::Now | Declared::Before => Ok(Known::Yes),
    }
}

/// A cell that was declared destroyed `since` then is so again, in an etcd that knows nothing of it. Answers whether it
/// was declared: one that is alive is not, nor one that is declared already.
///
/// # Errors
/// When etcd cannot be read or written.
pub async fn declare_again(
    store: &dyn Store,
    cell: &CellGuid,
    since: Timestamp,
    now: Timestamp,
) -> Result<bool, Error> {
    let declared = declare(store, cell, since, now).await?;
    Ok(matches!(declared, Declared::Now | Declared::Unheard))
}

/// Whether a cell that was declared destroyed was on the roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was.
    Yes,
    /// It was not: nobody has seen it lately, or its guid is mistyped.
    No,
}

/// What became of a declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    Now,
    /// The same, of a cell that was not on the roll.
    Unheard,
    Before,
    Alive,
}

async fn declare(
    store: &dyn Store,
    cell: &CellGuid,
    since: Timestamp,
    now: Timestamp,
) -> Result<Declared, Error> {
    for _ in 0..TRIES {
        let entry = open(store).await?;
        // After the roll: a cell that comes back later takes the declaration back.
        if store.get(&keyspace::cell(cell), Read::Quorum).await?.is_some() {
            return Ok(Declared::Alive);
        }
        let mut roll = parse(entry.as_ref()).unwrap_or_else(|| Roll::empty(now));
        let is_known = roll.cells.contains_key(cell);
        let presence = roll.cells.entry(cell.clone()).or_default();
        // The same declaration twice is one: after a lost answer it is simply made again.
        if presence.destroyed.is_some() {
            return Ok(Declared::Before);
        }
        presence.destroyed = Some(since);
        if presence.missing_since.is_none() {
            presence.missed(now);
        }
        if write(store, entry.as_ref(), &roll).await? {
            return Ok(if is_known {
                Declared::Now
            } else {
                Declared::Unheard
            });
        }
    }
    Err(Error::Concurrency(
        "the roll of cells changes faster than it can be written; try again".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: SignedDuration = SignedDuration::from_secs(150);
    const NOBODYS: BTreeSet<CellGuid> = BTreeSet::new();
    const HOUR: i64 = 60 * 60;
    const DAY: i64 = 24 * HOUR;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn alive(names: &[&str]) -> BTreeSet<CellGuid> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn guid(name: &str) -> CellGuid {
        name.parse().unwrap()
    }

    fn six() -> Roll {
        Roll::empty(at(0)).after_a_look(&alive(&["a", "b", "c", "d", "e", "f"]), &NOBODYS, at(0), PATIENCE)
    }

    #[test]
    fn a_cell_is_missing_since_the_first_look_without_it_until_it_is_back() {
        let roll = six().after_a_look(&alive(&["a", "b", "c", "d", "e"]), &NOBODYS, at(10), PATIENCE);
        let later = roll.after_a_look(&alive(&["a", "b", "c", "d", "e"]), &NOBODYS, at(100), PATIENCE);
        assert_eq!(later.missing_since(&guid("f")), Some(at(10)));
        let back = later.after_a_look(&alive(&["a", "f"]), &NOBODYS, at(110), PATIENCE);
        assert_eq!(back.missing_since(&guid("f")), None);
        assert_eq!(back.missing_since(&guid("b")), Some(at(110)));
        assert_eq!(back.missing_since(&guid("stranger")), None);
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let five = alive(&["a", "b", "c", "d", "e"]);
        let roll = six().after_a_look(&five, &NOBODYS, at(10), PATIENCE);
        let after_an_outage = roll.after_a_look(&five, &NOBODYS, at(1000), PATIENCE);
        assert_eq!(after_an_outage.missing_since(&guid("f")), Some(at(1000)));
        let looked_far_ahead = after_an_outage.after_a_look(&five, &NOBODYS, at(20), PATIENCE);
        assert_eq!(looked_far_ahead.missing_since(&guid("f")), Some(at(20)));
        assert_eq!(looked_far_ahead.looked, at(20));
    }

    #[test]
    fn observers_whose_clocks_differ_a_little_watch_together() {
        let five = alive(&["a", "b", "c", "d", "e"]);
        let ahead = 5;
        let mut roll = six().after_a_look(&five, &NOBODYS, at(10 + ahead), PATIENCE);
        for (case, clock, looked) in [
            ("behind, at the same moment", 10, 15),
            ("behind, still before the last look", 12, 15),
            ("ahead", 20 + ahead, 25),
            ("behind, later", 30, 30),
            ("ahead, after most of the patience", 170 + ahead, 175),
            ("behind, right after", 171, 175),
            ("behind, after most of the patience", 320, 320),
        ] {
            roll = roll.after_a_look(&five, &NOBODYS, at(clock), PATIENCE);
            assert_eq!(roll.missing_since(&guid("f")), Some(at(15)), "{case}");
            assert_eq!(roll.looked, at(looked), "{case}");
        }
    }

    #[test]
    fn more_than_a_third_is_many() {
        let roll = |there: &[&str]| six().after_a_look(&alive(there), &NOBODYS, at(10), PATIENCE);
        assert!(!roll(&["a", "b", "c", "d"]).many_are_missing(at(11)));
        let half = roll(&["a", "b", "c"]);
        assert!(half.many_are_missing(at(11)));
        assert!(
            !half.many_are_missing(at(11) + LATELY),
            "nor are they cells of lately"
        );
        let mut destroyed = half;
        destroyed.cells.get_mut(&guid("f")).unwrap().destroyed = Some(at(10));
        destroyed.cells.get_mut(&guid("e")).unwrap().destroyed = Some(at(10));
        assert!(!destroyed.many_are_missing(at(11)), "one of four");
    }

    #[test]
    fn a_look_is_written_down_when_it_shows_something_new() {
        let (all, five) = (
            alive(&["a", "b", "c", "d", "e", "f"]),
            alive(&["a", "b", "c", "d", "e"]),
        );
        let look = |roll: &Roll, there, seconds| {
            let next = roll.after_a_look(there, &NOBODYS, at(seconds), PATIENCE);
            let news = next.is_news(roll, PATIENCE);
            (next, news)
        };
        assert!(!look(&six(), &all, 100).1, "all are there as before");
        let (missing, news) = look(&six(), &five, 100);
        assert!(news);
        assert!(!look(&missing, &five, 110).1, "just looked");
        assert!(look(&missing, &five, 150).1, "somebody watches");
    }

    #[test]
    fn a_destroyed_cell_that_is_heard_of_is_not_destroyed() {
        let mut roll = six();
        roll.cells.get_mut(&guid("f")).unwrap().destroyed = Some(at(1));
        assert!(roll.is_destroyed(&guid("f")) && !roll.is_destroyed(&guid("a")));
        let back = roll.after_a_look(&alive(&["f"]), &NOBODYS, at(2), PATIENCE);
        assert!(!back.is_destroyed(&guid("f")));
    }

    /// The roll, and how often it was written, after looks every half minute without cell f.
    fn without_f(mut roll: Roll, from: i64, to: i64) -> (Roll, usize) {
        let mut written = 0;
        for seconds in (from..to).step_by(30) {
            let next = roll.after_a_look(
                &alive(&["a", "b", "c", "d", "e"]),
                &NOBODYS,
                at(seconds),
                PATIENCE,
            );
            if next.is_news(&roll, PATIENCE) {
                written += 1;
                roll = next;
            }
        }
        (roll, written)
    }

    #[test]
    fn a_cell_that_is_out_of_service_is_watched_with_few_writes() {
        let (roll, often) = without_f(six(), 10, DAY + HOUR);
        assert!(often > 500, "{often}");
        let (roll, seldom) = without_f(roll, DAY + 2 * HOUR, 11 * DAY);
        assert!((30..60).contains(&seldom), "{seldom}");
        assert_eq!(roll.missing_since(&guid("f")), Some(at(10)));
        let (roll, _) = without_f(roll, 13 * DAY, 13 * DAY + 1);
        let since = roll.missing_since(&guid("f"));
        assert_eq!(since, Some(at(13 * DAY)), "nobody looked for two days");
        let back = roll.after_a_look(&alive(&["f"]), &NOBODYS, at(13 * DAY + 1), PATIENCE);
        assert_eq!(back.cells[&guid("f")], Presence::default());
    }

    #[test]
    fn a_cell_that_no_record_names_is_forgotten_when_it_was_missing_for_thirty_days() {
        for destroyed in [false, true] {
            let (mut roll, _) = without_f(six(), 10, DAY + HOUR);
            roll.cells.get_mut(&guid("f")).unwrap().destroyed = destroyed.then(|| at(DAY));
            let (before, _) = without_f(roll.clone(), DAY + HOUR, 30 * DAY);
            assert!(before.cells.contains_key(&guid("f")));
            let (after, _) = without_f(before, 30 * DAY, 30 * DAY + HOUR);
            assert!(!after.cells.contains_key(&guid("f")));
            assert_eq!(after.cells.len(), 5);
            for day in 2..70 {
                let five = alive(&["a", "b", "c", "d", "e"]);
                roll = roll.after_a_look(&five, &NOBODYS, at(day * DAY - 12 * HOUR), PATIENCE);
                roll = roll.after_a_look(&five, &alive(&["f"]), at(day * DAY), PATIENCE);
            }
            assert_eq!(roll.missing_since(&guid("f")), Some(at(10)), "a record names it");
            assert_eq!(roll.is_destroyed(&guid("f")), destroyed);
        }
    }
}
