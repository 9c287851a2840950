//! Merges files into one that has the same effect.
//!
//! ```text
//! 1–3: pages 1 2 4, commit 5 ─┐
//! 4–4: pages   2   5, commit 5 ├─> 1–5: pages 1 2 4, commit 4, post-apply of the last
//! 5–5: pages 1, commit 4      ─┘         the newest of each page; none behind the commit
//! ```
//!
//! All inputs are read side by side, one page of each in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use thiserror::Error;

use super::{DecodeError, Decoder, EncodeError, Encoder, Header, Scratch, Summary};
use crate::types::{PageSize, Pgno, Txid};

/// How to merge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Whether the output is compressed.
    pub compressed: bool,
    /// Whether transactions may be missing between the inputs.
    pub allow_non_contiguous: bool,
}

/// Merges the inputs, given in any order, into one file. Returns the writer and what it got.
///
/// Whether the checksums chain from input to input isn't checked, only that no TXID is missing.
///
/// Differs from LiteFS: an unreadable header is an error. The original then writes nothing and reports
/// success.
///
/// # Errors
/// If there is no input, inputs don't fit together or are damaged, or reading or writing fails. Part of
/// the output may have been written then.
pub fn compact<R: Read, W: Write>(
    inputs: Vec<R>,
    out: W,
    options: CompactOptions,
) -> Result<(W, Summary), CompactError> {
    let mut inputs = open(inputs)?;
    inputs.sort_by_key(|input| (input.header().min_txid, input.header().max_txid));
    let header = plan(&inputs, options)?;
    let mut encoder = Encoder::new(out, &header)?;
    let pages = merge(&mut inputs, &mut encoder, &header)?;

    let mut last = None;
    for input in inputs {
        let index = input.index;
        let trailer =
            input.decoder.finish().map_err(|cause| CompactError::Close { index, cause })?;
        last = Some(trailer);
    }
    let post_apply = last.ok_or(CompactError::NoInput)?.post_apply;
    let (out, trailer) = encoder.finish(post_apply)?;
    Ok((out, Summary { header, trailer, pages }))
}

/// One input and its current page.
struct Input<R> {
    /// The place among the inputs as the caller gave them.
    index: usize,
    decoder: Decoder<R, Scratch>,
    page: Vec<u8>,
}

impl<R: Read> Input<R> {
    fn header(&self) -> &Header {
        self.decoder.header()
    }

    fn advance(&mut self) -> Result<Option<Pgno>, CompactError> {
        let index = self.index;
        self.decoder.next_page(&mut self.page).map_err(|cause| CompactError::Page { index, cause })
    }
}

fn open<R: Read>(inputs: Vec<R>) -> Result<Vec<Input<R>>, CompactError> {
    let open_one = |(index, r)| {
        let decoder = Decoder::new(r).map_err(|cause| CompactError::Header { index, cause })?;
        let page = vec![0; decoder.header().page_size.as_usize()];
        Ok(Input { index, decoder, page })
    };
    inputs.into_iter().enumerate().map(open_one).collect()
}

/// Checks that the inputs, sorted, fit together; returns the header of the output.
fn plan<R: Read>(inputs: &[Input<R>], options: CompactOptions) -> Result<Header, CompactError> {
    let ([first, ..], [.., last]) = (inputs, inputs) else { return Err(CompactError::NoInput) };
    for pair in inputs.windows(2) {
        let (prev, next) = (pair[0].header(), pair[1].header());
        if prev.page_size != next.page_size {
            return Err(CompactError::PageSize { prev: prev.page_size, next: next.page_size });
        }
        if !options.allow_non_contiguous && prev.max_txid.next() != Some(next.min_txid) {
            return Err(CompactError::NonContiguous {
                prev: (prev.min_txid, prev.max_txid),
                next: (next.min_txid, next.max_txid),
            });
        }
    }
    Ok(Header {
        compressed: options.compressed,
        wal: None,
        node_id: 0,
        min_txid: first.header().min_txid,
        pre_apply: first.header().pre_apply,
        ..*last.header()
    })
}

/// Copies the newest of each page; returns their number.
fn merge<R: Read, W: Write>(
    inputs: &mut [Input<R>],
    encoder: &mut Encoder<W>,
    header: &Header,
) -> Result<u64, CompactError> {
    // Of equal pages the newest input comes first.
    let mut queue = BinaryHeap::with_capacity(inputs.len());
    for (i, input) in inputs.iter_mut().enumerate() {
        queue.extend(input.advance()?.map(|pgno| (Reverse(pgno), i)));
    }
    let mut pages = 0;
    let mut written = None;
    while let Some((Reverse(pgno), i)) = queue.pop() {
        let input = &mut inputs[i];
        if written != Some(pgno) && header.commit.contains(pgno) {
            encoder.page(pgno, &input.page)?;
            written = Some(pgno);
            pages += 1;
        }
        queue.extend(input.advance()?.map(|pgno| (Reverse(pgno), i)));
    }
    Ok(pages)
}

/// Why files can't be merged. The index of an input is that in the caller's order.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompactError {
    /// Nothing to merge.
    #[error("at least one input reader required")]
    NoInput,
    /// Page sizes differ.
    #[error("input files have mismatched page sizes: {prev} != {next}")]
    PageSize {
        /// Page size of one.
        prev: PageSize,
        /// Page size of the one that follows.
        next: PageSize,
    },
    /// A transaction is missing between two inputs, or is in both.
    #[error(
        "non-contiguous transaction ids in input files: ({},{}) -> ({},{})",
        .prev.0, .prev.1, .next.0, .next.1
    )]
    NonContiguous {
        /// First and last transaction of one.
        prev: (Txid, Txid),
        /// First and last transaction of the one that follows.
        next: (Txid, Txid),
    },
    /// An input's header isn't valid.
    #[error("decode header of reader {index}: {cause}")]
    Header {
        /// The input.
        index: usize,
        /// What is wrong.
        cause: DecodeError,
    },
    /// An input's page block is damaged.
    #[error("decode page of reader {index}: {cause}")]
    Page {
        /// The input.
        index: usize,
        /// What is wrong.
        cause: DecodeError,
    },
    /// An input's trailer doesn't match.
    #[error("close reader {index}: {cause}")]
    Close {
        /// The input.
        index: usize,
        /// What is wrong.
        cause: DecodeError,
    },
    /// The output can't be written, or pages of an input are out of order.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}
