//! smoke
#![allow(clippy::unwrap_used, clippy::print_stderr)]
use shared::store::{Read, Store};
use std::time::{Duration, Instant};
use tests::etcd::{EtcdCluster, EtcdServer, Options};
#[tokio::test]
async fn smoke() {
    let t = Instant::now();
    let server = EtcdServer::start().await;
    eprintln!("started {:?}", t.elapsed());
    let etcd = server.client();
    let mut watch = etcd.watch("/a");
    eprintln!("{:?}", watch.next().await);
    let t = Instant::now();
    let index = etcd
        .create("/a/b", "<ü>&", Some(Duration::from_secs(3)))
        .await
        .unwrap();
    eprintln!("create {:?}", t.elapsed());
    eprintln!("{:?}", watch.next().await);
    let t = Instant::now();
    eprintln!(
        "{:?} {:?}",
        etcd.get("/a/b", Read::Quorum).await.unwrap(),
        t.elapsed()
    );
    etcd.compare_and_swap("/a/b", "x", index, None).await.unwrap();
    eprintln!("{:?}", watch.next().await);
    eprintln!("{:?}", etcd.tree("/a", Read::Quorum).await.unwrap());
    eprintln!("{:?}", etcd.traffic());
    let t = Instant::now();
    drop(server);
    eprintln!("stopped {:?}", t.elapsed());
    eprintln!("{:?}", watch.next().await);
    let t = Instant::now();
    let _cluster = EtcdCluster::start(3).await;
    eprintln!("cluster {:?}", t.elapsed());
    let t = Instant::now();
    let auth = EtcdServer::start_with(Options {
        root_password: Some("geheim".into()),
        ..Options::default()
    })
    .await;
    auth.client().set("/a", "x", None).await.unwrap();
    eprintln!("auth {:?}", t.elapsed());
}
