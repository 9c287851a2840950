//! A transaction that came from a primary: checked, then appended to the log.
//!
//! The bytes come from a network, at its speed: they are held aside (in memory while they are few, else in a
//! file without a name) until they have all come and been checked, so that nothing waits for them.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::db::Database;
use crate::env::{File, OpenMode};
use crate::error::{Error, IoContext};
use crate::log::{RecordKind, RecordMeta};
use crate::ltx::{Decoder, Header};
use crate::types::Pos;

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
        let mut aside = Aside { db: self, memory: Vec::new(), file: None, len: 0 };
        let failed = |source| Error::Received { db: self.name.clone(), source };
        let mut decoder = Decoder::new(Tee { from: ltx, to: &mut aside }).map_err(failed)?;
        let header = *decoder.header();
        if header.is_snapshot() {
            return self
                .receive_snapshot(header, |buf| decoder.next_page(buf).map_err(failed))
                .and_then(|image| {
                    let trailer = decoder.finish().map_err(failed)?;
                    image.log(self, trailer.post_apply)
                });
        }
        self.check_follows(&header)?;
        let mut page = vec![0; header.page_size.as_usize()];
        while decoder.next_page(&mut page).map_err(failed)?.is_some() {}
        decoder.finish().map_err(failed)?;

        let mut writer = self.log.lock();
        let mut append = writer.log.begin().map_err(|e| self.log_error(e))?;
        aside.copy_to(&mut append).at("write", self.paths.dir())?;
        let meta = append.finish(RecordKind::Plain).map_err(|e| self.log_error(e))?;
        self.note_log(&writer.log);
        drop(writer);
        self.forget_own()?;
        Ok(meta.pos())
    }

    fn check_follows(&self, header: &Header) -> Result<(), Error> {
        let ours = self.log.lock().log.last().map(RecordMeta::pos);
        let theirs = header.pre_pos();
        if ours == theirs {
            return Ok(());
        }
        Err(Error::PositionMismatch { db: self.name.clone(), ours, theirs })
    }
}

/// Reads, and keeps what was read.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.to.write_all(&buf[..n])?;
        Ok(n)
    }
}

/// The bytes of one LTX file.
struct Aside<'a> {
    db: &'a Database,
    memory: Vec<u8>,
    file: Option<Arc<dyn File>>,
    len: u64,
}

impl Aside<'_> {
    fn spill(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.db.paths.incoming();
                let file = self.db.env.open(&path, OpenMode::Create)?;
                self.db.env.remove_file(&path)?;
                file
            }
        };
        file.write_at(&self.memory, self.len)?;
        self.len += self.memory.len() as u64;
        self.memory.clear();
        self.file = Some(file);
        Ok(())
    }

    fn copy_to(mut self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let mut buf = vec![0; MAX_MEMORY];
            let mut offset = 0;
            while offset < self.len {
                let n = file.read_at(&mut buf, offset)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                out.write_all(&buf[..n])?;
                offset += n as u64;
            }
        }
        out.write_all(&self.memory)
    }
}

impl Write for Aside<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(buf);
        if self.memory.len() >= MAX_MEMORY {
            self.spill()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const MAX_MEMORY: usize = 1 << 20;
