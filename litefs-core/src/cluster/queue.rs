//! From the task that reads a stream to the thread that applies it: decoded, in order, bounded by bytes.
//!
//! ```text
//! task: Feed::send ──batch──► channel ──► thread: Inbox::next      one wake-up per batch
//!         ▲                                  │
//!         └───────── room (bytes) ◄──────────┘
//! ```
//!
//! The thread can ask whether another complete LTX file is waiting, so that it applies many as one.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec;

use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::http::frames::Frame;
use crate::ltx::{HEADER_LEN, Header, Timestamp};

/// One step of a stream.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Frame(Frame),
    /// Part of an LTX file.
    Bytes(Bytes),
    /// The LTX file is complete.
    LtxEnd,
}

/// The task's side.
#[derive(Debug)]
pub(super) struct Feed {
    batches: mpsc::UnboundedSender<Batch>,
    room: Arc<Semaphore>,
    files: Arc<AtomicUsize>,
}

/// The thread's side.
#[derive(Debug)]
pub(super) struct Inbox {
    batches: mpsc::UnboundedReceiver<Batch>,
    steps: vec::IntoIter<Step>,
    /// The room that the steps at hand take.
    room: Option<OwnedSemaphorePermit>,
    /// Complete LTX files that wait.
    files: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Batch {
    steps: Vec<Step>,
    room: OwnedSemaphorePermit,
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended;

/// Both ends of a queue.
pub(super) fn queue() -> (Feed, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let files = Arc::<AtomicUsize>::default();
    let room = Arc::new(Semaphore::new(MAX_LEN));
    (
        Feed { batches: sender, room, files: Arc::clone(&files) },
        Inbox { batches: receiver, steps: Vec::new().into_iter(), room: None, files },
    )
}

impl Feed {
    /// Hands steps over, once there is room.
    pub(super) async fn send(&self, steps: Vec<Step>) -> Result<(), Ended> {
        let len: usize = steps.iter().map(Step::cost).sum();
        // More than all there is would wait for ever.
        let len = u32::try_from(len.min(MAX_LEN)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(len).await.map_err(|_| Ended)?;
        let files = steps.iter().filter(|step| matches!(step, Step::LtxEnd)).count();
        self.files.fetch_add(files, Ordering::AcqRel);
        self.batches.send(Batch { steps, room }).map_err(|_| Ended)
    }
}

impl Inbox {
    /// The next step; `None` when the stream has ended. Blocks.
    pub(super) fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.next() {
                if matches!(step, Step::LtxEnd) {
                    self.files.fetch_sub(1, Ordering::AcqRel);
                }
                return Some(step);
            }
            self.room = None;
            let batch = self.batches.blocking_recv()?;
            self.steps = batch.steps.into_iter();
            self.room = Some(batch.room);
        }
    }

    /// Whether the next LTX file can be read without waiting for the network.
    pub(super) fn has_file(&self) -> bool {
        self.files.load(Ordering::Acquire) > 0
    }

    /// The file that follows an LTX frame.
    pub(super) fn file(&mut self) -> LtxFile<'_> {
        LtxFile { inbox: self, part: Bytes::new(), head: Vec::new(), ended: false }
    }
}

impl Step {
    /// What it takes in memory.
    fn cost(&self) -> usize {
        size_of::<Step>() + if let Step::Bytes(bytes) = self { bytes.len() } else { 0 }
    }
}

/// The bytes of an LTX file as they come.
#[derive(Debug)]
pub(super) struct LtxFile<'a> {
    inbox: &'a mut Inbox,
    part: Bytes,
    head: Vec<u8>,
    ended: bool,
}

impl LtxFile<'_> {
    /// Reads what is left of it.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// When its transaction was made, as its header says.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        Header::decode(&self.head).ok().map(|header| header.timestamp)
    }
}

impl Read for LtxFile<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() && !self.ended {
            match self.inbox.next() {
                Some(Step::Bytes(bytes)) => self.part = bytes,
                Some(Step::LtxEnd) => self.ended = true,
                // The decoder lets no frame come here.
                Some(Step::Frame(_)) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let len = buf.len().min(self.part.len());
        self.part.copy_to_slice(&mut buf[..len]);
        let missing = HEADER_LEN.saturating_sub(self.head.len()).min(len);
        self.head.extend_from_slice(&buf[..missing]);
        Ok(len)
    }
}

/// What may wait.
const MAX_LEN: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Step {
        Step::Bytes(Bytes::from(vec![7; len]))
    }

    #[tokio::test]
    async fn no_more_is_taken_than_there_is_room_for() {
        let (feed, mut inbox) = queue();
        // A single batch always fits.
        feed.send(vec![bytes(MAX_LEN + 1)]).await.unwrap();
        let mut second = Box::pin(feed.send(vec![bytes(1)]));
        let poll = std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx)));
        assert!(poll.await.is_pending());
        let thread = std::thread::spawn(move || {
            let lens = std::iter::from_fn(|| inbox.next());
            lens.map(|step| step.cost() - size_of::<Step>()).collect::<Vec<_>>()
        });
        second.as_mut().await.unwrap();
        drop(second);
        drop(feed);
        assert_eq!(thread.join().unwrap(), [MAX_LEN + 1, 1]);
    }

    #[tokio::test]
    async fn complete_files_are_counted_and_cut_ones_are_errors() {
        let (feed, mut inbox) = queue();
        feed.send(vec![bytes(3), Step::LtxEnd, bytes(4)]).await.unwrap();
        assert!(inbox.has_file());
        drop(feed);
        let thread = std::thread::spawn(move || {
            let mut text = Vec::new();
            assert_eq!(inbox.file().read_to_end(&mut text).unwrap(), 3);
            assert!(!inbox.has_file());
            inbox.file().skip().unwrap_err().kind()
        });
        assert_eq!(thread.join().unwrap(), io::ErrorKind::UnexpectedEof);
    }
}
