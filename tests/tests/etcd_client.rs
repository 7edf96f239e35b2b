//! The traps of etcd's v2 API, one by one: what etcd really does, and that the client does not fall for it.
//! What any store must do is in `store_conformance.rs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use shared::{
    etcd::Etcd,
    store::{Index, Read, Store, StoreError},
};
use tests::{etcd::EtcdServer, wait::eventually};

async fn value(etcd: &Etcd, key: &str) -> Option<String> {
    etcd.get(key, Read::Quorum)
        .await
        .unwrap()
        .map(|entry| entry.value)
}

#[tokio::test]
async fn a_condition_of_a_delete_counts_in_the_query_only() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    let index = etcd.create("/t/a", "1", None).await.unwrap();
    let other = Index::MAX;
    assert!(matches!(
        etcd.compare_and_delete("/t/a", other).await,
        Err(StoreError::Conflict { .. })
    ));
    assert_eq!(value(&etcd, "/t/a").await.as_deref(), Some("1"));
    etcd.compare_and_delete("/t/a", index).await.unwrap();
    // The trap.
    etcd.create("/t/b", "1", None).await.unwrap();
    let (status, _) = server.raw("DELETE", "/v2/keys/t/b", Some("prevIndex=999"));
    assert_eq!(status, 200);
    assert_eq!(value(&etcd, "/t/b").await, None);
}

#[tokio::test]
async fn an_index_of_zero_is_no_condition_and_cannot_be_sent() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    etcd.create("/t/a", "1", None).await.unwrap();
    // The trap; `Index` is a NonZeroU64.
    let (status, answer) = server.raw("PUT", "/v2/keys/t/a", Some("value=2&prevIndex=0"));
    assert_eq!(status, 200);
    assert!(answer.contains(r#""action":"set""#), "{answer}");
    assert_eq!(Index::new(0), None);
}

#[tokio::test]
async fn a_removal_of_a_directory_would_delete_a_leaf() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    etcd.create("/t/a", "1", None).await.unwrap();
    let refused = etcd.remove_empty_directory("/t/a").await;
    assert!(
        matches!(refused, Err(StoreError::Unexpected { .. })),
        "{refused:?}"
    );
    assert_eq!(value(&etcd, "/t/a").await.as_deref(), Some("1"));
    // The trap.
    let (status, _) = server.raw("DELETE", "/v2/keys/t/a?dir=true", None);
    assert_eq!(status, 200);
    assert_eq!(value(&etcd, "/t/a").await, None);
}

#[tokio::test]
async fn a_doubled_slash_is_redirected_and_not_followed() {
    let server = EtcdServer::start().await;
    let (status, _) = server.raw("GET", "/v2/keys//t//a", None);
    assert_eq!(status, 301);
    let before = server.client().traffic();
    let etcd = server.client();
    let refused = etcd.set("//t/a", "1", None).await;
    assert!(
        matches!(refused, Err(StoreError::Unexpected { .. })),
        "{refused:?}"
    );
    assert_eq!(etcd.traffic(), before, "nothing was sent");
}

#[tokio::test]
async fn appended_keys_sort_in_the_order_of_their_writes() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    let mut keys = Vec::new();
    for number in 0..12 {
        keys.push(
            etcd.append("/t/q", &format!("<{number}> & ü"), None)
                .await
                .unwrap(),
        );
    }
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(keys[0].starts_with("/t/q/0000"), "{keys:?}");
    let tree = etcd.tree("/t/q", Read::Quorum).await.unwrap().unwrap();
    assert_eq!(tree.leaves.keys().cloned().collect::<Vec<_>>(), keys);
    assert_eq!(tree.leaves[&keys[11]].value, "<11> & ü");

    etcd.append("/t/brief", "1", Some(Duration::from_secs(1)))
        .await
        .unwrap();
    eventually("the appended key expires", Duration::from_secs(10), async || {
        let left = etcd.list("/t/brief", Read::Quorum).await.unwrap().unwrap();
        left.is_empty().then_some(())
    })
    .await;

    etcd.set("/t/leaf", "1", None).await.unwrap();
    let refused = etcd.append("/t/leaf", "1", None).await;
    assert!(
        matches!(refused, Err(StoreError::Unexpected { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn appends_at_once_have_keys_of_their_own() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    let appends: Vec<_> = (0..20)
        .map(|number| {
            let etcd = etcd.clone();
            tokio::spawn(async move { etcd.append("/t/q", &number.to_string(), None).await.unwrap() })
        })
        .collect();
    for append in appends {
        append.await.unwrap();
    }
    let tree = etcd.tree("/t/q", Read::Quorum).await.unwrap().unwrap();
    let mut values: Vec<u32> = tree
        .leaves
        .values()
        .map(|entry| entry.value.parse().unwrap())
        .collect();
    values.sort_unstable();
    assert_eq!(values, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_that_has_just_run_out_still_has_a_time_to_live() {
    // Between its end and etcd's next look at the clock a key can be read, without a `ttl` in the answer; it must not
    // be taken for one that stays.
    let server = EtcdServer::start().await;
    let etcd = server.client();
    for _ in 0..3 {
        etcd.set("/t/a", "1", Some(Duration::from_secs(1))).await.unwrap();
        while let Some(entry) = etcd.get("/t/a", Read::Quorum).await.unwrap() {
            assert!(entry.ttl.is_some(), "{entry:?}");
        }
    }
}

#[tokio::test]
async fn times_to_live_go_on_while_etcd_is_down() {
    let mut server = EtcdServer::start().await;
    let etcd = server.client();
    etcd.set("/t/goes", "1", Some(Duration::from_secs(1)))
        .await
        .unwrap();
    etcd.set("/t/stays", "1", Some(Duration::from_secs(600)))
        .await
        .unwrap();
    server.kill();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.restart().await;
    eventually("the key expires", Duration::from_secs(10), async || {
        etcd.get("/t/goes", Read::Quorum)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    let left = etcd
        .get("/t/stays", Read::Quorum)
        .await
        .unwrap()
        .unwrap()
        .ttl
        .unwrap();
    assert!(left < Duration::from_secs(600), "{left:?}");
}

#[tokio::test]
async fn a_large_tree_is_read_in_one_request() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    let block = "x".repeat(512 * 1024);
    for number in 0..24 {
        etcd.set(&format!("/t/{number}/block"), &block, None)
            .await
            .unwrap();
    }
    let before = etcd.traffic();
    let tree = etcd.tree("/t", Read::Quorum).await.unwrap().unwrap();
    assert_eq!((tree.leaves.len(), tree.directories.len()), (24, 24));
    let after = etcd.traffic();
    assert_eq!(after.requests - before.requests, 1);
    assert!(after.bytes_received - before.bytes_received > 12 * 1024 * 1024);
}

#[tokio::test]
async fn traffic_counts_every_request_of_all_clones() {
    let server = EtcdServer::start().await;
    let etcd = server.client();
    assert_eq!(etcd.traffic().requests, 0);
    let value = "v".repeat(1_000);
    let index = etcd.clone().create("/t/a", &value, None).await.unwrap();
    etcd.get("/t/a", Read::Local).await.unwrap();
    etcd.compare_and_delete("/t/a", index).await.unwrap();
    let traffic = etcd.traffic();
    assert_eq!(traffic.requests, 3);
    // The value goes once, and comes back from the creation, the read and the deletion.
    assert!((1_000..3_000).contains(&traffic.bytes_sent), "{traffic:?}");
    assert!((3_000..6_000).contains(&traffic.bytes_received), "{traffic:?}");
}
