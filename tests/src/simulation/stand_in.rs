//! Light cells for brokers that are processes of their own: the simulated cells, Patroni and PostgreSQL behind HTTP and
//! PostgreSQL's protocol, with their keys in a real etcd.
//!
//! **Guarantees.** The rules of the cells, and what Patroni does, are those of the [`World`].
//! **Caveats.** A simulated second is as short as the machine makes it, while etcd's keys run out by the clock on the wall.
//! Cells do not ask who calls. There is no router: each public port leads where its allocation says.

mod http;
mod postgres;

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use shared::etcd::Etcd;
use tokio::{net::TcpListener, runtime::Handle, task::block_in_place};

use super::{EtcdGround, Layout, World};

/// What is left for others between two simulated seconds.
const BETWEEN: Duration = Duration::from_millis(20);

/// A world that brokers reach from outside. It stands still when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    /// The world. Its calls block: see [`StandIn::look`].
    world: Arc<World>,
    over: Arc<AtomicBool>,
    time: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts the cells of a layout at one address, and what listens on the public ports at another. There must be nothing
    /// in etcd yet.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(
        client: Etcd,
        cells: IpAddr,
        router: IpAddr,
        ports: RangeInclusive<u16>,
        layout: Layout,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(cells, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let layout = Layout {
            http: Some(address),
            ..layout
        };
        let ground = Arc::new(EtcdGround::new(client, Handle::current()));
        let world = block_in_place(|| World::on(ground, layout));
        let api = http::router(Arc::clone(&world), address);
        tokio::spawn(async { axum::serve(listener, api).await });
        for port in ports {
            let door = TcpListener::bind(SocketAddr::new(router, port)).await.unwrap();
            tokio::spawn(postgres::listen(door, port, Arc::clone(&world)));
        }
        let over = Arc::new(AtomicBool::new(false));
        let time = {
            let (world, over) = (Arc::clone(&world), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    world.tick();
                    thread::sleep(BETWEEN);
                }
            })
        };
        Self {
            world,
            over,
            time: Some(time),
        }
    }

    /// Looks at the world.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        block_in_place(|| look(&self.world))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let ended = self.time.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(ended.is_none_or(|ended| ended.is_ok()), "the stand-in has failed");
        }
    }
}
