//! Watches.

use std::{collections::BTreeMap, time::Duration};

use shared::store::{Read, WatchEvent};

use super::{Subject, next, put};

/// First comes what is there: nothing, a tree, or the leaf that is watched.
pub async fn a_watch_begins_with_a_snapshot(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch("/t/nothing");
    let WatchEvent::Snapshot(tree) = next(&mut watch).await else {
        panic!("a snapshot is first")
    };
    assert!(tree.leaves.is_empty() && tree.directories.is_empty() && tree.at > 0);

    store.set("/t/a/b", "1", None).await.unwrap();
    let index = store.set("/t/c", "2", None).await.unwrap();
    let read = store.tree("/t", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(next(&mut store.watch("/t")).await, WatchEvent::Snapshot(read));

    let WatchEvent::Snapshot(leaf) = next(&mut store.watch("/t/c")).await else {
        panic!("a snapshot is first")
    };
    assert_eq!(leaf.leaves.keys().collect::<Vec<_>>(), ["/t/c"]);
    assert_eq!((leaf.leaves["/t/c"].index, leaf.at), (index, index.get()));
}

/// Every write below the key is reported once, in order, with its index; nothing else is.
pub async fn a_watch_reports_writes_in_their_order(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch("/t/w");
    next(&mut watch).await;
    let mut expected = Vec::new();
    for number in 0..50 {
        store.set("/t/elsewhere", "x", None).await.unwrap();
        let (key, value) = (format!("/t/w/{}/a", number % 7), number.to_string());
        let index = store.set(&key, &value, None).await.unwrap();
        expected.push(put(&key, &value, index));
    }
    let index = store.create("/t/w/new", "1", None).await.unwrap();
    expected.push(put("/t/w/new", "1", index));
    let index = store
        .compare_and_swap("/t/w/new", "2", index, None)
        .await
        .unwrap();
    expected.push(put("/t/w/new", "2", index));
    for event in expected {
        assert_eq!(next(&mut watch).await, event);
    }
}

/// The watched key may be a leaf itself, and may come and go.
pub async fn a_watch_of_a_leaf_reports_that_leaf(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch("/t/leader");
    next(&mut watch).await;
    store.set("/t/leader2", "x", None).await.unwrap();
    let index = store.create("/t/leader", "a", None).await.unwrap();
    assert_eq!(next(&mut watch).await, put("/t/leader", "a", index));
    store.compare_and_delete("/t/leader", index).await.unwrap();
    let WatchEvent::Removed {
        key,
        expired,
        index: removal,
    } = next(&mut watch).await
    else {
        panic!("a removal")
    };
    assert_eq!((key.as_str(), expired), ("/t/leader", false));
    assert!(removal > index);
    let index = store.create("/t/leader", "b", None).await.unwrap();
    assert_eq!(next(&mut watch).await, put("/t/leader", "b", index));
}

/// The removal of a leaf, and later of the directory that it left, are two events.
pub async fn a_removed_leaf_is_reported_without_its_empty_directory(subject: &dyn Subject) {
    let store = subject.store();
    let index = store.set("/t/d/a", "1", None).await.unwrap();
    let mut watch = store.watch("/t");
    next(&mut watch).await;
    store.compare_and_delete("/t/d/a", index).await.unwrap();
    store.remove_empty_directory("/t/d").await.unwrap();
    let mut removed = Vec::new();
    for _ in 0..2 {
        match next(&mut watch).await {
            WatchEvent::Removed {
                key,
                expired: false,
                index,
            } => removed.push((key, index.get())),
            other => panic!("{other:?}"),
        }
    }
    let [leaf, directory] = [index.get() + 1, index.get() + 2];
    assert_eq!(
        removed,
        [("/t/d/a".to_owned(), leaf), ("/t/d".to_owned(), directory)]
    );
}

/// The end of a time to live is a removal that says so. A key that was renewed does not end.
pub async fn a_watch_reports_the_end_of_a_time_to_live(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch("/t");
    next(&mut watch).await;
    let ttl = Some(Duration::from_secs(2));
    let index = store.set("/t/goes", "1", ttl).await.unwrap();
    let WatchEvent::Put { key, entry } = next(&mut watch).await else {
        panic!("a write")
    };
    assert_eq!((key.as_str(), entry.index, entry.ttl), ("/t/goes", index, ttl));
    let kept = store.set("/t/kept", "1", ttl).await.unwrap();
    next(&mut watch).await;
    let kept = store.compare_and_swap("/t/kept", "2", kept, None).await.unwrap();
    assert_eq!(next(&mut watch).await, put("/t/kept", "2", kept));
    subject.pass(Duration::from_secs(3)).await;
    let WatchEvent::Removed { key, expired, index } = next(&mut watch).await else {
        panic!("a removal")
    };
    assert_eq!((key.as_str(), expired), ("/t/goes", true));
    assert_eq!(index.get(), kept.get() + 1);
    let last = store.set("/t/last", "1", None).await.unwrap();
    assert_eq!(next(&mut watch).await, put("/t/last", "1", last));
}

/// What happens to hidden names is seen only by who watches those.
pub async fn hidden_names_are_not_watched(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch("/t");
    let mut hidden = store.watch("/t/_h");
    next(&mut watch).await;
    next(&mut hidden).await;
    let index = store.set("/t/_h", "1", None).await.unwrap();
    store.set("/t/_d/a", "2", None).await.unwrap();
    let seen = store.set("/t/a", "3", None).await.unwrap();
    assert_eq!(next(&mut watch).await, put("/t/a", "3", seen));
    assert_eq!(next(&mut hidden).await, put("/t/_h", "1", index));
}

/// Watches of one store end, and lag behind, each by itself.
pub async fn watches_do_not_disturb_each_other(subject: &dyn Subject) {
    let store = subject.store();
    let mut watches: Vec<_> = (0..5).map(|_| store.watch("/t")).collect();
    for watch in &mut watches {
        let WatchEvent::Snapshot(tree) = next(watch).await else {
            panic!("a snapshot is first")
        };
        assert_eq!(tree.leaves, BTreeMap::new());
    }
    for number in 0..5 {
        watches.remove(0);
        let value = number.to_string();
        let index = store.set("/t/a", &value, None).await.unwrap();
        for watch in &mut watches {
            assert_eq!(next(watch).await, put("/t/a", &value, index));
        }
    }
}
