//! Directories, and leaves where directories are meant.

use std::collections::BTreeMap;

use shared::store::{Child, Read};

use super::{Subject, assert_conflict, assert_missing, assert_unexpected, value};

/// A write makes the directories on its way; they do not go with the last leaf.
pub async fn directories_come_with_their_leaves_and_stay(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/a/b/c", "1", None).await.unwrap();
    store.compare_and_delete("/t/a/b/c", index).await.unwrap();
    let tree = store.tree("/t", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(
        (tree.leaves, tree.directories),
        (BTreeMap::new(), vec!["/t/a".to_owned(), "/t/a/b".to_owned()])
    );
    assert_eq!(
        store.list("/t/a/b", Read::Quorum).await.unwrap(),
        Some(BTreeMap::new())
    );
}

/// An empty directory goes, its parent stays, and a second removal says that it is gone.
pub async fn an_empty_directory_can_be_removed(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/a/b/c", "1", None).await.unwrap();
    store.compare_and_delete("/t/a/b/c", index).await.unwrap();
    store.remove_empty_directory("/t/a/b").await.unwrap();
    assert_missing(store.remove_empty_directory("/t/a/b").await, "/t/a/b");
    assert_eq!(
        store.list("/t/a", Read::Quorum).await.unwrap(),
        Some(BTreeMap::new())
    );
}

/// A directory that holds a leaf, a directory or only something hidden is not removed.
pub async fn directories_with_something_in_them_stay(subject: &dyn Subject) {
    let store = subject.store();
    for key in ["/t/a/leaf", "/t/b/directory/leaf", "/t/c/_hidden"] {
        store.set(key, "1", None).await.unwrap();
        let directory = &key[..4];
        assert_conflict(store.remove_empty_directory(directory).await, directory);
        assert_eq!(value(&store, key).await.as_deref(), Some("1"));
    }
}

/// Neither is a leaf taken for a directory, nor a directory for a leaf; and nothing is deleted by the mistake.
pub async fn a_leaf_is_not_a_directory(subject: &dyn Subject) {
    let store = subject.store();
    store.set("/t/d/a", "1", None).await.unwrap();
    assert_unexpected(store.list("/t/d/a", Read::Quorum).await, "/t/d/a");
    assert_unexpected(store.tree("/t/d/a", Read::Quorum).await, "/t/d/a");
    assert_unexpected(store.remove_empty_directory("/t/d/a").await, "/t/d/a");
    assert_unexpected(store.get("/t/d", Read::Quorum).await, "/t/d");
    assert_unexpected(store.set("/t/d", "2", None).await, "/t/d");
    assert_eq!(value(&store, "/t/d/a").await.as_deref(), Some("1"));
}

/// There is nothing below a leaf, and asking for it is a mistake rather than an absence.
pub async fn a_key_below_a_leaf_is_unexpected(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/a", "1", None).await.unwrap();
    for key in ["/t/a/b", "/t/a/b/c"] {
        assert_unexpected(store.get(key, Read::Quorum).await, key);
        assert_unexpected(store.list(key, Read::Quorum).await, key);
        assert_unexpected(store.create(key, "2", None).await, key);
        assert_unexpected(store.set(key, "2", None).await, key);
        assert_unexpected(store.compare_and_swap(key, "2", index, None).await, key);
        assert_unexpected(store.compare_and_delete(key, index).await, key);
        assert_unexpected(store.remove_empty_directory(key).await, key);
    }
    assert_eq!(value(&store, "/t/a").await.as_deref(), Some("1"));
}

/// A listing names what lies directly below, with the leaves' values.
pub async fn a_listing_has_one_level(subject: &dyn Subject) {
    let store = subject.store();
    store.set("/t/b/x/y", "1", None).await.unwrap();
    store.set("/t/a", "2", None).await.unwrap();
    for read in [Read::Quorum, Read::Local] {
        let listed = store.list("/t", read).await.unwrap().unwrap();
        let leaf = store.get("/t/a", read).await.unwrap().unwrap();
        let expected = [
            ("a".to_owned(), Child::Leaf(leaf)),
            ("b".to_owned(), Child::Directory),
        ];
        assert_eq!(listed, BTreeMap::from(expected));
    }
}

/// A tree names everything below, at whatever depth.
pub async fn a_tree_has_all_levels(subject: &dyn Subject) {
    let store = subject.store();
    store.set("/t/b/x/y", "1", None).await.unwrap();
    store.set("/t/b/x/z/1/2/3", "2", None).await.unwrap();
    let last = store.set("/t/a", "3", None).await.unwrap();
    for read in [Read::Quorum, Read::Local] {
        let tree = store.tree("/t", read).await.unwrap().unwrap();
        let leaves: Vec<_> = tree
            .leaves
            .iter()
            .map(|(key, entry)| (key.as_str(), entry.value.as_str()))
            .collect();
        assert_eq!(
            leaves,
            [("/t/a", "3"), ("/t/b/x/y", "1"), ("/t/b/x/z/1/2/3", "2")]
        );
        assert_eq!(
            tree.directories,
            ["/t/b", "/t/b/x", "/t/b/x/z", "/t/b/x/z/1", "/t/b/x/z/1/2"]
        );
        assert_eq!(tree.at, last.get());
    }
}

/// The root is a directory like others for readers, and cannot be written or removed.
pub async fn the_root_can_be_read(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/a", "1", None).await.unwrap();
    let listed = store.list("/", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(listed, BTreeMap::from([("t".to_owned(), Child::Directory)]));
    let tree = store.tree("/", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(tree.directories, ["/t"]);
    assert_eq!(tree.leaves.keys().collect::<Vec<_>>(), ["/t/a"]);
    assert_unexpected(store.get("/", Read::Quorum).await, "/");
    assert_unexpected(store.set("/", "2", None).await, "/");
    assert_unexpected(store.create("/", "2", None).await, "/");
    assert_unexpected(store.compare_and_swap("/", "2", index, None).await, "/");
    assert_unexpected(store.compare_and_delete("/", index).await, "/");
    assert_unexpected(store.remove_empty_directory("/").await, "/");
}

/// Hidden names can be used by whoever knows them, and stay out of listings and trees.
pub async fn a_name_that_begins_with_an_underscore_is_hidden(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.create("/t/_h", "1", None).await.unwrap();
    store.create("/t/_d/a", "2", None).await.unwrap();
    store.create("/t/a_b", "3", None).await.unwrap();
    store.compare_and_swap("/t/_h", "4", index, None).await.unwrap();
    assert_eq!(value(&store, "/t/_h").await.as_deref(), Some("4"));
    let listed = store.list("/t", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["a_b"]);
    let tree = store.tree("/t", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(tree.leaves.keys().collect::<Vec<_>>(), ["/t/a_b"]);
    assert!(tree.directories.is_empty());
    let hidden = store.tree("/t/_d", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(hidden.leaves.keys().collect::<Vec<_>>(), ["/t/_d/a"]);
}
