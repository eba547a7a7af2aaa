//! Answers requests for blocks. Never sends a byte to who is not entitled to it, nor one that does not match its hash, and
//! holds no thread and no more than two blocks while the asker takes its time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};

use tokio::sync::Semaphore;

use super::paced::Outgoing;
use super::{Traffic, availability};
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::wire::{BlockFrame, BlockRequest, Denial, Request, WireError, read_frame};

/// A peer that sends no request on the stream that it opened, or takes nothing, is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says who may have what.
pub(crate) trait Entitlement: Send + Sync + 'static {
    /// How urgent that is which consists of this blob and has this peer for its sender, target or permitted carrier: of several
    /// the most urgent. Nothing when the peer may not have the blob.
    fn entitles(&self, peer: &EndpointId, blob: &BlobHash) -> Option<Priority>;
}

/// How much of what one peer asks is done at once. Each request for blocks costs up to two blocks of memory; further ones
/// wait. Who asks for more availability than that is not answered.
#[derive(Debug)]
pub(crate) struct Turns {
    blocks: Semaphore,
    availability: Semaphore,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { blocks: Semaphore::new(32), availability: Semaphore::new(64) }
    }
}

/// Answers one request to its end.
///
/// # Errors
/// [`WireError`] when the peer leaves, stalls or breaks the protocol; all concern this stream alone.
pub(crate) async fn serve(
    peer: EndpointId,
    content: Content,
    entitlement: Arc<dyn Entitlement>,
    traffic: Arc<Traffic>,
    turns: Arc<Turns>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), WireError> {
    let asked = tokio::time::timeout(PATIENCE, read_frame(&mut recv, Request::MAX_BYTES)).await;
    let request = Request::decode(&asked.map_err(|_| WireError::Stalled)??)?;
    let blob = request.blob();
    let Some(priority) = blocking(move || entitlement.entitles(&peer, &blob)).await.flatten() else {
        return match request {
            // The stream ends: a stranger does not learn whether anything is here.
            Request::Availability(_) => Ok(()),
            Request::Blocks(_) => deny(&mut send, Denial::NotAvailable).await,
        };
    };
    match request {
        Request::Availability(_) => {
            let _turn = turns.availability.try_acquire().map_err(|_| WireError::Request)?;
            tokio::select! {
                told = availability::tell(content, blob, send) => told,
                // What is here cannot be had now.
                () = traffic.limiter.refused(priority) => Ok(()),
            }
        }
        Request::Blocks(request) => {
            let _turn = turns.blocks.acquire().await.map_err(|_| WireError::Stalled)?;
            send_blocks(peer, content, priority, traffic, send, request).await
        }
    }
}

async fn deny(send: &mut SendStream, denial: Denial) -> Result<(), WireError> {
    BlockFrame::Denied(denial).write(send, PATIENCE).await?;
    let _ = send.finish();
    Ok(())
}

async fn send_blocks(
    peer: EndpointId,
    content: Content,
    priority: Priority,
    traffic: Arc<Traffic>,
    send: SendStream,
    request: BlockRequest,
) -> Result<(), WireError> {
    let blob = request.blob;
    let mut blocks = request.blocks();
    let mut send = Outgoing::new(send, traffic.limiter.up(peer, priority));
    let block = async |range| match traffic.limiter.refuses(priority) {
        true => Some(BlockFrame::Denied(Denial::Later)),
        false => encode(&content, peer, blob, range).await,
    };
    let mut next = match blocks.next() {
        Some(range) => block(range).await,
        None => None,
    };
    while let Some(frame) = next {
        let goes_on = matches!(frame, BlockFrame::Block(_));
        let following = async {
            match blocks.next() {
                Some(range) if goes_on => block(range).await,
                _ => None,
            }
        };
        if let BlockFrame::Block(bytes) = &frame {
            traffic.served(bytes.len());
        }
        let (written, following) = tokio::join!(frame.write(&mut send, PATIENCE), following);
        written?;
        next = following;
    }
    send.finish();
    Ok(())
}

/// One block as it goes over the wire; nothing when this node stops.
async fn encode(content: &Content, peer: EndpointId, blob: BlobHash, range: Range<u64>) -> Option<BlockFrame> {
    let content = content.clone();
    let encoded = blocking(move || content.encode_block(&blob, range)).await?;
    Some(match encoded {
        Ok(bytes) => BlockFrame::Block(bytes),
        Err(error) => {
            tracing::warn!(%blob, peer = %peer.short(), %error, "cannot serve");
            BlockFrame::Denied(denial(&error))
        }
    })
}

/// Runs what blocks off the async threads. Only a runtime that shuts down cancels it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn denial(error: &ContentError) -> Denial {
    match error {
        ContentError::Absent(_) | ContentError::BadRange { .. } => Denial::NotAvailable,
        ContentError::Damaged(_) => Denial::Damaged,
        _ => Denial::Failed,
    }
}
