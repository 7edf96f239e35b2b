//! What a node survives: its cell, etcd, and a record that does not know it.

use shared::{cell_api::NodeState, ids::NodeId, keyspace, record::Phase, store::Store};
use tests::wait::eventually;

use super::{
    super::{
        error::CellError,
        fixture,
        stage::{Instance, LONG, Site, Stage, kill, new_node, walk, workers},
    },
    DEBIAN, refusal,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_cell_is_succeeded_and_a_node_that_nothing_names_is_kept_aside() {
    let mut stage = Stage::set().await;
    let site = stage.open(stage.settings(DEBIAN)).await;
    let mut instance = Instance::new("i1");
    let node = new_node();
    instance.place(node, &site, Phase::Running);
    stage.write(&instance).await;
    assert_eq!(stage.put(&site, &instance, node).await.0, 201);
    assert_eq!(stage.leader(&instance).await, node);

    let second = stage.try_open(site.settings.clone()).await;
    assert!(
        matches!(second, Err(CellError::Locked(_))),
        "a second cell on the same directory"
    );

    // The cell is killed and started again: Patroni is the same.
    let patroni = site.patroni(node);
    let directory = site.settings.data_directory.clone();
    let before = workers(&directory);
    let site = stage.open(site.kill().await).await;
    eventually("the node running again", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Running).then_some(())
    })
    .await;
    assert_eq!(site.patroni(node), patroni);
    assert!(workers(&directory).contains(&patroni) && before.contains(&patroni));
    assert_eq!(patronis(&site, node), 1);

    // etcd is away: nothing is admitted, nothing started, and nothing that runs is stopped.
    let postmaster = site.postmaster(node);
    stage.etcd.kill();
    let mut other = Instance::new("i2");
    let newcomer = new_node();
    other.place(newcomer, &site, Phase::Assigned);
    assert_eq!(
        refusal(stage.put(&site, &other, newcomer).await),
        (503, "StoreUnavailable".into())
    );
    assert_eq!(
        refusal(stage.delete(&site, node).await),
        (503, "StoreUnavailable".into())
    );
    kill(patroni);
    eventually("the node waiting", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Waiting).then_some(())
    })
    .await;
    assert!(workers(&directory).contains(&postmaster));
    stage.etcd.restart().await;
    eventually("another Patroni", LONG, async || {
        let running = stage.status(&site, node).await?.state == NodeState::Running;
        (running && site.patroni(node) != patroni).then_some(())
    })
    .await;

    // The record does not name the node any more: it is set aside with all its data.
    let placed = instance.record.nodes.clone();
    instance.record.nodes.clear();
    stage.write(&instance).await;
    stage.put(&site, &instance, node).await;
    eventually("the node in quarantine", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Quarantined).then_some(())
    })
    .await;
    assert_eq!(workers(&directory), [].into());
    assert!(!site.directory(node).exists());
    let aside = walk(&directory.join("quarantine"));
    assert!(aside.iter().any(|path| path.ends_with("home/data/PG_VERSION")));

    // What it cannot make sense of it leaves alone, and says so: it may be the last copy.
    let mut aside = aside.into_iter();
    let file = aside.find(|path| path.ends_with("node.json")).unwrap();
    let settings = site.stop().await;
    std::fs::rename(&file, file.with_extension("gone")).unwrap();
    let site = stage.open(settings).await;
    let all = stage.all(&site).await;
    assert_eq!((all.nodes, all.unkept), (vec![], Some([node].into())));
    let settings = site.stop().await;
    std::fs::rename(file.with_extension("gone"), &file).unwrap();
    let site = stage.open(settings).await;
    assert_eq!(stage.all(&site).await.unkept, Some([].into()));

    // An operator puts the record right: the node comes back.
    instance.record.nodes = placed;
    stage.write(&instance).await;
    let site = stage.open(site.stop().await).await;
    eventually("the node back", LONG, async || {
        (stage.status(&site, node).await?.state == NodeState::Running).then_some(())
    })
    .await;

    // A tombstone names it: it goes for good.
    let tombstone = fixture::tombstone(instance.incarnation, &[node]).to_string();
    stage
        .store
        .set(&keyspace::tombstone(&instance.id), &tombstone, None)
        .await
        .unwrap();
    instance.record.nodes.clear();
    stage.write(&instance).await;
    stage.put(&site, &instance, node).await;
    eventually("the node gone", LONG, async || {
        stage.status(&site, node).await.is_none().then_some(())
    })
    .await;
    assert_eq!(workers(&directory), [].into());
    assert!(walk(&directory).iter().all(|path| !path.ends_with("PG_VERSION")));
    assert_eq!(
        refusal(stage.put(&site, &instance, node).await),
        (410, "Retired".into())
    );
    site.stop().await;
}

/// How many processes run a node's Patroni.
fn patronis(site: &Site, node: NodeId) -> usize {
    let file = site.directory(node).join("patroni.yml");
    let file = file.to_str().unwrap().as_bytes().to_vec();
    let runs = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == file)
    };
    workers(&site.settings.data_directory)
        .iter()
        .filter(|pid| runs(pid))
        .count()
}
