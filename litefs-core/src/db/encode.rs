//! Appends planned transactions to the log: at once, or in the background.
//!
//! A WAL transaction may be encoded after its commit was acknowledged, because the WAL goes on holding it:
//! if the process dies, the start finds it there. So, before frames are overwritten, removed, or
//! checkpointed (which changes the old pages that their checksums were taken against), the queue is
//! drained ([`Database::settle_log`]). A transaction of the database file is appended at once.
//!
//! If the log refuses (disk full), jobs stay queued in order, and the database takes no new transaction
//! until they are through: the next write tries again first.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::error::{Error, IoContext, chain};
use crate::log::{RecordKind, TxLog};
use crate::ltx::{Encoder, Header, Scratch, Timestamp, WalSource};
use crate::types::Txid;

use super::capture::Capture;
use super::pages::PageFiles;
use super::plan::Plan;
use super::spool::Spool;
use super::{Database, Durability};

/// A transaction to append.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) plan: Plan,
    pub(super) files: PageFiles,
    pub(super) timestamp: SystemTime,
    pub(super) kind: RecordKind,
}

/// Jobs in the order of their transactions. Only the holder of the log's lock takes one out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: VecDeque<Job>,
    len_bytes: u64,
}

/// The log, and what encoding into it needs.
#[derive(Debug)]
pub(super) struct LogWriter {
    pub(super) log: TxLog,
    scratch: Scratch,
}

impl LogWriter {
    pub(super) fn new(log: TxLog) -> LogWriter {
        LogWriter { log, scratch: Scratch::default() }
    }
}

impl Queue {
    fn push(&mut self, job: Job) {
        self.len_bytes += job.plan.len_bytes();
        self.jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.len_bytes -= job.plan.len_bytes();
        Some(job)
    }

    fn put_back(&mut self, job: Job) {
        self.len_bytes += job.plan.len_bytes();
        self.jobs.push_front(job);
    }

    fn is_long(&self) -> bool {
        self.jobs.len() > MAX_QUEUED_JOBS || self.len_bytes > MAX_QUEUED_BYTES
    }
}

impl Database {
    /// Has the job done in the background, or at once if too much is waiting.
    pub(super) fn enqueue(&self, job: Job) -> Result<(), Error> {
        let wal = job.files.wal.clone();
        let long = {
            let mut queue = self.queue.lock();
            queue.push(job);
            queue.is_long()
        };
        if self.options.durability == Durability::Always {
            self.drain()?;
            if let Some(wal) = wal {
                wal.sync().at("sync", self.paths.wal())?;
            }
            return self.sync_log();
        }
        if long {
            return self.drain();
        }
        self.worker.wake(&self.me);
        Ok(())
    }

    /// Does the job now, after all that wait.
    pub(super) fn append_now(&self, job: &Job) -> Result<(), Error> {
        let mut writer = self.log.lock();
        self.drain_into(&mut writer)?;
        self.encode(&mut writer, job)
    }

    /// Does all waiting jobs.
    pub(super) fn drain(&self) -> Result<(), Error> {
        self.drain_into(&mut self.log.lock())
    }

    /// Takes the newest record out of the log again.
    pub(super) fn drop_last(&self) -> Result<(), Error> {
        let mut writer = self.log.lock();
        writer.log.drop_last().map_err(|e| self.log_error(e))?;
        self.note_log(&writer.log);
        Ok(())
    }

    /// Makes the log durable. If that fails, nobody knows what is: nothing more is written before a restart.
    pub(super) fn sync_log(&self) -> Result<(), Error> {
        let mut writer = self.log.lock();
        let synced = writer.log.sync().map_err(|e| self.log_error(e));
        if let Err(err) = &synced {
            self.fail(chain(err));
        }
        self.note_log(&writer.log);
        synced
    }

    /// Before the WAL's frames are checkpointed, overwritten or removed: the log has them, as durably as
    /// the app has asked for.
    pub(super) fn settle_log(&self, c: &Capture) -> Result<(), Error> {
        let logged = c.logged.pos.map_or(0, |p| p.txid.as_u64());
        if self.appended.load(Ordering::Acquire) != logged {
            self.drain()?;
        }
        if c.app_syncs && self.synced.load(Ordering::Acquire) != logged {
            self.sync_log()?;
        }
        Ok(())
    }

    /// Caches how far the log has come.
    pub(super) fn note_log(&self, log: &TxLog) {
        let raw = |txid: Option<Txid>| txid.map_or(0, Txid::as_u64);
        self.appended.store(raw(log.appended()), Ordering::Release);
        self.synced.store(raw(log.synced()), Ordering::Release);
    }

    fn drain_into(&self, writer: &mut LogWriter) -> Result<(), Error> {
        while let Some(job) = self.take_job() {
            if let Err(err) = self.encode(writer, &job) {
                self.queue.lock().put_back(job);
                if !self.log_blocked.swap(true, Ordering::AcqRel) {
                    tracing::error!(db = %self.name, err = &err as &dyn std::error::Error,
                        "the transaction log can't be written; no new transactions until it can");
                }
                return Err(err);
            }
        }
        if self.log_blocked.swap(false, Ordering::AcqRel) {
            tracing::info!(db = %self.name, "the transaction log can be written again");
        }
        Ok(())
    }

    fn take_job(&self) -> Option<Job> {
        self.queue.lock().pop()
    }

    fn encode(&self, writer: &mut LogWriter, job: &Job) -> Result<(), Error> {
        let plan = &job.plan;
        let with_pages = plan.len_bytes() <= MAX_LOGGED_BYTES;
        let kind = if with_pages { job.kind } else { RecordKind::PositionOnly };
        let LogWriter { log, scratch } = writer;
        let mut append = log.begin().map_err(|e| self.log_error(e))?;
        self.encode_pages(&mut append, scratch, job, with_pages)?;
        append.finish(kind).map_err(|e| self.log_error(e))?;
        self.note_log(&writer.log);
        self.announce();
        tracing::debug!(db = %self.name, txid = %plan.txid, pages = plan.pages.len(), "transaction");
        Ok(())
    }

    /// Writes the transaction as LTX, with all its pages.
    pub(super) fn encode_to(&self, out: &mut Spool, job: &Job) -> Result<(), Error> {
        self.encode_pages(out, &mut Scratch::default(), job, true)
    }

    fn encode_pages(
        &self,
        out: &mut impl Write,
        scratch: &mut Scratch,
        job: &Job,
        with_pages: bool,
    ) -> Result<(), Error> {
        let plan = &job.plan;
        let header = Header {
            compressed: self.options.compress,
            page_size: plan.page_size,
            commit: plan.commit,
            min_txid: plan.txid,
            max_txid: plan.txid,
            timestamp: Timestamp::from_system_time(job.timestamp),
            pre_apply: plan.pre.map(|p| p.post_apply),
            wal: plan.wal.map(|w| WalSource {
                offset: w.offset,
                len_bytes: w.len_bytes,
                salt: w.salt,
            }),
            node_id: self.options.node_id,
        };
        let failed = |source| Error::Encode { db: self.name.clone(), txid: plan.txid, source };
        let mut encoder = Encoder::with_scratch(out, &header, scratch).map_err(failed)?;
        let mut buf = job.files.buffer();
        for (pgno, source) in plan.pages.iter().filter(|_| with_pages) {
            let read = job.files.read(*pgno, *source, &mut buf);
            read.map_err(|source| Error::Io { op: "read", path: self.paths.dir().into(), source })?;
            encoder.page(*pgno, &buf).map_err(failed)?;
        }
        encoder.finish(plan.post).map_err(failed)?;
        Ok(())
    }
}

/// A transaction with more page bytes is logged as a position only: who needs it takes a snapshot.
const MAX_LOGGED_BYTES: u64 = 64 << 20;
const MAX_QUEUED_JOBS: usize = 4096;
const MAX_QUEUED_BYTES: u64 = 64 << 20;
