//! The thread of a stream: catches the replica up, then sends on what is committed, and at last the lease, if this replica
//! is to have it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::outbox::{Ended, Outbox};
use crate::db::{Database, Next};
use crate::error::{Error, chain};
use crate::http::frames::{ChunkWriter, Frame};
use crate::ltx::Timestamp;
use crate::store::{Place, Store, Subscription};
use crate::types::{DbName, Pos, Txid};

/// One replica, and how far it has come.
#[derive(Debug)]
pub(super) struct Sender {
    store: Arc<Store>,
    subscription: Subscription,
    place: Place,
    out: Outbox,
    positions: BTreeMap<DbName, Option<Pos>>,
    /// `None`: all databases.
    wanted: Option<BTreeSet<DbName>>,
}

/// Why a stream ends before its time.
#[derive(Debug)]
enum Failure {
    Ended(Ended),
    /// Within an LTX file, by the loss of the role.
    Interrupted,
    /// Between two frames.
    Read {
        db: DbName,
        source: Error,
    },
    /// Within an LTX file.
    Cut {
        db: DbName,
        source: Error,
    },
}

impl Sender {
    pub(super) fn new(
        store: Arc<Store>,
        subscription: Subscription,
        place: Place,
        out: Outbox,
        positions: BTreeMap<DbName, Option<Pos>>,
        wanted: Option<BTreeSet<DbName>>,
    ) -> Sender {
        Sender { store, subscription, place, out, positions, wanted }
    }

    /// Sends until there is a reason to end.
    pub(super) fn run(mut self) {
        match self.send_all() {
            Ok(()) | Err(Failure::Ended(Ended::LeaseLost)) => self.out.finish(),
            Err(Failure::Ended(Ended::Gone)) => {}
            Err(Failure::Interrupted) => self.out.abort(),
            Err(Failure::Ended(Ended::Stalled)) => {
                tracing::warn!("http: a replica takes nothing of its stream any more, closing it");
                self.out.abort();
            }
            Err(Failure::Read { db, source }) => {
                let text = format!("stream error: db=\"{db}\" err={}", chain(&source));
                tracing::error!("http: {text}");
                self.out.text(&(text + "\n"));
                self.out.finish();
            }
            Err(Failure::Cut { db, source }) => {
                tracing::error!("http: stream error: db=\"{db}\" err={}", chain(&source));
                self.out.abort();
            }
        }
    }

    fn send_all(&mut self) -> Result<(), Failure> {
        let mut names: BTreeSet<DbName> = self.positions.keys().cloned().collect();
        names.extend(self.store.databases().iter().map(|db| db.name().clone()));
        self.catch_up(names)?;
        self.out.frame(&Frame::Ready);
        loop {
            self.out.frame(&Frame::Heartbeat {
                timestamp: Timestamp::from_system_time(SystemTime::now()),
            });
            let next_heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
            loop {
                self.flush()?;
                self.place.sent(self.sent());
                let changed = self.subscription.wait(next_heartbeat);
                if changed.closed {
                    return Err(Failure::Ended(Ended::Gone));
                }
                if changed.role {
                    return Ok(());
                }
                self.catch_up(changed.databases)?;
                if changed.nudged && self.hand_over()? {
                    return Ok(());
                }
                if Instant::now() >= next_heartbeat {
                    break;
                }
            }
        }
    }

    /// Sends the lease, if this replica is to have it: after all that was committed.
    fn hand_over(&mut self) -> Result<bool, Failure> {
        let Some((lease_id, sent)) = self.place.take_offer() else { return Ok(false) };
        self.out.frame(&Frame::Handoff { lease_id });
        self.flush()?;
        // Who waits for it may have given up.
        let _ = sent.send(());
        Ok(true)
    }

    /// The sum of the TXIDs that the replica has or was sent.
    fn sent(&self) -> u64 {
        let txid = |pos: &Option<Pos>| pos.map_or(0, |pos| pos.txid.as_u64());
        self.positions.values().map(txid).fold(0, u64::saturating_add)
    }

    fn catch_up(&mut self, names: BTreeSet<DbName>) -> Result<(), Failure> {
        let wanted = |name: &DbName| self.wanted.as_ref().is_none_or(|w| w.contains(name));
        let names: Vec<DbName> = names.into_iter().filter(wanted).collect();
        for name in names {
            match self.store.database(&name) {
                Some(db) => self.catch_up_database(&db)?,
                None => {
                    self.positions.remove(&name);
                    self.out.frame(&Frame::DropDb { name });
                }
            }
        }
        Ok(())
    }

    fn catch_up_database(&mut self, db: &Database) -> Result<(), Failure> {
        let name = db.name();
        let between = |source| Failure::Read { db: name.clone(), source };
        loop {
            let has = self.positions.get(name).copied().flatten();
            match db.next_after(has).map_err(between)? {
                Next::UpToDate => return Ok(()),
                Next::Records(history) => {
                    for record in history {
                        let (meta, blob) = record.map_err(between)?;
                        self.send_ltx(name, |chunks| {
                            chunks.copy(blob).map_err(|source| Error::Io {
                                op: "read the log of",
                                path: db.dir().into(),
                                source,
                            })
                        })?;
                        self.store.metrics().frame_sent(name, false);
                        self.out.frame(&Frame::Hwm { txid: None, name: name.clone() });
                        self.positions.insert(name.clone(), Some(meta.pos()));
                    }
                }
                Next::Snapshot(snapshot) => {
                    let pos = snapshot.pos();
                    tell_why(name, has, pos);
                    tracing::info!("writing snapshot \"{name}\" @ {}", pos.txid);
                    self.send_ltx(name, |chunks| snapshot.write_ltx(chunks))?;
                    self.store.metrics().frame_sent(name, true);
                    self.positions.insert(name.clone(), Some(pos));
                }
            }
        }
    }

    fn send_ltx(
        &mut self,
        name: &DbName,
        write: impl FnOnce(&mut ChunkWriter<&mut Outbox>) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        self.out.frame(&Frame::Ltx { name: name.clone() });
        let mut chunks = ChunkWriter::new(&mut self.out);
        let written = write(&mut chunks);
        let written = written.map(|()| chunks.finish());
        match (self.out.ended(), written) {
            (Some(Ended::LeaseLost), _) => Err(Failure::Interrupted),
            (Some(ended), _) => Err(Failure::Ended(ended)),
            (None, Err(source)) => Err(Failure::Cut { db: name.clone(), source }),
            // Only an ended outbox refuses what is written to it.
            (None, Ok(_)) => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let sent: io::Result<()> = self.out.flush();
        sent.map_err(|_| Failure::Ended(self.out.ended().unwrap_or(Ended::Gone)))
    }
}

/// Why a replica that has something gets it all anew.
fn tell_why(name: &DbName, has: Option<Pos>, ours: Pos) {
    let Some(has) = has else { return };
    match has.txid.cmp(&ours.txid) {
        std::cmp::Ordering::Greater => tracing::info!(
            db = %name,
            "client transaction id ({}) exceeds primary transaction id ({}), clearing client position",
            has.txid, ours.txid
        ),
        std::cmp::Ordering::Equal => tracing::info!(
            db = %name,
            "client transaction id ({}) caught up but checksum is mismatched ({} <> {}), clearing client position",
            has.txid, has.post_apply, ours.post_apply
        ),
        std::cmp::Ordering::Less => tracing::info!(
            db = %name,
            "transaction file for txid {} no longer available, writing snapshot",
            Txid::after(Some(has.txid)).unwrap_or(has.txid)
        ),
    }
}

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
