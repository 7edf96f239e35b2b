//! Patroni reaches every etcd that a cell can be told of.

use std::path::Path;

use shared::record::Phase;
use tests::{etcd::Options, pki::Pki, wait::eventually};

use super::{
    super::{
        error::CellError,
        stage::{Instance, LONG, Stage, new_node},
    },
    DEBIAN, NEWEST,
};

#[tokio::test(flavor = "multi_thread")]
async fn patroni_reaches_an_etcd_that_asks_for_a_certificate() {
    let stage = Stage::set_with(|directory| Options {
        tls: Some(Pki::new(&directory.join("pki"))),
        client_certificates: true,
        ..Options::default()
    })
    .await;
    every_patroni_gets_a_leader(&stage).await;
    let mut settings = stage.settings(DEBIAN);
    settings.etcd.key = Some("/etc/shadow".into());
    let answer = stage.try_open(settings).await;
    assert!(
        matches!(answer, Err(CellError::Unreadable { .. })),
        "a key that Patroni could not read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_reaches_an_etcd_that_asks_for_a_password() {
    let stage = Stage::set_with(|_| Options {
        root_password: Some("sesame-of-etcd".into()),
        ..Options::default()
    })
    .await;
    every_patroni_gets_a_leader(&stage).await;
}

async fn every_patroni_gets_a_leader(stage: &Stage) {
    for patroni in [DEBIAN, NEWEST] {
        if !Path::new(patroni).exists() {
            continue;
        }
        let site = stage.open(stage.settings(patroni)).await;
        let mut instance = Instance::new(site.settings.guid.as_str());
        let node = new_node();
        instance.place(node, &site, Phase::Assigned);
        stage.write(&instance).await;
        assert_eq!(stage.put(&site, &instance, node).await.0, 201);
        // Patroni is asked, and not etcd, where every request with a password costs much.
        let rest = stage.status(&site, node).await.unwrap().rest_address;
        eventually("a leader", LONG, async || {
            let answer = stage
                .http
                .get(format!("http://{rest}/primary"))
                .send()
                .await
                .ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        site.stop().await;
    }
}
