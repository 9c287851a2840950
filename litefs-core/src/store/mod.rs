//! THROW-AWAY STUB of the engine's store.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::db::Database;
use crate::error::{Error, ErrorKind};
use crate::types::DbName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    Primary,
    Unknown,
    Behind(Duration),
}

#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    started: SystemTime,
    dbs: Mutex<BTreeMap<DbName, Arc<Database>>>,
    read_only: Arc<AtomicBool>,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Arc<Store>, Error> {
        let store = Store {
            dir: dir.to_owned(),
            started: SystemTime::now(),
            dbs: Mutex::default(),
            read_only: Arc::default(),
        };
        std::fs::create_dir_all(dir.join("dbs"))?;
        for entry in std::fs::read_dir(dir.join("dbs"))? {
            if let Ok(name) = DbName::new(&entry?.file_name().to_string_lossy()) {
                store.register(&name);
            }
        }
        Ok(Arc::new(store))
    }
    fn register(&self, name: &DbName) -> Arc<Database> {
        let make = || {
            Arc::new(Database {
                name: name.clone(),
                dir: self.dir.join("dbs").join(name.as_str()),
                read_only: self.read_only.clone(),
            })
        };
        self.dbs.lock().entry(name.clone()).or_insert_with(make).clone()
    }
    pub fn set_replica(&self, replica: bool) {
        self.read_only.store(replica, Relaxed);
    }
    pub fn database(&self, name: &DbName) -> Option<Arc<Database>> {
        self.dbs.lock().get(name).cloned()
    }
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.dbs.lock().values().cloned().collect()
    }
    pub fn create_database(&self, name: &DbName) -> Result<Arc<Database>, Error> {
        if self.read_only.load(Relaxed) {
            return Err(ErrorKind::ReadOnly.into());
        }
        std::fs::create_dir_all(self.dir.join("dbs").join(name.as_str()))?;
        Ok(self.register(name))
    }
    pub fn is_primary(&self) -> bool {
        !self.read_only.load(Relaxed)
    }
    pub fn primary_hostname(&self) -> Option<String> {
        (!self.is_primary()).then(|| "node-1".into())
    }
    pub fn lag(&self) -> Lag {
        if self.is_primary() { Lag::Primary } else { Lag::Behind(Duration::from_millis(311)) }
    }
    pub fn primary_timestamp(&self) -> Option<SystemTime> {
        None
    }
    pub fn started(&self) -> SystemTime {
        self.started
    }
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }
    pub fn sync_dirs(&self) -> Result<(), Error> {
        for db in self.databases() {
            std::fs::File::open(&db.dir)?.sync_all()?;
        }
        Ok(())
    }
}
