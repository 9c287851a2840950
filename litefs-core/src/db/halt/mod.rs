//! The halt lock: one replica at a time may write to a database, by way of the primary.
//!
//! ```text
//!  replica                                              primary
//!  open <db>-lock ── halt ───────────────────────────►  grip: SQLite's write lock, as one more process
//!                 ◄─ id, position ────────────────────
//!  files at that position? ─► lent
//!  commit: plan ─► LTX ── tx ────────────────────────►  forwarded: check ─► log ─► files ─► streams
//!                 ◄─ taken ───────────────────────────
//!          log ─► last byte into SQLite's file
//!  close <db>-lock ── unhalt ────────────────────────►  lets go; so does 30 s without a commit, or the loss of the role
//! ```
//!
//! [`grip`] is the primary's lock, [`forwarded`] its commit of what comes; [`lent`] is the replica's right, and
//! [`forward`] its commit. What isn't here: requests (see `http::halt` and `http::forward`) and when a replica asks
//! (see `cluster::forward`).
//!
//! # Never two histories
//! Let P be the position where both are, and T the transaction that a replica's application commits, which leads to Q.
//!
//! 1. *The primary decides.* It takes T only if it is the primary, the lock is held by that ID, its own position is
//!    P, and the pages of T lead from its own pages to T's checksum. It logs T, writes it to the files, and only then tells
//!    its streams and answers. No local writer can come between, as the engine holds SQLite's write lock; if that
//!    were broken, the position would be another one, and T refused.
//! 2. *The replica commits after the answer.* Until it has come, nothing on the replica's disk says that T is
//!    committed: in WAL mode the bytes that complete the commit frame aren't in the file yet; in rollback mode the
//!    journal is still hot, and T isn't in the log. What is written without a journal couldn't be taken back, and is refused
//!    at once.
//! 3. *The answer is yes.* T goes to the replica's log, byte for byte as it was sent, and then to the file. It is at Q. The
//!    stream brings T, too, perhaps earlier than the answer: the thread that receives waits for the commit under way (by the
//!    capture lock), then finds its own node's transaction at the log's end, and has nothing to do. If the last
//!    write to the file fails, the application gets the error, rolls back, and the log is ahead of the files, as
//!    after any other transaction that was received: it is applied.
//! 4. *The answer is no, or there is none.* The application gets an error and rolls back to P, by its journal or by
//!    forgetting frames; the right is gone (unless the primary said that it changed nothing and may take it later).
//!    Now the primary is at P or at Q. If it is at Q, the stream brings T, which follows P here, and T is applied like any other
//!    transaction, though this node made it. If it is at P, whatever comes next follows P as well.
//! 5. *The replica dies.* A hot journal is rolled back at the start, together with a record of T that carries its nonce;
//!    a WAL without its last bytes holds no commit; a log that is ahead of the files is applied. Each leads to P, or to
//!    Q if the answer had come. The primary's lock ends by its expiry.
//! 6. *The primary dies.* T is in its log or not. If it is, its start brings the files to Q, else it is at P. The replica's
//!    stream breaks, which takes the right away before anything else can happen on it.
//!
//! What an application has begun when the right goes can still be taken back: a write to the database file while its
//! journal is hot is let through, and at the journal's end the pages are compared with the log. If they are equal, it
//! was a rollback. An application that dies instead leaves a hot journal, which the engine rolls back before it applies
//! the next transaction, as a reader would.
//!
//! Differs from LiteFS: the primary checks lock, role and content of what comes; each commit that it takes extends the lock;
//! readers of a database in WAL mode read on, also new ones; in rollback mode they only wait while a commit is
//! written. A right that is lost makes the next commit fail instead of ending the process.

mod forward;
mod forwarded;
mod grip;
mod lent;

use std::io;

use thiserror::Error;

use crate::error::Error;
use crate::ltx::DecodeError;
use crate::types::{Checksum, Pos, Txid};

pub(super) use grip::Grip;
pub(super) use lent::Lent;
pub(crate) use lent::{Forward, ForwardError, HaltTurn};

/// A halt lock, as its holder is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HaltLock {
    pub(crate) id: i64,
    pub(crate) pos: Option<Pos>,
    pub(crate) expires: std::time::SystemTime,
}

/// Why there is no halt lock, or why a transaction isn't taken under it. Texts are the original's where it has one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum HaltError {
    #[error("halt lock id required")]
    NoId,
    #[error("context deadline exceeded")]
    TimedOut,
    #[error("halt lock {0} is not held: it was released, has expired, or never was")]
    NotHeld(i64),
    #[error("read ltx header: n={n} {}", if *n == 0 { "EOF" } else { "unexpected EOF" })]
    ShortHeader { n: usize },
    #[error("read ltx header: {0}")]
    Body(#[source] io::Error),
    #[error("decode ltx header: {0}")]
    Header(#[source] DecodeError),
    #[error("ltx validation error: {0}")]
    Content(#[source] DecodeError),
    #[error("ltx validation error: more bytes follow")]
    TooLong,
    #[error("ltx validation error: {0} pages in a file of {1}")]
    Pages(u64, u64),
    #[error("ltx validation error: more than one transaction")]
    Several,
    #[error("ltx validation error: a database can only be dropped on the primary")]
    Drop,
    #[error("non-sequential header minimum txid {got}, expecting {want}")]
    Sequence { got: Txid, want: Txid },
    #[error("pre-apply checksum mismatch: {got}, expecting {want}")]
    PreApply { got: Checksum, want: Checksum },
    #[error("ltx validation error: pages lead to checksum {got}, not to {want}")]
    PostApply { got: Checksum, want: Checksum },
    #[error("database is locked")]
    Locked,
    /// It may come to be committed all the same.
    #[error("the transaction is logged, but: {}", crate::error::chain(.0))]
    Undecided(#[source] Error),
    #[error("{}", crate::error::chain(.0))]
    Engine(#[from] Error),
}
