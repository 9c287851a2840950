//! The primary's commit of a transaction that the holder of the halt lock has sent.
//!
//! ```text
//!  bytes ─► spool ─► whole? follows? pages lead to its checksum? ─► log ─► files ─► streams
//!                         no: nothing has changed                    ▲       │
//!                                                                    └───────┘ not to be written: taken back
//! ```
//!
//! Until it is in the files nobody is told of it, so it can be taken out of the log again.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use super::HaltError;
use crate::db::apply::{Applied, Applier, read_pages};
use crate::db::import::fill;
use crate::db::spool::{Spool, Tee};
use crate::db::{Database, Right};
use crate::error::Error;
use crate::log::RecordKind;
use crate::ltx::{DecodeError, Decoder, HEADER_LEN, Header, page_checksum};
use crate::types::{Checksum, Pgno, Pos, Txid};

/// A transaction that came whole.
struct Received {
    header: Header,
    pages: BTreeMap<Pgno, Checksum>,
    post_apply: Checksum,
    spool: Spool,
}

impl Database {
    /// Commits what the holder of the halt lock `id` has sent: when this returns, it is logged durably, in the files, and on its
    /// way to all replicas.
    ///
    /// On error nothing has changed, but for [`HaltError::Undecided`].
    pub(crate) fn commit_forwarded(&self, id: i64, body: &mut dyn Read) -> Result<Pos, HaltError> {
        self.check_held(&self.apply.lock(), id)?;
        let received = self.receive_forwarded(body)?;
        let mut applier = self.apply.lock();
        self.check_held(&applier, id)?;
        let Right::Own(_) = self.writable()? else {
            return Err(Error::Replica { db: self.name.clone() }.into());
        };
        self.check_forwarded(&received)?;
        let before = self.capture.lock().logged.pos;
        let pos = self.append_spool(&received.spool, RecordKind::Plain)?.pos();
        self.apply_forwarded(&mut applier, before, pos)?;
        self.sync_log().map_err(HaltError::Undecided)?;
        // If the right has gone meanwhile, somebody else may lead already, without this transaction.
        let Some(Right::Own(_)) = self.right() else {
            return Err(HaltError::Undecided(Error::Replica { db: self.name.clone() }));
        };
        self.extend_halt(&mut applier);
        self.strict_check(&self.capture.lock()).map_err(HaltError::Undecided)?;
        tracing::debug!(db = %self.name, txid = %pos.txid, pages = received.pages.len(), "forwarded transaction");
        Ok(pos)
    }

    fn check_held(&self, applier: &Applier, id: i64) -> Result<(), HaltError> {
        if self.holds(applier, id) { Ok(()) } else { Err(HaltError::NotHeld(id)) }
    }

    fn receive_forwarded(&self, body: &mut dyn Read) -> Result<Received, HaltError> {
        let mut head = [0; HEADER_LEN];
        let n = fill(body, &mut head).map_err(HaltError::Body)?;
        if n < head.len() {
            return Err(HaltError::ShortHeader { n });
        }
        let header = Header::decode(&head).map_err(HaltError::Header)?;
        // Refused before its pages are read, if it is to be refused anyway.
        self.check_sequence(&header)?;
        let mut spool = Spool::new(self);
        let mut whole = (&head[..]).chain(&mut *body);
        let decoder = Decoder::new(Tee { from: &mut whole, to: &mut spool });
        let mut pages = BTreeMap::new();
        let lock_page = header.page_size.lock_page();
        let trailer = decoder.and_then(|decoder| {
            read_pages(decoder, |pgno, page| {
                if pgno != lock_page {
                    pages.insert(pgno, page_checksum(pgno, page));
                }
            })
        });
        let post_apply = trailer.map_err(HaltError::Content)?.post_apply;
        match body.read(&mut [0]) {
            Ok(0) => Ok(Received { header, pages, post_apply, spool }),
            Ok(_) => Err(HaltError::TooLong),
            Err(e) => Err(HaltError::Content(DecodeError::Io(e))),
        }
    }

    fn check_sequence(&self, header: &Header) -> Result<(), HaltError> {
        let ours = self.last_pos();
        let want = Txid::after(ours.map(|pos| pos.txid))
            .ok_or_else(|| Error::TxidsExhausted { db: self.name.clone() })?;
        let got = header.min_txid;
        if got != want {
            return Err(HaltError::Sequence { got, want });
        }
        if header.max_txid != got {
            return Err(HaltError::Several);
        }
        if header.commit.is_zero() {
            return Err(HaltError::Drop);
        }
        match (header.pre_apply, ours) {
            (Some(got), Some(pos)) if got != pos.post_apply => {
                Err(HaltError::PreApply { got, want: pos.post_apply })
            }
            _ => Ok(()),
        }
    }

    fn check_forwarded(&self, received: &Received) -> Result<(), HaltError> {
        let Received { header, pages, post_apply, .. } = received;
        self.check_sequence(header)?;
        let beyond = pages.keys().filter(|pgno| !header.commit.contains(**pgno)).count();
        if beyond > 0 {
            return Err(HaltError::Pages(pages.len() as u64, header.commit.as_u32().into()));
        }
        let sums = pages.iter().map(|(pgno, sum)| (*pgno, *sum));
        let got = self.checksum_with(header, *post_apply, sums)?;
        if got == *post_apply {
            Ok(())
        } else {
            Err(HaltError::PostApply { got, want: *post_apply })
        }
    }

    /// Brings the files to the log's end; if they can't be, takes the record back.
    fn apply_forwarded(
        &self,
        applier: &mut Applier,
        before: Option<Pos>,
        pos: Pos,
    ) -> Result<(), HaltError> {
        let give_up = Instant::now() + READERS_TIMEOUT;
        loop {
            let applied = self.apply_all(applier);
            if let Ok(Applied::All) = applied {
                self.keep_write_on(applier);
                return Ok(());
            }
            let now = self.capture.lock().logged.pos;
            if now == Some(pos) {
                // The files have it. What is left to be told is told before the lock is let go.
                return Ok(());
            }
            if matches!(applied, Ok(Applied::Waiting)) && Instant::now() < give_up {
                continue;
            }
            if now != before || applier.is_torn() {
                let busy = || Error::InUse { db: self.name.clone() };
                return Err(HaltError::Undecided(applied.err().unwrap_or_else(busy)));
            }
            self.drop_last().map_err(HaltError::Undecided)?;
            return Err(applied.map_or_else(HaltError::Engine, |_| HaltError::Locked));
        }
    }
}

impl Database {
    /// The transaction may have changed the journal mode: what keeps writers out of a database in WAL mode is another lock.
    /// If somebody was faster, his commit is refused, since the halt lock is held.
    fn keep_write_on(&self, applier: &mut Applier) {
        match self.keep_write(applier) {
            Ok(true) => {}
            Ok(false) => tracing::info!(db = %self.name, "a writer has the WAL and can't commit"),
            Err(err) => tracing::warn!(db = %self.name, err = crate::error::chain(&err),
                "cannot lock the WAL for the halt lock"),
        }
    }
}

/// So long may readers of a database in rollback mode hold a commit up.
const READERS_TIMEOUT: Duration = Duration::from_secs(5);
