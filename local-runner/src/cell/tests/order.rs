//! What is not in order is refused.

use std::time::Duration;

use shared::{
    keyspace,
    record::{Phase, State},
    store::Store,
};
use tests::wait::eventually;

use super::{
    super::{
        error::CellError,
        fixture,
        stage::{Instance, LONG, PASSWORD, Stage, new_node, workers},
    },
    DEBIAN, refusal,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_order_is_refused() {
    let stage = Stage::set().await;
    let mut settings = stage.settings(DEBIAN);
    settings.capacity = 1;
    let site = stage.open(settings).await;
    let mut instance = Instance::new("i1");
    let (node, second) = (new_node(), new_node());
    let put = async |instance: &Instance, node| refusal(stage.put(&site, instance, node).await);
    let refused = |status: u16, word: &str| (status, word.to_owned());

    let anonymous = stage.http.get(site.url(node)).send().await.unwrap();
    assert_eq!(anonymous.status().as_u16(), 401);
    for (user, password) in [("broker", "wrong"), ("broke", PASSWORD), ("", "")] {
        let answer = stage
            .http
            .put(site.url(node))
            .basic_auth(user, Some(password))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{user}");
    }
    let call = async |method: reqwest::Method, path: &str| {
        refusal(stage.call(method, &format!("{}{path}", site.uri), None).await)
    };
    assert_eq!(
        call(reqwest::Method::GET, "/elsewhere").await,
        refused(404, "NotFound")
    );
    assert_eq!(
        call(reqwest::Method::POST, "/v2/service_instances").await,
        refused(405, "MethodNotAllowed")
    );
    let of_node = format!("/v2/service_instances/{node}");
    assert_eq!(
        call(reqwest::Method::GET, &of_node).await,
        refused(404, "NotFound")
    );
    assert_eq!(
        call(reqwest::Method::PUT, &of_node).await,
        refused(400, "BadRequest")
    );
    assert_eq!(
        call(reqwest::Method::DELETE, "/v2/service_instances/x").await,
        refused(400, "BadRequest")
    );
    let of_another = stage
        .call(reqwest::Method::PUT, &site.url(second), Some(instance.body(node)))
        .await;
    assert_eq!(refusal(of_another), refused(400, "BadRequest"));
    let long = serde_json::json!({"service_id": "x".repeat(100_000)});
    let long = stage
        .call(reqwest::Method::PUT, &site.url(node), Some(long))
        .await;
    assert_eq!(refusal(long), refused(400, "BadRequest"));

    assert_eq!(
        put(&instance, node).await,
        refused(409, "NotAssigned"),
        "no record"
    );
    instance.place(node, &site, Phase::Leaving);
    stage.write(&instance).await;
    assert_eq!(put(&instance, node).await, refused(409, "NotAssigned"), "leaving");
    instance.place(node, &site, Phase::Assigned);
    instance.place(second, &site, Phase::Assigned);
    stage.write(&instance).await;
    let mut earlier = Instance::new("i1");
    earlier.place(node, &site, Phase::Assigned);
    assert_eq!(
        put(&earlier, node).await,
        refused(409, "NotAssigned"),
        "another incarnation"
    );

    let garbled = Instance::new("i2");
    let key = keyspace::record(&garbled.id);
    stage.store.set(&key, "not a record", None).await.unwrap();
    assert_eq!(
        put(&garbled, new_node()).await,
        refused(503, "StoreUnavailable"),
        "a record that nobody understands"
    );

    // A DELETE may overtake its PUT.
    let overtaken = new_node();
    assert_eq!(
        refusal(stage.delete(&site, overtaken).await),
        refused(410, "Retired")
    );
    instance.place(overtaken, &site, Phase::Assigned);
    stage.write(&instance).await;
    assert_eq!(put(&instance, overtaken).await, refused(410, "Retired"));

    assert_eq!(stage.put(&site, &instance, node).await.0, 201);
    assert_eq!(put(&instance, second).await, refused(422, "Full"));
    let heartbeat = keyspace::cell(&site.settings.guid);
    eventually("a heartbeat with the load", LONG, async || {
        stage
            .get(&heartbeat)
            .await?
            .contains(r#""capacity":1,"load":1"#)
            .then_some(())
    })
    .await;

    let mut same_guid = stage.settings(DEBIAN);
    same_guid.guid = site.settings.guid.clone();
    let answer = tokio::time::timeout(Duration::from_secs(30), stage.try_open(same_guid))
        .await
        .unwrap();
    assert!(
        matches!(answer, Err(CellError::GuidTaken { .. })),
        "a second cell with the same guid"
    );

    // Deprovisioned half-way through its bootstrap.
    instance.record.state = State::Deleting;
    stage.write(&instance).await;
    assert_eq!(stage.delete(&site, node).await.0, 200);
    assert_eq!(workers(&site.settings.data_directory), [].into());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_of_a_dead_cell_elsewhere_is_outwaited() {
    let stage = Stage::set().await;
    let settings = stage.settings(DEBIAN);
    let key = keyspace::cell(&settings.guid);
    let dead = serde_json::json!({
        "guid": settings.guid, "availability_zone": "z1", "uri": "http://elsewhere:1",
        "capacity": 1, "load": 0, "version": "0",
    });
    let ttl = Some(Duration::from_secs(2));
    stage.store.set(&key, &dead.to_string(), ttl).await.unwrap();
    let site = stage.open(settings).await;
    assert!(stage.get(&key).await.unwrap().contains(&site.uri));
    site.stop().await;
    assert_eq!(stage.get(&key).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_nobody_can_make_sense_of_is_removed_only_if_a_document_names_its_node() {
    let stage = Stage::set().await;
    let settings = stage.settings(DEBIAN);
    let (mut instance, gone) = (Instance::new("i1"), Instance::new("i2"));
    let scoped = |instance: &Instance| format!("{{\"scope\": \"{}\"}}", instance.id);
    // Of the last one, not even Patroni's configuration is left.
    let nodes = [new_node(), new_node(), new_node()];
    for (node, configuration) in nodes
        .iter()
        .zip([scoped(&instance), scoped(&gone), String::new()])
    {
        let directory = settings.data_directory.join("nodes").join(node.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("node.json"), "garbled").unwrap();
        std::fs::write(directory.join("patroni.yml"), configuration).unwrap();
    }
    let site = stage.open(settings).await;
    let [leaves, is_gone, unknown] = nodes;
    let kept = async |node| {
        let unkept = stage.all(&site).await.unkept.unwrap();
        unkept.contains(&node) && site.directory(node).exists()
    };
    let delete = async |node| refusal(stage.delete(&site, node).await);
    let refused = |status: u16, word: &str| (status, word.to_owned());

    for node in [leaves, is_gone] {
        assert_eq!(delete(node).await, refused(409, "Unnamed"), "no record");
        assert!(kept(node).await);
    }
    assert_eq!(delete(unknown).await, refused(500, "Failed"));
    assert!(kept(unknown).await);
    instance.place(leaves, &site, Phase::Running);
    stage.write(&instance).await;
    assert_eq!(delete(leaves).await, refused(409, "Assigned"));
    assert!(kept(leaves).await);
    instance.place(leaves, &site, Phase::Leaving);
    stage.write(&instance).await;
    let tombstone = fixture::tombstone(gone.incarnation, &[is_gone]);
    let key = keyspace::tombstone(&gone.id);
    stage.store.set(&key, &tombstone.to_string(), None).await.unwrap();
    for node in [leaves, is_gone] {
        assert_eq!(delete(node).await, refused(410, "Retired"));
        assert!(!kept(node).await && !site.directory(node).exists());
    }
    assert!(kept(unknown).await);
    site.stop().await;
}
