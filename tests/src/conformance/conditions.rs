//! Conditional writes.

use std::sync::Arc;

use shared::store::{Index, Read};

use super::{Subject, after, assert_conflict, assert_missing, assert_unexpected, value};

/// `create` refuses what is there, be it a leaf or a directory, and leaves it as it is.
pub async fn a_create_of_something_that_exists_is_a_conflict(subject: &dyn Subject) {
    let store = subject.store();
    store.create("/t/d/a", "first", None).await.unwrap();
    assert_conflict(store.create("/t/d/a", "second", None).await, "/t/d/a");
    assert_eq!(value(&store, "/t/d/a").await.as_deref(), Some("first"));
    assert_conflict(store.create("/t/d", "leaf", None).await, "/t/d");
}

/// With the current index a swap and a delete are done; both say so.
pub async fn a_swap_of_the_current_index_is_done(subject: &dyn Subject) {
    let store = subject.store();
    let first = store.create("/t/a", "1", None).await.unwrap();
    let second = store.compare_and_swap("/t/a", "2", first, None).await.unwrap();
    assert!(second > first);
    let third = store.set("/t/a", "3", None).await.unwrap();
    let entry = store.get("/t/a", Read::Quorum).await.unwrap().unwrap();
    assert_eq!((entry.value.as_str(), entry.index), ("3", third));
    store.compare_and_delete("/t/a", third).await.unwrap();
    assert_eq!(value(&store, "/t/a").await, None);
}

/// With any other index, older or younger, nothing is swapped or deleted.
pub async fn a_swap_of_an_older_index_is_a_conflict(subject: &dyn Subject) {
    let store = subject.store();
    let first = store.create("/t/a", "1", None).await.unwrap();
    let second = store.set("/t/a", "2", None).await.unwrap();
    for index in [first, after(second), Index::MIN, Index::MAX] {
        assert_conflict(store.compare_and_swap("/t/a", "3", index, None).await, "/t/a");
        assert_conflict(store.compare_and_delete("/t/a", index).await, "/t/a");
    }
    assert_eq!(value(&store, "/t/a").await.as_deref(), Some("2"));
}

/// A delete that names a value as well needs both: it does nothing to a key that holds another value at the index, or the
/// value at another index. An empty value cannot be named.
pub async fn a_delete_of_a_value_needs_the_value_and_the_index(subject: &dyn Subject) {
    let store = subject.store();
    let first = store.create("/t/leader", "a b&c", None).await.unwrap();
    let second = store.set("/t/leader", "a b&c", None).await.unwrap();
    for (value, index) in [
        ("a b&c", first),
        ("a", second),
        ("a b&c", after(second)),
        ("a", first),
    ] {
        let deleted = store.compare_value_and_delete("/t/leader", value, index).await;
        assert_conflict(deleted, "/t/leader");
    }
    let unconditional = store.compare_value_and_delete("/t/leader", "", second).await;
    assert_unexpected(unconditional, "/t/leader");
    assert_eq!(value(&store, "/t/leader").await.as_deref(), Some("a b&c"));
    store
        .compare_value_and_delete("/t/leader", "a b&c", second)
        .await
        .unwrap();
    assert_eq!(value(&store, "/t/leader").await, None);
    let again = store.compare_value_and_delete("/t/leader", "a b&c", second).await;
    assert_missing(again, "/t/leader");
    store.create("/t/d/a", "1", None).await.unwrap();
    let directory = store.compare_value_and_delete("/t/d", "1", second).await;
    assert_unexpected(directory, "/t/d");
}

/// What is not there cannot conflict. A delete that had happened already is told from one that lost a race.
pub async fn a_missing_key_is_missing_and_not_a_conflict(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.create("/t/d/a", "1", None).await.unwrap();
    store.compare_and_delete("/t/d/a", index).await.unwrap();
    for key in ["/t/d/a", "/t/x", "/t/x/y/z"] {
        assert_missing(store.compare_and_swap(key, "2", index, None).await, key);
        assert_missing(store.compare_and_delete(key, index).await, key);
        assert_missing(store.remove_empty_directory(key).await, key);
        assert_eq!(store.get(key, Read::Quorum).await.unwrap(), None);
        assert_eq!(store.list(key, Read::Quorum).await.unwrap(), None);
        assert_eq!(store.tree(key, Read::Quorum).await.unwrap(), None);
    }
}

/// A directory has no index to compare with.
pub async fn a_directory_has_no_index(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.create("/t/d/a", "1", None).await.unwrap();
    assert_unexpected(store.compare_and_swap("/t/d", "2", index, None).await, "/t/d");
    assert_unexpected(store.compare_and_delete("/t/d", index).await, "/t/d");
    assert_eq!(value(&store, "/t/d/a").await.as_deref(), Some("1"));
}

/// The index of the store moves with what was done only.
pub async fn a_failed_condition_changes_nothing_and_takes_no_index(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.create("/t/a", "1", None).await.unwrap();
    let before = store.tree("/t", Read::Quorum).await.unwrap().unwrap();
    assert_conflict(store.create("/t/a", "2", None).await, "/t/a");
    assert_conflict(
        store.compare_and_swap("/t/a", "2", after(index), None).await,
        "/t/a",
    );
    assert_conflict(store.compare_and_delete("/t/a", after(index)).await, "/t/a");
    assert_missing(store.compare_and_swap("/t/b", "2", index, None).await, "/t/b");
    assert_conflict(store.remove_empty_directory("/t").await, "/t");
    assert_unexpected(store.set("/t/a/b", "2", None).await, "/t/a/b");
    assert_eq!(store.tree("/t", Read::Quorum).await.unwrap().unwrap(), before);
}

/// Of those who create a key at once one wins, and of those who swap it at once one in each round.
pub async fn each_writer_of_a_key_wins_once(subject: &dyn Subject) {
    let store = subject.store();
    let mut index = None;
    for _ in 0..5 {
        let attempts = (0..8).map(|writer: usize| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let value = writer.to_string();
                match index {
                    None => store.create("/t/a", &value, None).await,
                    Some(index) => store.compare_and_swap("/t/a", &value, index, None).await,
                }
            })
        });
        let mut winners = Vec::new();
        for (writer, attempt) in attempts.collect::<Vec<_>>().into_iter().enumerate() {
            match attempt.await.unwrap() {
                Ok(index) => winners.push((writer, index)),
                lost => assert_conflict(lost, "/t/a"),
            }
        }
        let [(winner, won)] = winners[..] else {
            panic!("winners: {winners:?}")
        };
        let entry = store.get("/t/a", Read::Quorum).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.index), (winner.to_string(), won));
        index = Some(won);
    }
}
