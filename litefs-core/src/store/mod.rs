//! A data directory and its databases.
//!
//! Opens every database at start, hands them out by name, creates new ones, enforces retention, and marks
//! a clean end. What isn't here: what happens inside a database (see [`crate::db`]), and who is the primary
//! (see `litefs-lease`): the store is told.
//!
//! A store is a value: no global state, no signal handling. Several live in one process, each on its own
//! directory, which it locks.

mod changes;
mod facts;
mod followers;
mod layout;
mod retention;
mod role;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use litefs_lease::ClusterId;
use parking_lot::{Mutex, RwLock};

use crate::authority::Authority;
use crate::db::{
    Beside, Database, DbOptions, Durability, Peer, PeerSlot, Spooled, Worker, remove_spooled,
};
use crate::env::{Env, LockGuard, SystemEnv};
use crate::error::{Error, IoContext};
use crate::log::LogOptions;
use crate::metrics::Metrics;
use crate::types::{DbName, Pos};

pub(crate) use changes::Changes;
use layout::DataPaths;
pub(crate) use layout::{DbPaths, INCOMING_PREFIX};
use retention::RetentionThread;

pub use crate::log::Retention;
pub use changes::{Changed, Closer, Event, Events, Overflow, Subscription};
pub use followers::Follower;
pub(crate) use followers::{Followers, Place};
use role::NEVER;
pub use role::{Lag, Role};

/// How to open a [`Store`].
///
/// ```no_run
/// use litefs_core::store::StoreOptions;
///
/// let store = StoreOptions::new("/var/lib/litefs").open()?;
/// store.become_primary();
/// for db in store.databases() {
///     println!("{} {:?}", db.name(), db.pos());
/// }
/// store.close();
/// # Ok::<(), litefs_core::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StoreOptions {
    dir: PathBuf,
    env: Arc<dyn Env>,
    compress: bool,
    durability: Durability,
    strict_verify: bool,
    retention: Retention,
    retention_interval: Duration,
    log: LogOptions,
}

impl StoreOptions {
    /// Defaults: LZ4, ten minutes of history, looked after once a minute.
    pub fn new(dir: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            dir: dir.into(),
            env: Arc::new(SystemEnv),
            compress: true,
            durability: Durability::Normal,
            strict_verify: false,
            retention: Retention {
                min_age: Some(Duration::from_secs(600)),
                ..Retention::default()
            },
            retention_interval: Duration::from_secs(60),
            log: LogOptions::default(),
        }
    }

    /// Where files, clock and chance come from.
    #[must_use]
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Whether logged transactions are compressed.
    #[must_use]
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// When a commit is durable.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether each commit is followed by a check of all pages. Slow; for tests.
    #[must_use]
    pub fn strict_verify(mut self, strict: bool) -> Self {
        self.strict_verify = strict;
        self
    }

    /// How much history is kept, and how often that is enforced (never, if zero).
    #[must_use]
    pub fn retention(mut self, retention: Retention, interval: Duration) -> Self {
        self.retention = retention;
        self.retention_interval = interval;
        self
    }

    /// When a segment of the log is full.
    #[must_use]
    pub fn log(mut self, log: LogOptions) -> Self {
        self.log = log;
        self
    }

    /// Opens the data directory, creating it if need be, and recovers its databases.
    ///
    /// # Errors
    /// `Busy` if another process uses it; I/O errors. A database that can't be recovered is no error: it is
    /// read-only, see [`Database::health`].
    pub fn open(self) -> Result<Arc<Store>, Error> {
        Store::open(self)
    }
}

/// An open data directory.
#[derive(Debug)]
pub struct Store {
    paths: DataPaths,
    env: Arc<dyn Env>,
    options: Arc<DbOptions>,
    authority: Arc<Authority>,
    role: RwLock<Role>,
    /// The primary's clock when it was last heard from, in ms; [`NEVER`] if it wasn't.
    primary_clock: AtomicI64,
    cluster_id: Mutex<Option<ClusterId>>,
    identity: u64,
    reign: AtomicU64,
    followers: Arc<Followers>,
    databases: RwLock<BTreeMap<DbName, Arc<Database>>>,
    worker: Worker,
    peers: Arc<PeerSlot>,
    retention: Mutex<Option<RetentionThread>>,
    started: SystemTime,
    _lock: LockGuard,
}

impl Store {
    fn open(options: StoreOptions) -> Result<Arc<Store>, Error> {
        let env = options.env;
        let paths = DataPaths::new(&options.dir);
        env.create_dir_all(paths.dir()).at("create", paths.dir())?;
        let lock = env.lock(&paths.lock()).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: paths.dir().into() },
            _ => Error::Io { op: "lock", path: paths.lock(), source },
        })?;
        // The node ID of the original's early versions; it is made anew by each process.
        drop(env.remove_file(&paths.legacy_id()));
        remove_spooled(env.as_ref(), paths.dir())?;
        env.create_dir_all(&paths.databases()).at("create", paths.databases())?;
        let node_id = env.random();
        let changes = Changes::new();
        let worker = Worker::start().at("start", paths.dir())?;
        let store = Arc::new(Store {
            cluster_id: Mutex::new(facts::read_cluster_id(env.as_ref(), &paths)?),
            options: Arc::new(DbOptions {
                compress: options.compress,
                durability: options.durability,
                strict_verify: options.strict_verify,
                node_id,
                log: options.log,
                changes: Arc::clone(&changes),
                metrics: Arc::new(Metrics::new()),
                beside: Beside::default(),
            }),
            identity: facts::identity(env.as_ref(), &paths)?,
            reign: AtomicU64::new(facts::read_reign(env.as_ref(), &paths)?),
            followers: Followers::new(changes),
            authority: Arc::new(Authority::new()),
            role: RwLock::default(),
            primary_clock: AtomicI64::new(NEVER),
            databases: RwLock::default(),
            worker,
            peers: Arc::default(),
            retention: Mutex::default(),
            started: env.now(),
            paths,
            env,
            _lock: lock,
        });
        store.open_databases()?;
        *store.retention.lock() = RetentionThread::start(
            Arc::downgrade(&store),
            options.retention,
            options.retention_interval,
        )
        .at("start", store.paths.dir())?;
        Ok(store)
    }

    /// A database by name.
    pub fn database(&self, name: &DbName) -> Option<Arc<Database>> {
        self.databases.read().get(name).map(Arc::clone)
    }

    /// All databases, by name, including dropped ones.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.read().values().map(Arc::clone).collect()
    }

    /// The database of that name, made if there is none. It has no database file before somebody creates it.
    ///
    /// # Errors
    /// `ReadOnly` on a node that may not write; I/O errors.
    pub fn create_database(&self, name: &DbName) -> Result<Arc<Database>, Error> {
        if let Some(db) = self.database(name) {
            return Ok(db);
        }
        if self.authority.check().is_none() {
            return Err(Error::Replica { db: name.clone() });
        }
        self.add_database(name)
    }

    /// The database of that name on a replica, made if there is none, to receive what the primary has of it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn replica_database(&self, name: &DbName) -> Result<Arc<Database>, Error> {
        self.database(name).map_or_else(|| self.add_database(name), Ok)
    }

    /// Makes a database file, read whole from `from` first, the database of that name: one transaction, which
    /// those who have it open see as any other.
    ///
    /// # Errors
    /// `ReadOnly` on a node that may not write; [`Error::Import`] if it isn't a whole database;
    /// [`Error::InUse`] if applications don't let go of the old one; I/O errors. Then nothing has changed.
    pub fn import(&self, name: &DbName, from: &mut dyn io::Read) -> Result<Pos, Error> {
        if self.authority.check().is_none() {
            return Err(Error::Replica { db: name.clone() });
        }
        let path = self.paths.spooled(self.env.random());
        let image = Spooled::read(&self.env, path, name, from)?;
        self.create_database(name)?.import(image)
    }

    /// From now on SQLite's files are changed by way of a frontend, which has them open for applications.
    pub fn attach_peer(&self, peer: Arc<dyn Peer>) {
        self.peers.set(Some(peer));
        self.databases().iter().for_each(|db| db.release_files());
    }

    /// The frontend is about to go: captures what nobody but the frontend can tell to be whole, and closes what is open by way
    /// of it, which is returned.
    pub fn detach_peer(&self) -> Option<Arc<dyn Peer>> {
        for db in self.databases() {
            if let Err(err) = db.capture_whole() {
                tracing::error!(db = %db.name(), err = crate::error::chain(&err), "what was written without a journal isn't captured");
            }
        }
        let peer = self.peers.get();
        self.peers.set(None);
        self.databases().iter().for_each(|db| db.release_files());
        peer
    }

    fn add_database(&self, name: &DbName) -> Result<Arc<Database>, Error> {
        let mut databases = self.databases.write();
        if let Some(db) = databases.get(name) {
            return Ok(Arc::clone(db));
        }
        let paths = self.paths.database(name);
        self.env.create_dir_all(paths.dir()).at("create", paths.dir())?;
        self.env.sync_dir(&self.paths.databases()).at("sync", self.paths.databases())?;
        let db = self.open_database(name.clone(), paths);
        databases.insert(name.clone(), Arc::clone(&db));
        Ok(db)
    }

    /// Makes created and removed names durable, in all databases.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync_dirs(&self) -> Result<(), Error> {
        self.databases().iter().try_for_each(|db| db.sync_dir())
    }

    /// Tells of new transactions and of changes of the role, from now on.
    pub fn subscribe(&self) -> Subscription {
        self.options.changes.subscribe()
    }

    /// How many subscriptions there are.
    pub fn subscribers(&self) -> usize {
        self.options.changes.subscribers()
    }

    /// Tells what happens, from now on.
    pub fn events(&self) -> Events {
        self.options.changes.events()
    }

    /// When the store was opened.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.paths.dir()
    }

    /// The node's ID, made anew by each process.
    pub fn node_id(&self) -> u64 {
        self.options.node_id
    }

    /// A number that stays with the data directory.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The cluster's ID, once there is one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id.lock().clone()
    }

    /// The cluster's ID; made and stored if there is none.
    ///
    /// # Errors
    /// I/O errors.
    pub fn ensure_cluster_id(&self) -> Result<ClusterId, Error> {
        let id = self.cluster_id().unwrap_or_else(|| ClusterId::from_random(self.random()));
        self.adopt_cluster_id(&id)?;
        Ok(id)
    }

    /// Makes the node one of that cluster, for good.
    ///
    /// # Errors
    /// If it belongs to another one; I/O errors.
    pub fn adopt_cluster_id(&self, id: &ClusterId) -> Result<(), Error> {
        let mut known = self.cluster_id.lock();
        match &*known {
            Some(known) if known == id => return Ok(()),
            Some(known) => {
                return Err(Error::OtherCluster { local: known.clone(), other: id.clone() });
            }
            None => {}
        }
        facts::write_cluster_id(self.env.as_ref(), &self.paths, id)?;
        *known = Some(id.clone());
        Ok(())
    }

    /// What is counted and measured.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.options.metrics
    }

    /// Chance, from where the store has its files and its clock.
    pub(crate) fn random(&self) -> u64 {
        self.env.random()
    }

    /// Takes the right to write away, which ends streams, brings all databases to disk and marks a clean end. Errors are logged:
    /// what they leave is what a crash would leave.
    pub fn close(&self) {
        self.become_replica(None);
        drop(self.retention.lock().take());
        for db in self.databases() {
            if let Err(err) = db.close() {
                tracing::error!(db = %db.name(), err = crate::error::chain(&err), "close");
            }
        }
        self.worker.stop();
    }

    fn open_databases(&self) -> Result<(), Error> {
        let dir = self.paths.databases();
        let mut names = self.env.read_dir(&dir).at("read", &dir)?;
        names.sort();
        for entry in names {
            let name = entry.to_str().and_then(|name| DbName::new(name).ok());
            let is_dir = self.env.metadata(&dir.join(&entry)).is_ok_and(|m| m.is_dir);
            let Some(name) = name.filter(|_| is_dir) else {
                tracing::warn!(path = %dir.join(&entry).display(), "not the directory of a database, left alone");
                continue;
            };
            let db = self.open_database(name.clone(), self.paths.database(&name));
            self.databases.write().insert(name, db);
        }
        self.databases().iter().try_for_each(|db| db.remove_leftovers())
    }

    fn open_database(&self, name: DbName, paths: DbPaths) -> Arc<Database> {
        let (env, options) = (Arc::clone(&self.env), Arc::clone(&self.options));
        let (authority, peers) = (Arc::clone(&self.authority), Arc::clone(&self.peers));
        Database::open(name, paths, env, options, authority, self.worker.clone(), peers)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.worker.stop();
    }
}

#[cfg(test)]
mod tests;
