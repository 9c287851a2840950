//! HTTP bodies whose other end is blocking code: a writer of what is sent, a reader of what comes.
//!
//! ```text
//!  thread ─► BodyWriter ─► few blocks ─► ChannelBody ─► HTTP      HTTP ─► few frames ─► BodyReader ─► thread
//! ```
//!
//! Invariant: a body ends well only by [`BodyWriter::finish`]. A writer that fails, panics or is forgotten breaks it,
//! so that no part can pass for the whole.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prometheus::IntCounter;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A body and its writer. Called from async code, whose timer the writer uses.
pub(super) fn channel(sent: IntCounter) -> (BodyWriter, ChannelBody) {
    let (to, from) = mpsc::channel(MAX_BLOCKS);
    let writer = BodyWriter { to, block: Vec::new(), runtime: Handle::current(), sent };
    (writer, ChannelBody { from, ended: false })
}

/// Gathers what is written into blocks, and waits while the network has enough of them.
#[derive(Debug)]
pub(super) struct BodyWriter {
    to: mpsc::Sender<Bytes>,
    block: Vec<u8>,
    runtime: Handle,
    sent: IntCounter,
}

impl BodyWriter {
    /// All was written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(END)
    }

    fn send(&self, block: Bytes) -> io::Result<()> {
        self.sent.inc_by(block.len() as u64);
        send_in_time(&self.to, &self.runtime, block)
    }
}

/// Waits until there is room for a block.
///
/// # Errors
/// `TimedOut` if nothing was taken for long; `BrokenPipe` if nobody is there to take it.
pub(super) fn send_in_time<T>(to: &mpsc::Sender<T>, runtime: &Handle, block: T) -> io::Result<()> {
    let timed = async { tokio::time::timeout(STALL_TIMEOUT, to.send(block)).await };
    match runtime.block_on(timed) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_LEN));
        self.send(block.into())
    }
}

/// What a [`BodyWriter`] has written.
#[derive(Debug)]
pub(super) struct ChannelBody {
    from: mpsc::Receiver<Bytes>,
    ended: bool,
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.from.poll_recv(cx).map(|block| {
            self.ended = block.as_ref().is_none_or(Bytes::is_empty);
            match block {
                Some(block) if block.is_empty() => None,
                Some(block) => Some(Ok(Frame::data(block))),
                None => Some(Err(io::ErrorKind::ConnectionAborted.into())),
            }
        })
    }
}

/// Reads what [`forward`] passes on.
#[derive(Debug)]
pub(super) struct BodyReader {
    from: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    ended: bool,
    received: IntCounter,
}

/// A reader, and where the frames of a body go that it is to read.
pub(super) fn reader(received: IntCounter) -> (mpsc::Sender<io::Result<Bytes>>, BodyReader) {
    let (to, from) = mpsc::channel(MAX_BLOCKS);
    (to, BodyReader { from, rest: Bytes::new(), ended: false, received })
}

/// Passes a body on until it ends or the reader has enough. A body that falls silent has failed.
pub(super) async fn forward(mut body: AxumBody, to: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let block = match tokio::time::timeout(SILENCE_TIMEOUT, body.frame()).await {
            Ok(None) => Ok(END),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if !data.is_empty() => Ok(data),
                _ => continue,
            },
            Ok(Some(Err(err))) => Err(io::Error::other(err)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let last = !matches!(&block, Ok(data) if !data.is_empty());
        if to.send(block).await.is_err() || last {
            return;
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.rest.is_empty() {
            // Whoever passes the body on has gone before its end.
            let gone = || Err(io::ErrorKind::ConnectionAborted.into());
            self.rest = self.from.blocking_recv().unwrap_or_else(gone)?;
            self.received.inc_by(self.rest.len() as u64);
            self.ended = self.rest.is_empty();
        }
        let n = self.rest.len().min(buf.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// The block after the last.
const END: Bytes = Bytes::new();
const BLOCK_LEN: usize = 64 << 10;
const MAX_BLOCKS: usize = 3;
/// So long may the other end take nothing while it answers pings: a replica may be busy with a large transaction.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// So long may the other end send nothing.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
