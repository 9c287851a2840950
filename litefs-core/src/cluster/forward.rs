//! A replica asks its primary for the halt lock on a database, and has it until it gives it back.
//!
//! ```text
//!  primary known? ─► POST /halt ─► wait until the database here is where it is there ─► lent
//!                                        └─ not in time, or elsewhere ─► given back
//! ```
//!
//! Blocks for ten seconds at most: for a thread that serves nobody else. What the lock means is in `db::halt`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::db::{Database, Forward};
use crate::http::client::{ClientError, NodeUrl};
use crate::http::forward::{AskError, HaltClient};
use crate::metrics::Traffic;
use crate::store::{Role, Store};
use crate::types::{DbName, Pos};

/// The right to write to a database of a replica, shared by all that have asked for it. It ends with the last of
/// them, or earlier.
#[derive(Debug)]
pub struct Halted {
    _forward: Arc<dyn Forward>,
}

/// Why there is no such right.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HaltError {
    /// Nobody is followed.
    #[error("no primary available for remote transaction")]
    NoPrimary,
    /// There is no such database here.
    #[error("database not found: {0}")]
    NotFound(DbName),
    /// The primary didn't give it.
    #[error("halt: {0}")]
    Ask(#[from] AskError),
    /// The database didn't get to the primary's position in time, or is elsewhere.
    #[error("database is at {}, but the primary at {}", Pos::text(*ours), Pos::text(*theirs))]
    Position {
        /// Where it is.
        ours: Option<Pos>,
        /// Where the primary was when it gave the lock.
        theirs: Option<Pos>,
    },
}

impl HaltError {
    /// Whether the same may succeed a little later.
    pub fn is_busy(&self) -> bool {
        match self {
            HaltError::Ask(AskError::Client(ClientError::Refused { code: 500, text })) => {
                text.ends_with("context deadline exceeded")
            }
            HaltError::Ask(AskError::Client(ClientError::Timeout(_))) => true,
            _ => false,
        }
    }
}

/// Asks for the right to write to a database; `None` if this node is the primary, and has it.
///
/// # Errors
/// See [`HaltError`].
pub fn halt(store: &Arc<Store>, name: &DbName) -> Result<Option<Halted>, HaltError> {
    let primary = match store.role() {
        Role::Primary => return Ok(None),
        Role::Replica { primary: Some(primary) } => primary,
        Role::Replica { primary: None } | Role::Undecided => return Err(HaltError::NoPrimary),
    };
    let db = store.database(name).ok_or_else(|| HaltError::NotFound(name.clone()))?;
    let give_up = Instant::now() + TIMEOUT;
    let _turn = db.halt_turn();
    if let Some(forward) = db.lent() {
        return Ok(Some(Halted { _forward: forward }));
    }
    let url = NodeUrl::parse(&primary.advertise_url).map_err(AskError::from)?;
    let id = i64::try_from(store.random() >> 1).unwrap_or(i64::MAX).max(1);
    let sent = store.metrics().sent(Traffic::Tx);
    let (client, theirs, until) = HaltClient::ask(url, store.node_id(), name, id, sent, give_up)?;
    let forward: Arc<dyn Forward> = Arc::new(client);
    wait_for(store, &db, theirs, &forward, until, give_up)?;
    // Applications may change the journal mode, for which nobody else may have the database open.
    db.release_files();
    // Whoever was followed when it was asked for may be gone since.
    if store.role() != (Role::Replica { primary: Some(primary) }) {
        db.withdraw("the primary is another one, or was lost");
        return Err(HaltError::NoPrimary);
    }
    tracing::info!(db = %name, id, pos = Pos::text(theirs), "halt lock acquired");
    Ok(Some(Halted { _forward: forward }))
}

fn wait_for(
    store: &Store,
    db: &Database,
    theirs: Option<Pos>,
    forward: &Arc<dyn Forward>,
    until: Instant,
    give_up: Instant,
) -> Result<(), HaltError> {
    let changes = store.subscribe();
    loop {
        if db.lend(theirs, forward, until) {
            return Ok(());
        }
        let ours = db.pos();
        let beyond = ours.map(|pos| pos.txid) > theirs.map(|pos| pos.txid)
            || ours.map(|pos| pos.txid) == theirs.map(|pos| pos.txid) && ours != theirs;
        if beyond || Instant::now() >= give_up {
            return Err(HaltError::Position { ours, theirs });
        }
        changes.wait(give_up);
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
