//! Gathers what a stream sends into blocks, and waits while the network has enough of them.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::http::body::send_in_time;
use crate::http::frames::Frame;
use crate::metrics::Traffic;
use crate::store::Store;

/// Where the thread of a stream writes to.
#[derive(Debug)]
pub(super) struct Outbox {
    to: mpsc::Sender<io::Result<Bytes>>,
    block: Vec<u8>,
    store: Arc<Store>,
    runtime: Handle,
    ended: Option<Ended>,
    sent: IntCounter,
}

/// Why nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The replica has gone.
    Gone,
    /// It has taken nothing for long.
    Stalled,
    /// This node isn't the primary any more.
    LeaseLost,
}

impl Outbox {
    /// Must be called from async code: it waits by its runtime's timer.
    pub(super) fn new(to: mpsc::Sender<io::Result<Bytes>>, store: Arc<Store>) -> Outbox {
        let sent = store.metrics().sent(Traffic::Stream);
        Outbox { to, block: Vec::new(), store, runtime: Handle::current(), ended: None, sent }
    }

    /// Why a write has failed; `None` if none has.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Adds a frame; nothing is sent by that.
    pub(super) fn frame(&mut self, frame: &Frame) {
        frame.encode(&mut self.block);
    }

    /// Adds text that is no frame: the other end reports it.
    pub(super) fn text(&mut self, text: &str) {
        self.block.extend_from_slice(text.as_bytes());
    }

    /// Sends what there is with an end mark, whatever the role.
    pub(super) fn finish(mut self) {
        Frame::End.encode(&mut self.block);
        // A replica that takes nothing sees the stream break instead.
        let _ = self.to.try_send(Ok(Bytes::from(self.block)));
    }

    /// Breaks the stream, so that what was sent of an LTX file can't pass for a whole one.
    pub(super) fn abort(self) {
        let _ = self.to.try_send(Err(io::ErrorKind::ConnectionAborted.into()));
    }

    fn send(&mut self) -> Result<(), Ended> {
        // A long snapshot must not keep a node from laying down its role.
        if !self.store.is_primary() {
            return Err(Ended::LeaseLost);
        }
        self.sent.inc_by(self.block.len() as u64);
        match self.to.try_send(Ok(Bytes::from(std::mem::take(&mut self.block)))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Ended::Gone),
            Err(TrySendError::Full(block)) => {
                send_in_time(&self.to, &self.runtime, block).map_err(|err| match err.kind() {
                    io::ErrorKind::TimedOut => Ended::Stalled,
                    _ => Ended::Gone,
                })
            }
        }
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Hands over what there is.
    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.send().map_err(|ended| {
            self.ended = Some(ended);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

/// A block is sent when it is as long as this, and at the latest when the thread has nothing more to add.
const BLOCK_LEN: usize = 64 << 10;
