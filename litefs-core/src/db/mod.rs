//! THROW-AWAY STUB of the engine's databases: files in a directory, nothing captured.
#![allow(missing_docs, clippy::len_without_is_empty)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind};
use crate::types::{DbName, PageCount, Pos};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SuperSuffix([u8; 9]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    Database,
    Journal,
    Wal,
    Shm,
    Super(SuperSuffix),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenHow {
    Existing,
    Create,
    CreateNew,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountName {
    Lag,
    Primary,
    File(DbName, FileKind),
    Pos(DbName),
    Lock(DbName),
}

impl MountName {
    pub fn parse(name: &str) -> Option<MountName> {
        match name {
            ".lag" => return Some(MountName::Lag),
            ".primary" => return Some(MountName::Primary),
            _ => {}
        }
        let db = |n: &str| DbName::new(n).ok();
        for (suffix, kind) in
            [("-journal", FileKind::Journal), ("-wal", FileKind::Wal), ("-shm", FileKind::Shm)]
        {
            if let Some(n) = name.strip_suffix(suffix) {
                return Some(MountName::File(db(n)?, kind));
            }
        }
        if let Some(n) = name.strip_suffix("-pos") {
            return Some(MountName::Pos(db(n)?));
        }
        if let Some(n) = name.strip_suffix("-lock") {
            return Some(MountName::Lock(db(n)?));
        }
        if let Some((n, s)) = name.rsplit_once("-mj")
            && let Ok(s) = <[u8; 9]>::try_from(s.as_bytes())
        {
            return Some(MountName::File(db(n)?, FileKind::Super(SuperSuffix(s))));
        }
        Some(MountName::File(db(name)?, FileKind::Database))
    }
}

#[derive(Debug)]
pub struct Database {
    pub(crate) name: DbName,
    pub(crate) dir: PathBuf,
    pub(crate) read_only: Arc<AtomicBool>,
}

impl Database {
    fn path(&self, kind: FileKind) -> PathBuf {
        self.dir.join(match kind {
            FileKind::Database => "database".to_string(),
            FileKind::Journal => "journal".to_string(),
            FileKind::Wal => "wal".to_string(),
            FileKind::Shm => "shm".to_string(),
            FileKind::Super(s) => format!("super-{}", String::from_utf8_lossy(&s.0)),
        })
    }
    pub fn name(&self) -> &DbName {
        &self.name
    }
    pub fn pos(&self) -> Option<Pos> {
        None
    }
    pub fn page_count(&self) -> PageCount {
        let len = self.len(FileKind::Database).ok().flatten().unwrap_or(0);
        PageCount::new((len / 4096) as u32)
    }
    pub fn last_commit_time(&self) -> Option<SystemTime> {
        None
    }
    pub fn len(&self, kind: FileKind) -> Result<Option<u64>, Error> {
        match std::fs::metadata(self.path(kind)) {
            Ok(m) => Ok(Some(m.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
    pub fn open_file(
        self: &Arc<Self>,
        kind: FileKind,
        how: OpenHow,
    ) -> Result<OpenFile, Error> {
        if how != OpenHow::Existing && self.read_only.load(Relaxed) && kind != FileKind::Shm {
            return Err(ErrorKind::ReadOnly.into());
        }
        let mut o = OpenOptions::new();
        o.read(true).write(true);
        match how {
            OpenHow::Existing => &mut o,
            OpenHow::Create => o.create(true),
            OpenHow::CreateNew => o.create_new(true),
        };
        let file = o.open(self.path(kind))?;
        Ok(OpenFile { kind, database: self.clone(), file })
    }
    pub fn truncate(&self, kind: FileKind, len: u64) -> Result<(), Error> {
        let f = OpenOptions::new().write(true).open(self.path(kind))?;
        Ok(f.set_len(len)?)
    }
    pub fn unlink(&self, kind: FileKind) -> Result<(), Error> {
        if self.read_only.load(Relaxed) {
            return Err(ErrorKind::ReadOnly.into());
        }
        std::fs::remove_file(self.path(kind))?;
        if kind == FileKind::Database {
            for kind in [FileKind::Journal, FileKind::Wal, FileKind::Shm] {
                let _ = std::fs::remove_file(self.path(kind));
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub struct OpenFile {
    kind: FileKind,
    database: Arc<Database>,
    file: File,
}

impl OpenFile {
    pub fn kind(&self) -> FileKind {
        self.kind
    }
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        if data.starts_with(b"panic, please") {
            panic!("as the test asked");
        }
        if self.database.read_only.load(Relaxed) {
            return Err(ErrorKind::ReadOnly.into());
        }
        Ok(self.file.write_all_at(data, offset)?)
    }
    pub fn truncate(&self, len: u64) -> Result<(), Error> {
        Ok(self.file.set_len(len)?)
    }
    pub fn sync(&self) -> Result<(), Error> {
        Ok(self.file.sync_data()?)
    }
    pub fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    pub fn len(&self) -> Result<u64, Error> {
        Ok(self.file.metadata()?.len())
    }
    pub fn backing_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
    pub fn is_current(&self) -> bool {
        true
    }
}
