//! Wraps the bytes of an LTX file into chunks.

use std::io::{self, Read, Write};

/// Writes what it is given as chunks, followed by an end mark.
///
/// Small writes are gathered into one chunk. Without [`ChunkWriter::finish`] the file is incomplete, and a reader
/// that sees the stream end there reports it.
#[derive(Debug)]
pub struct ChunkWriter<W> {
    to: W,
    /// A chunk: space for its length, then its bytes.
    chunk: Vec<u8>,
}

impl<W: Write> ChunkWriter<W> {
    /// Writes chunks to `to`.
    pub fn new(to: W) -> ChunkWriter<W> {
        ChunkWriter { to, chunk: vec![0; LENGTH_LEN] }
    }

    /// Writes all that `from` has.
    ///
    /// # Errors
    /// If reading or writing fails.
    pub fn copy(&mut self, mut from: impl Read) -> io::Result<()> {
        loop {
            let len = self.chunk.len();
            self.chunk.resize(LENGTH_LEN + MAX_CHUNK_LEN, 0);
            let read = from.read(&mut self.chunk[len..]);
            self.chunk.truncate(len + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => self.emit_if_full()?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self) -> io::Result<()> {
        self.emit()?;
        self.to.write_all(&END_MARK)
    }

    fn emit_if_full(&mut self) -> io::Result<()> {
        if self.chunk.len() == LENGTH_LEN + MAX_CHUNK_LEN { self.emit() } else { Ok(()) }
    }

    fn emit(&mut self) -> io::Result<()> {
        let len = self.chunk.len() - LENGTH_LEN;
        if len > 0 {
            // Fits: a chunk is never longer than its limit.
            self.chunk[..LENGTH_LEN].copy_from_slice(&(len as u16).to_be_bytes());
            self.to.write_all(&self.chunk)?;
            self.chunk.truncate(LENGTH_LEN);
        }
        Ok(())
    }
}

impl<W: Write> Write for ChunkWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let space = LENGTH_LEN + MAX_CHUNK_LEN - self.chunk.len();
        let now = &bytes[..bytes.len().min(space)];
        self.chunk.extend_from_slice(now);
        self.emit_if_full()?;
        Ok(now.len())
    }

    /// Writes the chunk as it is.
    fn flush(&mut self) -> io::Result<()> {
        self.emit()?;
        self.to.flush()
    }
}

const LENGTH_LEN: usize = 2;
const END_MARK: [u8; LENGTH_LEN] = [0; LENGTH_LEN];
const MAX_CHUNK_LEN: usize = u16::MAX as usize;
