//! Times to live.

use std::{collections::BTreeMap, time::Duration};

use shared::store::Read;

use super::{Subject, assert_missing, value};

const SECOND: Duration = Duration::from_secs(1);

/// A key with a time to live is there until then, and gone after it; what has none stays, as do directories.
pub async fn a_key_expires_after_its_time_to_live(subject: &dyn Subject) {
    let store = subject.store();
    store.set("/t/stays", "1", None).await.unwrap();
    let index = store.create("/t/d/goes", "1", Some(3 * SECOND)).await.unwrap();
    subject.pass(SECOND).await;
    let entry = store.get("/t/d/goes", Read::Quorum).await.unwrap().unwrap();
    let left = entry.ttl.unwrap();
    assert!(left > Duration::ZERO && left <= 3 * SECOND, "{left:?}");
    subject.pass(3 * SECOND).await;
    assert_eq!(value(&store, "/t/d/goes").await, None);
    assert_missing(
        store.compare_and_swap("/t/d/goes", "2", index, None).await,
        "/t/d/goes",
    );
    assert_eq!(
        store.list("/t/d", Read::Quorum).await.unwrap(),
        Some(BTreeMap::new())
    );
    assert_eq!(value(&store, "/t/stays").await.as_deref(), Some("1"));
    store.create("/t/d/goes", "2", None).await.unwrap();
}

/// Parts of a second count as a whole one, and so does no time at all: nothing ends before it should.
pub async fn a_time_to_live_is_rounded_up(subject: &dyn Subject) {
    let store = subject.store();
    for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
        let key = format!("/t/{millis}");
        store
            .set(&key, "1", Some(Duration::from_millis(millis)))
            .await
            .unwrap();
        let entry = store.get(&key, Read::Quorum).await.unwrap().unwrap();
        assert_eq!(entry.ttl, Some(seconds * SECOND), "{millis} ms");
    }
    store.set("/t/long", "1", Some(Duration::MAX)).await.unwrap();
    subject.pass(2 * SECOND).await;
    let left = store
        .get("/t/long", Read::Quorum)
        .await
        .unwrap()
        .unwrap()
        .ttl
        .unwrap();
    assert!(left > 1_000_000_000 * SECOND, "{left:?}");
}

/// `set` and `compare_and_swap` alike end a time to live that they do not renew.
pub async fn a_write_without_a_time_to_live_takes_it_away(subject: &dyn Subject) {
    let store = subject.store();
    let minute = Some(60 * SECOND);
    store.set("/t/set", "1", minute).await.unwrap();
    let index = store.create("/t/swap", "1", minute).await.unwrap();
    store.set("/t/set", "2", None).await.unwrap();
    let index = store.compare_and_swap("/t/swap", "2", index, None).await.unwrap();
    for key in ["/t/set", "/t/swap"] {
        assert_eq!(
            store.get(key, Read::Quorum).await.unwrap().unwrap().ttl,
            None,
            "{key}"
        );
    }
    store
        .compare_and_swap("/t/swap", "3", index, minute)
        .await
        .unwrap();
    assert_eq!(
        store.get("/t/swap", Read::Quorum).await.unwrap().unwrap().ttl,
        minute
    );
}
