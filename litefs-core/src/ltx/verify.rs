//! Checks a whole file.

use std::io::Read;

use thiserror::Error;

use super::{DecodeError, Decoder, Header, Trailer};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The header.
    pub header: Header,
    /// The trailer.
    pub trailer: Trailer,
    /// The number of pages.
    pub pages: u64,
}

/// Reads a whole file and checks its checksums. What follows the file in `r` isn't read.
///
/// # Errors
/// If the file is damaged or the read fails.
pub fn verify(r: impl Read) -> Result<Summary, VerifyError> {
    let mut decoder = Decoder::new(r).map_err(|cause| match cause {
        DecodeError::NotLtx => VerifyError::NotLtx,
        cause => VerifyError::Header(cause),
    })?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size.as_usize()];
    let mut pages = 0;
    while decoder
        .next_page(&mut page)
        .map_err(|cause| VerifyError::Page { index: pages, cause })?
        .is_some()
    {
        pages += 1;
    }
    let trailer = decoder.finish().map_err(VerifyError::Close)?;
    Ok(Summary { header, trailer, pages })
}

/// Why a file isn't as it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Another kind of file.
    #[error("decode header: unmarshal header: {}", DecodeError::NotLtx)]
    NotLtx,
    /// In the header.
    #[error("decode header: {0}")]
    Header(DecodeError),
    /// In the page block.
    #[error("decode page {index}: {cause}")]
    Page {
        /// The number of whole pages before.
        index: u64,
        /// What is wrong.
        cause: DecodeError,
    },
    /// In the trailer.
    #[error("close reader: {0}")]
    Close(DecodeError),
}
