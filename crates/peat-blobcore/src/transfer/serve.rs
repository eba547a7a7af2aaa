//! Answers requests for blocks. Never sends a byte to who is not entitled to it, nor one that does not match its hash, and
//! holds no thread and no more than two blocks while the asker takes its time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};

use tokio::sync::Semaphore;

use super::{Traffic, availability, small};
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId};
use crate::network::wire::{AvailabilityRequest, BlockFrame, BlockRequest, Denial, Request, SmallRequest, WireError, read_frame};

/// A peer that sends no request on the stream that it opened, or takes nothing, is not waited for longer than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Says who may have what.
pub(crate) trait Entitlement: Send + Sync + 'static {
    /// For each of these blobs, whether this peer is the sender, a target or a permitted carrier of something that consists of it.
    fn are_entitled(&self, peer: &EndpointId, blobs: &[BlobHash]) -> Vec<bool>;
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
    match request {
        Request::Blocks(request) => {
            let is_entitled = entitled(entitlement, peer, vec![request.blob]).await == [true];
            let _turn = turns.blocks.acquire().await.map_err(|_| WireError::Stalled)?;
            send_blocks(peer, content, is_entitled, traffic, &mut send, request).await
        }
        Request::Availability(AvailabilityRequest { blob }) => {
            // The stream ends: a stranger does not learn whether anything is here.
            if entitled(entitlement, peer, vec![blob]).await != [true] {
                return Ok(());
            }
            let _turn = turns.availability.try_acquire().map_err(|_| WireError::Request)?;
            availability::tell(content, blob, send).await
        }
        Request::Small(SmallRequest { blobs }) => {
            let entitled = entitled(entitlement, peer, blobs.clone()).await;
            let _turn = turns.blocks.acquire().await.map_err(|_| WireError::Stalled)?;
            small::give(peer, content, blobs.into_iter().zip(entitled).collect(), traffic, &mut send).await
        }
    }
}

/// Which of these blobs the peer is entitled to; nothing when this node stops.
async fn entitled(entitlement: Arc<dyn Entitlement>, peer: EndpointId, blobs: Vec<BlobHash>) -> Vec<bool> {
    blocking(move || entitlement.are_entitled(&peer, &blobs)).await.unwrap_or_default()
}

async fn send_blocks(
    peer: EndpointId,
    content: Content,
    is_entitled: bool,
    traffic: Arc<Traffic>,
    send: &mut SendStream,
    request: BlockRequest,
) -> Result<(), WireError> {
    let blob = request.blob;
    let mut blocks = request.blocks();
    let mut next = match blocks.next() {
        Some(range) if is_entitled => encode(&content, peer, blob, range).await,
        _ => Some(BlockFrame::Denied(Denial::NotAvailable)),
    };
    while let Some(frame) = next {
        let goes_on = matches!(frame, BlockFrame::Block(_));
        let following = async {
            match blocks.next() {
                Some(range) if goes_on => encode(&content, peer, blob, range).await,
                _ => None,
            }
        };
        if let BlockFrame::Block(bytes) = &frame {
            traffic.served(bytes.len());
        }
        let (written, following) = tokio::join!(frame.write(send, PATIENCE), following);
        written?;
        next = following;
    }
    // Nothing is left to send; that the peer may have closed the stream first is no matter.
    let _ = send.finish();
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
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

pub(super) fn denial(error: &ContentError) -> Denial {
    match error {
        ContentError::Absent(_) | ContentError::BadRange { .. } => Denial::NotAvailable,
        ContentError::Damaged(_) => Denial::Damaged,
        _ => Denial::Failed,
    }
}
