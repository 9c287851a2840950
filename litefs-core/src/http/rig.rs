//! For tests: a node that serves HTTP on a port of its own, and transactions without SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{NodeInfo, router, serve};
use crate::db::{Database, FileKind, OpenHow};
use crate::store::{Store, StoreOptions};
use crate::types::{DbName, Pos};

pub(crate) struct Rig {
    pub(crate) store: Arc<Store>,
    pub(crate) url: String,
    /// Dropping it stops the server.
    _stop: oneshot::Sender<()>,
    _dir: TempDir,
}

impl Rig {
    /// A node that serves but is nothing yet.
    pub(crate) async fn start() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreOptions::new(dir.path()).open().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let node = NodeInfo { candidate: true, hostname: "here".into(), control: None };
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(listener, router(Arc::clone(&store), node), async {
            drop(stopped.await);
        }));
        Rig { store, url, _stop: stop, _dir: dir }
    }

    pub(crate) async fn primary() -> Rig {
        let rig = Rig::start().await;
        rig.store.become_primary();
        rig
    }

    /// Commits a transaction that writes `pages` pages with content that compresses badly.
    pub(crate) fn commit(&self, name: &str, pages: u32) -> Pos {
        let db = self.database(name);
        let file = db.open_file(FileKind::Database, OpenHow::Create).unwrap();
        let mut noise = SEED.fetch_add(1, Ordering::Relaxed);
        let mut image = vec![0u8; pages as usize * 4096];
        for byte in &mut image {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        image[..100].fill(0);
        image[..16].copy_from_slice(b"SQLite format 3\0");
        image[16..24].copy_from_slice(&[0x10, 0, 1, 1, 0, 64, 32, 32]);
        image[28..32].copy_from_slice(&pages.to_be_bytes());
        file.write_at(&image, 0).unwrap();
        file.sync().unwrap();
        db.pos().unwrap()
    }

    pub(crate) fn database(&self, name: &str) -> Arc<Database> {
        self.store.create_database(&self::name(name)).unwrap()
    }
}

pub(crate) fn name(text: &str) -> DbName {
    DbName::new(text).unwrap()
}

static SEED: AtomicU64 = AtomicU64::new(1);
