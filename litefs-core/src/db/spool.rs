//! One LTX file on its way: held aside until it is whole, in memory while it is small, else in a file without a name.
//!
//! What comes from a network comes at its speed, and what goes there may have to go again to the log: nothing else waits
//! for it meanwhile, and memory stays bounded.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::Database;
use crate::env::{Env, File, OpenMode};
use crate::store::DbPaths;

/// The bytes of one LTX file.
#[derive(Debug)]
pub(crate) struct Spool {
    env: Arc<dyn Env>,
    paths: DbPaths,
    /// What isn't in the file: all bytes, if there is none.
    memory: Vec<u8>,
    file: Option<Arc<dyn File>>,
    file_len: u64,
}

impl Spool {
    pub(super) fn new(db: &Database) -> Spool {
        let (env, paths) = (Arc::clone(&db.env), db.paths.clone());
        Spool { env, paths, memory: Vec::new(), file: None, file_len: 0 }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.file_len + self.memory.len() as u64
    }

    /// Reads at `offset` until the buffer is full or the bytes end; returns their number.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        if let Some(file) = &self.file
            && offset < self.file_len
        {
            let left = usize::try_from(self.file_len - offset).unwrap_or(usize::MAX);
            done = left.min(buf.len());
            file.read_exact_at(&mut buf[..done], offset)?;
        }
        let at = (offset + done as u64).saturating_sub(self.file_len);
        let skip = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = self.memory.get(skip..).filter(|_| done < buf.len()).unwrap_or_default();
        let n = rest.len().min(buf.len() - done);
        buf[done..done + n].copy_from_slice(&rest[..n]);
        Ok(done + n)
    }

    pub(super) fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut buf = vec![0; COPY_LEN];
        let mut offset = 0;
        loop {
            let n = self.read_at(&mut buf, offset)?;
            if n == 0 {
                return Ok(());
            }
            out.write_all(&buf[..n])?;
            offset += n as u64;
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.paths.incoming(self.env.random());
                let file = self.env.open(&path, OpenMode::CreateNew)?;
                self.env.remove_file(&path)?;
                file
            }
        };
        let written = file.write_at(&self.memory, self.file_len);
        self.file = Some(file);
        written?;
        self.file_len += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }
}

impl Write for Spool {
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

/// Reads, and keeps what was read.
pub(super) struct Tee<'a> {
    pub(super) from: &'a mut dyn Read,
    pub(super) to: &'a mut Spool,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.to.write_all(&buf[..n])?;
        Ok(n)
    }
}

const MAX_MEMORY: usize = 1 << 20;
const COPY_LEN: usize = 64 << 10;
