//! The primary's halt lock: the engine holds SQLite's write lock for a replica.
//!
//! ```text
//!  RESERVED ─► a dead writer's journal rolled back ─► WAL mode? WRITE too ─► all that SQLite has is in the log ─► position
//! ```
//!
//! RESERVED is held in both modes, so that the journal mode may change under the lock without a gap. In WAL mode the
//! session's shared lock on the database keeps others from leaving that mode, and WRITE keeps the WAL as it is, but for
//! checkpoints, which change nothing that is seen. In rollback mode readers read on until a transaction is written.
//!
//! A thread ends the lock when it expires, and when this node is no longer the primary: the lock is part of what the
//! applier holds, so it needs the mount, and neither a frontend's thread nor the role's loop may wait for that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{HaltError, HaltLock};
use crate::db::apply::{Applied, Applier};
use crate::db::peer::{ByteLock, PeerFile};
use crate::db::{Database, FileKind, Right};
use crate::error::Error;
use crate::sqlite::locks::RESERVED_BYTE;
use crate::types::Pos;

/// The halt lock that is held.
#[derive(Debug)]
pub(in crate::db) struct Grip {
    lock: HaltLock,
    deadline: Instant,
    /// The database, reserved; WRITE is kept by the applier's session.
    _database: Box<dyn PeerFile>,
}

impl Grip {
    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl Database {
    /// Takes the database from local writers, on behalf of a replica that calls its lock `id`. The same `id` gets the same
    /// lock. Waits for ten seconds at most, and only while `wanted`.
    pub(crate) fn acquire_halt(
        self: &Arc<Self>,
        id: i64,
        wanted: impl Fn() -> bool,
    ) -> Result<HaltLock, HaltError> {
        if id == 0 {
            return Err(HaltError::NoId);
        }
        let give_up = Instant::now() + ACQUIRE_TIMEOUT;
        let mut applier = self.apply.lock();
        loop {
            let held = applier.grip.as_ref().map(|grip| (grip.lock, grip.deadline));
            match held {
                Some((lock, _)) if lock.id == id => return Ok(lock),
                Some((_, deadline)) => {
                    let until = deadline.min(give_up).min(Instant::now() + LOOK_INTERVAL);
                    self.halt_changed.wait_until(&mut applier, until);
                }
                None => {
                    if let Some(lock) = self.try_halt(&mut applier, id)? {
                        return Ok(lock);
                    }
                    // Those who wait for SQLite's locks get their turn.
                    self.halt_changed.wait_for(&mut applier, PAUSE);
                }
            }
            if Instant::now() >= give_up || !wanted() {
                return Err(HaltError::TimedOut);
            }
        }
    }

    /// Lets go of the lock of that name, if it is held.
    pub(crate) fn release_halt(&self, id: i64) {
        let mut applier = self.apply.lock();
        if self.holds(&applier, id) {
            self.let_go(&mut applier);
        }
    }

    /// Lets go of whatever lock is held: the node is about to hand its role over.
    pub(in crate::db) fn end_halt(&self) {
        let mut applier = self.apply.lock();
        if applier.grip.is_some() {
            self.let_go(&mut applier);
        }
    }

    /// Whether that lock is held and hasn't expired.
    pub(super) fn holds(&self, applier: &Applier, id: i64) -> bool {
        applier.grip.as_ref().is_some_and(|grip| grip.lock.id == id && !grip.is_over())
    }

    /// The lock was used.
    pub(super) fn extend_halt(&self, applier: &mut Applier) {
        if let Some(grip) = &mut applier.grip {
            grip.deadline = Instant::now() + TTL;
        }
    }

    /// Wakes those who wait for a change of the lock; the role may have changed, too.
    pub(crate) fn role_changed(&self) {
        self.halt_changed.notify_all();
    }

    /// The applier was given other handles.
    pub(in crate::db) fn tell_halt_changed(&self, applier: &Applier) {
        self.halted.store(applier.grip.is_some(), Ordering::Release);
        self.halt_changed.notify_all();
    }

    fn try_halt(
        self: &Arc<Self>,
        applier: &mut Applier,
        id: i64,
    ) -> Result<Option<HaltLock>, HaltError> {
        let Right::Own(_) = self.writable()? else {
            return Err(Error::Replica { db: self.name.clone() }.into());
        };
        let failed = |op| move |e| self.peer_error(e, op, FileKind::Database);
        let database =
            self.peer().open(&self.name, FileKind::Database, true).map_err(failed("open"))?;
        let reserved = database.lock(RESERVED_BYTE..RESERVED_BYTE + 1, ByteLock::Exclusive);
        if !reserved.map_err(failed("lock"))?
            || self.roll_back_abandoned(true)? == Applied::Waiting
            || !self.keep_write(applier)?
        {
            return Ok(None);
        }
        let pos = self.settle_for_halt().inspect_err(|_| *applier = Applier::default())?;
        let (deadline, expires) = (Instant::now() + TTL, SystemTime::now() + TTL);
        let lock = HaltLock { id, pos, expires };
        applier.grip = Some(Grip { lock, deadline, _database: database });
        self.halted.store(true, Ordering::Release);
        let me = Arc::clone(self);
        let keeper = thread::Builder::new().name("litefs-halt".into());
        if let Err(source) = keeper.spawn(move || me.keep_halt(id)) {
            self.let_go(applier);
            return Err(
                Error::Io { op: "start a thread for", path: self.dir().into(), source }.into()
            );
        }
        tracing::info!(db = %self.name, id, pos = Pos::text(pos), "halt lock acquired by a replica");
        Ok(Some(lock))
    }

    /// All that SQLite has committed is in the log, and nothing but that.
    fn settle_for_halt(&self) -> Result<Option<Pos>, Error> {
        let mut capture = self.capture.lock();
        self.correct(&mut capture)?;
        self.drain()?;
        Ok(capture.logged.pos)
    }

    /// Ends the lock in time.
    fn keep_halt(&self, id: i64) {
        let mut applier = self.apply.lock();
        loop {
            let Some(deadline) =
                applier.grip.as_ref().filter(|g| g.lock.id == id).map(|g| g.deadline)
            else {
                return;
            };
            let is_primary = self.authority.check().is_some();
            if is_primary && Instant::now() < deadline {
                self.halt_changed.wait_until(&mut applier, deadline);
            } else {
                self.let_go(&mut applier);
                if applier.grip.is_some() {
                    self.halt_changed.wait_for(&mut applier, RETRY_DELAY);
                }
            }
        }
    }

    /// Lets local writers in again, unless the files of a primary are behind its log.
    fn let_go(&self, applier: &mut Applier) {
        if self.authority.check().is_some() {
            match self.apply_all(applier) {
                Ok(Applied::All) => {}
                Ok(Applied::Waiting) => return,
                Err(err) => {
                    tracing::error!(db = %self.name, err = crate::error::chain(&err),
                        "a forwarded transaction is logged but not in the files; writers are kept out");
                    return;
                }
            }
        }
        *applier = Applier::default();
        self.tell_halt_changed(applier);
        tracing::info!(db = %self.name, "halt lock released");
    }
}

/// So long a lock is held without being used.
pub(super) const TTL: Duration = Duration::from_secs(30);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// How often somebody who waits is asked whether he still wants to.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_DELAY: Duration = Duration::from_millis(100);
