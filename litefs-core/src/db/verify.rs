//! The full check of a database: its pages against its position, and its log record by record.

use crate::error::Error;
use crate::log::RecordKind;
use crate::ltx::Decoder;
use crate::types::{PageCount, Pos, Txid};

use super::Database;

/// What a full check found in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyReport {
    /// The position that the pages add up to.
    pub pos: Option<Pos>,
    /// Pages checked.
    pub pages: PageCount,
    /// Logged transactions checked.
    pub records: u64,
    /// The oldest transaction in the log.
    pub first_txid: Option<Txid>,
}

impl Database {
    /// Reads all pages and all logged transactions and checks every checksum. Writers wait meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if anything doesn't add up; I/O errors.
    pub fn verify(&self) -> Result<VerifyReport, Error> {
        let c = self.capture.lock();
        self.drain()?;
        self.check_pages(&c)?;
        let (first_txid, records) = {
            let writer = self.log.lock();
            let first = writer.log.first_txid();
            (
                first,
                writer.log.records(first.unwrap_or(Txid::FIRST)).map_err(|e| self.log_error(e))?,
            )
        };
        let mut count = 0;
        for record in records {
            let (meta, blob) = record.map_err(|e| self.log_error(e))?;
            count += 1;
            if meta.kind == RecordKind::PositionOnly {
                continue;
            }
            let failed =
                |source| Error::Decode { db: self.name.clone(), txid: meta.max_txid, source };
            let mut decoder = Decoder::new(blob).map_err(failed)?;
            let mut buf = vec![0; meta.page_size.as_usize()];
            while decoder.next_page(&mut buf).map_err(failed)?.is_some() {}
            decoder.finish().map_err(failed)?;
        }
        Ok(VerifyReport { pos: c.logged.pos, pages: c.logged.count, records: count, first_txid })
    }
}
