//! Two whole nodes, without a mount: the second leads when the first stops.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litefs_core::cluster::{Options, Ready, RoleLoop};
use litefs_core::http::{NodeInfo, router, serve};
use litefs_core::store::{Store, StoreOptions};
use litefs_example_custom_lease::FileLeaser;
use litefs_lease::PrimaryInfo;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Node {
    store: Arc<Store>,
    ready: Ready,
    stop: oneshot::Sender<()>,
    role: JoinHandle<()>,
    api: JoinHandle<std::io::Result<()>>,
}

impl Node {
    async fn start(place: &Path, data: &Path, name: &str) -> Node {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let advertise_url = format!("http://{}", listener.local_addr().unwrap());
        let store = StoreOptions::new(data.join(name)).open().unwrap();
        let own = PrimaryInfo { hostname: name.into(), advertise_url };
        let leaser = FileLeaser::new(place, own).unwrap();
        let role = RoleLoop::new(Arc::clone(&store), Arc::new(leaser), Options::default());
        let control = Some(role.control());
        let info = NodeInfo { candidate: true, hostname: name.into(), control };
        let api = serve(listener, router(Arc::clone(&store), info), std::future::pending());
        let (stop, told) = oneshot::channel();
        Node {
            ready: role.ready(),
            role: tokio::spawn(role.run(async { drop(told.await) })),
            api: tokio::spawn(api),
            store,
            stop,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.role.await.unwrap();
        self.api.abort();
        self.store.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_leads_when_the_first_has_stopped() {
    let (place, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut a = Node::start(place.path(), data.path(), "a").await;
    tokio::time::timeout(LIMIT, a.ready.wait()).await.unwrap().unwrap();
    assert!(a.store.is_primary());

    let mut b = Node::start(place.path(), data.path(), "b").await;
    tokio::time::timeout(LIMIT, b.ready.wait()).await.unwrap().unwrap();
    assert_eq!(b.store.primary_hostname().as_deref(), Some("a"));
    assert!(a.store.is_primary() && !b.store.is_primary());
    assert_eq!(b.store.cluster_id(), a.store.cluster_id());

    a.stop().await;
    let deadline = Instant::now() + LIMIT;
    while !b.store.is_primary() {
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    b.stop().await;
}

const LIMIT: Duration = Duration::from_secs(20);
