//! What every [`Store`] does, written once; run on the real etcd and on the in-memory store.
//!
//! A check takes a [`Subject`] and uses keys below `/t` only, in a store that nobody else writes to.

mod conditions;
mod directories;
mod keys;
mod lifetimes;
mod watches;

pub use self::{conditions::*, directories::*, keys::*, lifetimes::*, watches::*};

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::store::{Entry, Index, Read, Store, StoreError, Watch, WatchEvent};

/// Names every check to a macro, which makes a test of each.
#[macro_export]
macro_rules! for_each_check {
    ($make:ident) => {
        $make! {
            a_create_of_something_that_exists_is_a_conflict,
            a_delete_of_a_value_needs_the_value_and_the_index,
            a_directory_has_no_index,
            a_failed_condition_changes_nothing_and_takes_no_index,
            a_key_below_a_leaf_is_unexpected,
            a_key_expires_after_its_time_to_live,
            a_leaf_is_not_a_directory,
            a_listing_has_one_level,
            a_missing_key_is_missing_and_not_a_conflict,
            a_name_that_begins_with_an_underscore_is_hidden,
            a_name_that_is_no_key_is_unexpected,
            a_removed_leaf_is_reported_without_its_empty_directory,
            a_swap_of_an_older_index_is_a_conflict,
            a_swap_of_the_current_index_is_done,
            a_time_to_live_is_rounded_up,
            a_tree_has_all_levels,
            a_watch_begins_with_a_snapshot,
            a_watch_of_a_leaf_reports_that_leaf,
            a_watch_reports_the_end_of_a_time_to_live,
            a_watch_reports_writes_in_their_order,
            a_write_without_a_time_to_live_takes_it_away,
            an_empty_directory_can_be_removed,
            an_index_is_that_of_the_last_write,
            directories_come_with_their_leaves_and_stay,
            directories_with_something_in_them_stay,
            each_writer_of_a_key_wins_once,
            every_key_comes_back_as_it_was,
            every_value_comes_back_as_it_was,
            hidden_names_are_not_watched,
            indexes_of_the_store_only_grow,
            the_root_can_be_read,
            watches_do_not_disturb_each_other,
        }
    };
}

/// A store under test, with a way to let its time pass.
#[async_trait]
pub trait Subject: Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Lets so much time pass for the store, and its clock tick.
    async fn pass(&self, time: Duration);
}

/// How long a watch may take to report something, on a busy machine.
const REPORT: Duration = Duration::from_secs(20);

/// The next event of a watch.
///
/// # Panics
/// When there is none, or the watch has lost the store.
pub async fn next(watch: &mut Box<dyn Watch>) -> WatchEvent {
    let event = tokio::time::timeout(REPORT, watch.next())
        .await
        .expect("an event of the watch");
    assert!(!matches!(event, WatchEvent::Lost(_)), "{event:?}");
    event
}

fn put(key: &str, value: &str, index: Index) -> WatchEvent {
    let entry = Entry {
        value: value.to_owned(),
        index,
        ttl: None,
    };
    WatchEvent::Put {
        key: key.to_owned(),
        entry,
    }
}

async fn value(store: &Arc<dyn Store>, key: &str) -> Option<String> {
    store
        .get(key, Read::Quorum)
        .await
        .unwrap()
        .map(|entry| entry.value)
}

/// The index after `index`, which nothing else than a lost update has.
fn after(index: Index) -> Index {
    index.checked_add(1).unwrap()
}

#[track_caller]
fn assert_missing<T: std::fmt::Debug>(result: Result<T, StoreError>, about: &str) {
    match result {
        Err(StoreError::Missing { key }) => assert_eq!(key, about),
        other => panic!("{about} should be missing: {other:?}"),
    }
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, about: &str) {
    match result {
        Err(StoreError::Conflict { key, .. }) => assert_eq!(key, about),
        other => panic!("{about} should be in conflict: {other:?}"),
    }
}

#[track_caller]
fn assert_unexpected<T: std::fmt::Debug>(result: Result<T, StoreError>, about: &str) {
    match result {
        Err(StoreError::Unexpected { key, .. }) => assert_eq!(key, about),
        other => panic!("{about} should be refused: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_check_is_in_the_list() {
        let list = include_str!("conformance.rs");
        let checks = [
            include_str!("conformance/conditions.rs"),
            include_str!("conformance/directories.rs"),
            include_str!("conformance/keys.rs"),
            include_str!("conformance/lifetimes.rs"),
            include_str!("conformance/watches.rs"),
        ];
        let names = checks
            .iter()
            .flat_map(|source| source.split("\npub async fn ").skip(1));
        let missing: Vec<_> = names
            .filter_map(|rest| rest.split('(').next())
            .filter(|name| !list.contains(&format!("            {name},\n")))
            .collect();
        assert!(missing.is_empty(), "not in for_each_check: {missing:?}");
    }
}
