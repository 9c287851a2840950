//! The replica's commits under the halt lock: what SQLite is about to commit goes to the primary first.
//!
//! ```text
//!  WAL      write ─► ahead: file with that write over it ─► a commit frame completes ─► primary ─► log ─► the write
//!  journal  its end is about to come ─► what differs? ─► primary ─► log, staged ─► its end
//! ```
//!
//! Why in this order, and what follows from an error in each place: see [`super`].

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Forward;
use super::lent::ForwardError;
use crate::db::Database;
use crate::db::capture::{Capture, Staged, WalTail, WalTx};
use crate::db::encode::Job;
use crate::db::plan::{Logged, Plan};
use crate::db::spool::Spool;
use crate::env::File;
use crate::error::{Error, IoContext};
use crate::log::RecordKind;

/// A transaction that the primary has, and whose last bytes are still to be written.
#[derive(Debug)]
pub(in crate::db) struct Forwarded {
    tx: WalTx,
    /// `None` if it leaves every page as it was.
    logged: Option<Logged>,
}

impl Database {
    /// Before SQLite's write to the WAL: if that completes a transaction, the primary gets it.
    pub(in crate::db) fn forward_wal(
        &self,
        c: &mut Capture,
        forward: &Arc<dyn Forward>,
        wal: &Arc<dyn File>,
        data: &[u8],
        offset: u64,
    ) -> Result<Option<Forwarded>, Error> {
        let ahead = Ahead { file: Arc::clone(wal), data: data.to_vec(), offset };
        let ahead: Arc<dyn File> = Arc::new(ahead);
        if c.wal.is_none() {
            c.wal = WalTail::open(ahead.as_ref()).at("read", self.paths.wal())?;
            c.app_syncs = false;
        }
        let forwarded = self.forward_ahead(c, forward, &ahead);
        if forwarded.is_err() {
            self.not_written(c, wal)?;
        }
        forwarded
    }

    /// After a write that [`Database::forward_wal`] has looked at: it is done.
    pub(in crate::db) fn accept_forwarded(
        &self,
        c: &mut Capture,
        forwarded: Option<Forwarded>,
    ) -> Result<(), Error> {
        let Some(Forwarded { tx, logged }) = forwarded else { return Ok(()) };
        if let Some(tail) = &mut c.wal {
            tail.accept(tx);
        }
        c.dirty = Default::default();
        let Some(logged) = logged else { return Ok(()) };
        c.page_size = logged.page_size;
        c.logged = logged;
        self.publish(c);
        self.strict_check(c)
    }

    /// The write failed, or wasn't made: the tailer has seen what isn't there.
    pub(in crate::db) fn not_written(
        &self,
        c: &mut Capture,
        wal: &Arc<dyn File>,
    ) -> Result<(), Error> {
        match &mut c.wal {
            // Looked at again, from its header on, with the next write.
            Some(tail) if tail.captured() == 0 => c.wal = None,
            Some(tail) => {
                tail.give_up(wal.as_ref(), tail.captured()).at("read", self.paths.wal())?;
            }
            None => {}
        }
        Ok(())
    }

    /// Before the journal ends: the primary gets the transaction, and the log has it, staged.
    pub(in crate::db) fn forward_journal(
        &self,
        c: &mut Capture,
        forward: &Arc<dyn Forward>,
    ) -> Result<(), Error> {
        self.retire_wal(c)?;
        if c.staged.as_ref().is_some_and(|staged| !staged.stale) {
            // The primary has it, but the journal couldn't be ended.
            return Ok(());
        }
        self.unstage(c)?;
        let Some(plan) = self.plan_from_file(c)? else { return Ok(()) };
        let logged = plan.logged();
        let files = self.page_files(plan.page_size)?;
        let kind = RecordKind::Staged { journal_nonce: self.journal_nonce()? };
        self.commit_on_primary(forward, &Job { plan, files, timestamp: self.env.now(), kind })?;
        c.staged = Some(Staged { logged, stale: false });
        Ok(())
    }

    /// Takes a staged record back.
    pub(in crate::db) fn unstage(&self, c: &mut Capture) -> Result<(), Error> {
        if c.staged.is_some() {
            self.drop_last()?;
            c.staged = None;
        }
        Ok(())
    }

    /// Whether what the journal has decided about is as it was before.
    pub(in crate::db) fn is_rolled_back(&self, c: &mut Capture) -> Result<bool, Error> {
        self.unstage(c)?;
        Ok(self.plan_from_file(c)?.is_none())
    }

    fn forward_ahead(
        &self,
        c: &mut Capture,
        forward: &Arc<dyn Forward>,
        ahead: &Arc<dyn File>,
    ) -> Result<Option<Forwarded>, Error> {
        let Some(tail) = &mut c.wal else { return Ok(None) };
        let Some(tx) = tail.advance(ahead.as_ref()).at("read", self.paths.wal())? else {
            return Ok(None);
        };
        let Some(tail) = &c.wal else { return Ok(None) };
        let mut files = self.page_files(tail.page_size())?;
        files.wal = Some(Arc::clone(ahead));
        let plan = c.view(self, &files, tail.pages(), &tx.pages, tx.commit).plan()?;
        let logged = plan.as_ref().map(Plan::logged);
        if let Some(mut plan) = plan {
            plan.wal = Some(tx.span);
            let kind = RecordKind::Plain;
            self.commit_on_primary(forward, &Job { plan, files, timestamp: self.env.now(), kind })?;
        }
        Ok(Some(Forwarded { tx, logged }))
    }

    /// The primary gets the transaction, then the log does.
    fn commit_on_primary(&self, forward: &Arc<dyn Forward>, job: &Job) -> Result<(), Error> {
        let started = Instant::now();
        let txid = job.plan.txid;
        self.drain()?;
        if self.last_pos() != job.plan.pre {
            // What was received last must be seen first.
            return Err(Error::InUse { db: self.name.clone() });
        }
        let mut spool = Spool::new(self);
        self.encode_to(&mut spool, job)?;
        let spool = Arc::new(spool);
        let until = forward.commit(Arc::clone(&spool)).map_err(|source| {
            if let ForwardError::Lost(_) = source {
                self.withdraw("a commit was not confirmed by the primary");
            }
            let reason = source.to_string();
            tracing::warn!(db = %self.name, %txid, reason, "a commit under the halt lock failed");
            Error::Forward { db: self.name.clone(), txid, reason }
        })?;
        self.lent.extend(forward, until);
        self.append_spool(&spool, job.kind)?;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        tracing::debug!(db = %self.name, %txid, pages = job.plan.pages.len(), "transaction forwarded");
        Ok(())
    }
}

/// A file with a write over it that hasn't been made yet.
#[derive(Debug)]
struct Ahead {
    file: Arc<dyn File>,
    data: Vec<u8>,
    offset: u64,
}

impl Ahead {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl File for Ahead {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut n = self.file.read_at(buf, offset)?;
        let to = (offset + buf.len() as u64).min(self.end());
        // Between the file's end and a write past it there are zeros.
        let there = to.saturating_sub(offset) as usize;
        if !self.data.is_empty() && there > n {
            buf[n..there].fill(0);
            n = there;
        }
        let from = offset.max(self.offset);
        if from < to {
            let (at, len) = ((from - offset) as usize, (to - from) as usize);
            buf[at..at + len].copy_from_slice(&self.data[(from - self.offset) as usize..][..len]);
        }
        Ok(n)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len().map(|len| if self.data.is_empty() { len } else { len.max(self.end()) })
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.file.modified()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::{Env, OpenMode, SystemEnv};

    fn ahead(dir: &Path, file: &[u8], data: &[u8], offset: u64) -> Ahead {
        let path = dir.join(format!("{}-{offset}-{}", file.len(), data.len()));
        let opened = SystemEnv.open(&path, OpenMode::Create).unwrap();
        opened.write_at(file, 0).unwrap();
        Ahead { file: opened, data: data.to_vec(), offset }
    }

    #[test]
    fn a_write_is_seen_before_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("abcdef", "XY", 2, "abXYef"),
            ("abcdef", "XYZ", 5, "abcdeXYZ"),
            ("abc", "XY", 5, "abc\0\0XY"),
            ("", "XY", 0, "XY"),
            ("abc", "", 1, "abc"),
        ];
        for (file, data, offset, want) in cases {
            let (file, data, want) = (file.as_bytes(), data.as_bytes(), want.as_bytes());
            let ahead = ahead(dir.path(), file, data, offset);
            assert_eq!(ahead.len().unwrap(), want.len() as u64);
            for from in 0..want.len() {
                for len in 0..=want.len() + 2 {
                    let mut buf = vec![b'?'; len];
                    let n = ahead.read_at(&mut buf, from as u64).unwrap();
                    let want = &want[from..(from + len).min(want.len())];
                    assert_eq!(&buf[..n], want, "{file:?} {data:?} {offset} {from} {len}");
                }
            }
        }
    }
}
