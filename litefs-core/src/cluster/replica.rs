//! Following a primary: from the connection to its end.
//!
//! ```text
//! connect ─► cluster ID ─► read ─► decode ─► queue ─► thread: receive, apply
//!    │           │           │                           │
//!    └───────────┴───────────┴──── any error ────────────┘──► the stream is left, the queue drained
//! ```

use std::sync::Arc;
use std::thread;

use litefs_lease::{ClusterIdError, PrimaryInfo};
use prometheus::IntCounter;
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use super::Options;
use super::apply::{StoreTarget, run};
use super::queue::{Ended, Feed, Step, queue};
use super::role::{StreamId, check_stream};
use crate::error::{Error, chain};
use crate::http::client::{ClientError, Hello, NodeUrl, ReplicationStream};
use crate::http::frames::{Event, Frame, FrameDecoder, FrameError, PositionMap};
use crate::metrics::Traffic;
use crate::store::Store;

/// Why a stream was left.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum FollowError {
    #[error("connect to primary: {source} ('{url}')")]
    Connect { url: String, source: ClientError },
    #[error("cannot stream from primary with a different cluster id: {local} <> {remote}")]
    OtherCluster { local: String, remote: String },
    #[error("{}", chain(.0))]
    Engine(#[from] Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    ClusterId(#[from] ClusterIdError),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("the thread that applies transactions has panicked")]
    Panicked,
}

/// A stream that is connected and belongs to this node's cluster.
pub(super) struct Following {
    store: Arc<Store>,
    stream: ReplicationStream,
}

impl Following {
    /// Connects. Cancel-safe: nothing has happened if it is dropped, but perhaps that the cluster ID was adopted.
    pub(super) async fn connect(
        store: &Arc<Store>,
        primary: &PrimaryInfo,
        options: &Options,
    ) -> Result<Following, FollowError> {
        let url = &primary.advertise_url;
        let failed = |source| FollowError::Connect { url: url.clone(), source };
        let node = NodeUrl::parse(url).map_err(failed)?;
        let positions =
            store.databases().iter().map(|db| (db.name().clone(), db.received_pos())).collect();
        let positions = PositionMap(positions);
        let hello = Hello {
            node_id: store.node_id(),
            candidate: options.candidate,
            positions: &positions,
            filter: &options.databases,
        };
        let stream =
            ReplicationStream::open(&node, hello, options.timeouts).await.map_err(failed)?;
        let local = store.cluster_id();
        match check_stream(local.as_ref(), stream.cluster_id()) {
            StreamId::Same => {}
            StreamId::Adopt(id) => store.adopt_cluster_id(&id)?,
            StreamId::Different => {
                return Err(FollowError::OtherCluster {
                    local: local.map(|id| id.to_string()).unwrap_or_default(),
                    remote: stream.cluster_id().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(Following { store: Arc::clone(store), stream })
    }

    /// Follows until the stream ends or `stop` is done; both senders are told when this node has all that the primary had.
    /// What was received is applied when this returns. The result is the lease, if the primary hands it over.
    pub(super) async fn run(
        mut self,
        ready: watch::Sender<bool>,
        caught_up: watch::Sender<bool>,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<String>, FollowError> {
        let (feed, inbox) = queue();
        let reign = self.stream.reign();
        let target = StoreTarget { store: Arc::clone(&self.store), ready, caught_up, reign };
        let received = self.store.metrics().received(Traffic::Stream);
        let (tell, mut ended) = oneshot::channel();
        thread::Builder::new()
            .name("litefs-replica".into())
            .spawn(move || tell.send(run(inbox, target)))
            .map_err(FollowError::Thread)?;
        let read = tokio::select! {
            // All may be dropped: the stream is left in any case.
            read = read(&mut self.stream, &feed, &received) => read,
            () = stop => Ok(()),
            applied = &mut ended => return applied.unwrap_or_panicked(),
        };
        // The thread comes to an end without its feed.
        drop(feed);
        let applied = ended.await.unwrap_or_panicked();
        read.and(applied)
    }
}

async fn read(
    stream: &mut ReplicationStream,
    feed: &Feed,
    received: &IntCounter,
) -> Result<(), FollowError> {
    let mut decoder = FrameDecoder::new();
    while let Some(bytes) = stream.next().await? {
        received.inc_by(bytes.len() as u64);
        let (mut input, mut steps, mut end) = (&bytes[..], Vec::new(), false);
        while let Some(event) = decoder.next(&mut input)? {
            match event {
                Event::Frame(Frame::End) => {
                    end = true;
                    break;
                }
                Event::Frame(frame) => steps.push(Step::Frame(frame)),
                Event::LtxBytes(part) => steps.push(Step::Bytes(bytes.slice_ref(part))),
                Event::LtxEnd => steps.push(Step::LtxEnd),
            }
        }
        if !steps.is_empty() && feed.send(steps).await == Err(Ended) {
            // The thread says why.
            return Ok(());
        }
        if end {
            return Ok(());
        }
    }
    Ok(decoder.finish()?)
}

trait Applied {
    fn unwrap_or_panicked(self) -> Result<Option<String>, FollowError>;
}

/// A thread that ends without a word has panicked.
impl Applied for Result<Result<Option<String>, Error>, oneshot::error::RecvError> {
    fn unwrap_or_panicked(self) -> Result<Option<String>, FollowError> {
        Ok(self.map_err(|_| FollowError::Panicked)??)
    }
}
