//! A transaction that came from a primary: checked, then appended to the log.
//!
//! The bytes come from a network, at its speed: they are held aside ([`Spool`]) until they have all come and been checked, so that
//! nothing waits for them; a snapshot's pages go to an image ([`super::image`]). What this node's own applications have
//! committed under the halt lock comes back by the stream, too, and is known already (see [`crate::db::halt`]).

use std::io::Read;

use crate::db::Database;
use crate::db::capture::Capture;
use crate::db::import::fill;
use crate::db::spool::{Spool, Tee};
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::ltx::{DecodeError, Decoder, HEADER_LEN, Header, Trailer};
use crate::types::{Pgno, Pos};

impl Database {
    /// Logs one LTX file that a primary has sent, without applying it: see [`Database::apply_pending`].
    ///
    /// A transaction must follow what was received last; a snapshot replaces everything.
    ///
    /// # Errors
    /// [`Error::PositionMismatch`] if it doesn't follow; [`Error::Received`] if it isn't a valid LTX file or
    /// `ltx` fails; I/O errors. Then the log is as before.
    pub fn receive(&self, ltx: &mut dyn Read) -> Result<Pos, Error> {
        let _apply = self.apply.lock();
        let failed = |source| Error::Received { db: self.name.clone(), source };
        let mut head = [0; HEADER_LEN];
        let n = fill(ltx, &mut head).map_err(|e| failed(DecodeError::Io(e)))?;
        let head = &head[..n];
        let mut whole = head.chain(ltx);
        // Its pages go to an image, and needn't be held aside once more.
        if let Ok(header) = Header::decode(head)
            && header.is_snapshot()
        {
            let mut decoder = Decoder::new(whole).map_err(failed)?;
            let image =
                self.receive_snapshot(header, |buf| decoder.next_page(buf).map_err(failed))?;
            let trailer = decoder.finish().map_err(failed)?;
            self.withdraw("a snapshot of the database has come");
            return image.log(self, trailer.post_apply);
        }
        let mut spool = Spool::new(self);
        let decoder = Decoder::new(Tee { from: &mut whole, to: &mut spool }).map_err(failed)?;
        let header = *decoder.header();
        // Whether this node has its own transaction already is known by the checksum at its end.
        if header.node_id != self.options.node_id {
            self.check_follows(&header)?;
        }
        let trailer = read_pages(decoder, |_, _| {}).map_err(failed)?;
        let pos = Pos { txid: header.max_txid, post_apply: trailer.post_apply };

        // A commit that is being forwarded ends first, so that it is known what became of it.
        let capture = self.capture.lock();
        if header.node_id == self.options.node_id && self.has_logged(pos)? {
            return Ok(pos);
        }
        self.check_follows(&header)?;
        self.check_unstaged(&capture)?;
        self.withdraw("a transaction of another node has come");
        let meta = self.append_spool(&spool, RecordKind::Plain)?;
        drop(capture);
        self.forget_own()?;
        Ok(meta.pos())
    }

    /// Appends an LTX file to the log as it is.
    pub(in crate::db) fn append_spool(
        &self,
        spool: &Spool,
        kind: RecordKind,
    ) -> Result<RecordMeta, Error> {
        let mut writer = self.log.lock();
        let mut append = writer.log.begin().map_err(|e| self.log_error(e))?;
        spool.copy_to(&mut append).at("write", self.paths.dir())?;
        let meta = append.finish(kind).map_err(|e| self.log_error(e))?;
        self.note_log(&writer.log);
        Ok(meta)
    }

    /// Whether a transaction with that outcome is in the log.
    fn has_logged(&self, pos: Pos) -> Result<bool, Error> {
        let writer = self.log.lock();
        let log = &writer.log;
        if log.first_txid().is_none_or(|first| pos.txid < first) {
            return Ok(false);
        }
        let record = log.records(pos.txid).and_then(|mut records| records.next().transpose());
        let record = record.map_err(|e| self.log_error(e))?;
        Ok(record.is_some_and(|(meta, _)| meta.pos() == pos))
    }

    /// Where the log ends.
    pub(in crate::db) fn last_pos(&self) -> Option<Pos> {
        self.log.lock().log.last().map(RecordMeta::pos)
    }

    fn check_follows(&self, header: &Header) -> Result<(), Error> {
        let (ours, theirs) = (self.last_pos(), header.pre_pos());
        if ours == theirs {
            return Ok(());
        }
        Err(Error::PositionMismatch { db: self.name.clone(), ours, theirs })
    }

    /// Nothing may follow a record that a journal still decides about.
    fn check_unstaged(&self, c: &Capture) -> Result<(), Error> {
        if c.staged.is_none() { Ok(()) } else { Err(Error::InUse { db: self.name.clone() }) }
    }
}

/// Hands out all pages of an LTX file; its end is checked.
pub(in crate::db) fn read_pages<R: Read>(
    mut decoder: Decoder<R>,
    mut page: impl FnMut(Pgno, &[u8]),
) -> Result<Trailer, DecodeError> {
    let mut buf = vec![0; decoder.header().page_size.as_usize()];
    while let Some(pgno) = decoder.next_page(&mut buf)? {
        page(pgno, &buf);
    }
    decoder.finish()
}
