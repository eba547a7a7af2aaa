//! Answers requests for blocks. Never sends a byte to who is not entitled to it, nor one that does not match its hash, and
//! holds no thread and no more than two blocks while the asker takes its time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};

use tokio::sync::Semaphore;

use super::delta::{self, Frames};
use super::{Traffic, availability};
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId};
use crate::network::wire::{BlockFrame, BlockRequest, Denial, Request, Runs, WireError, read_frame};

/// A peer that sends no request on the stream that it opened, or takes nothing, is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says who may have what.
pub(crate) trait Entitlement: Send + Sync + 'static {
    /// Whether this peer is the sender, a target or a permitted carrier of something that consists of this blob.
    fn is_entitled(&self, peer: &EndpointId, blob: &BlobHash) -> bool;
}

/// How much of what one peer asks is done at once. Each request for blocks costs up to two blocks of memory; further ones
/// wait. Who asks for more availability than that is not answered.
#[derive(Debug)]
pub(crate) struct Turns {
    blocks: Semaphore,
    availability: Semaphore,
    /// A recipe may have to be made of the whole blob first.
    pub(super) recipes: Semaphore,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { blocks: Semaphore::new(32), availability: Semaphore::new(64), recipes: Semaphore::new(2) }
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
    let is_entitled = blocking(move || entitlement.is_entitled(&peer, &blob)).await == Some(true);
    match request {
        Request::Availability(_) if is_entitled => {
            let _turn = turns.availability.try_acquire().map_err(|_| WireError::Request)?;
            availability::tell(content, blob, send).await
        }
        // The stream ends: a stranger does not learn whether anything is here.
        Request::Availability(_) => Ok(()),
        Request::Blocks(request) => {
            let _turn = turns.blocks.acquire().await.map_err(|_| WireError::Stalled)?;
            send_blocks(peer, content, is_entitled, traffic, &mut send, request).await
        }
        Request::Recipe(_) => {
            let _turn = turns.recipes.acquire().await.map_err(|_| WireError::Stalled)?;
            let runs = runs(&mut recv).await?;
            let frames = is_entitled.then_some(move || delta::recipe_frames(&content, &blob, runs));
            send_frames(peer, blob, frames, traffic, &mut send).await
        }
        Request::Ranges(_) => {
            let _turn = turns.blocks.acquire().await.map_err(|_| WireError::Stalled)?;
            let runs = runs(&mut recv).await?;
            let frames = is_entitled.then_some(move || delta::range_frames(&content, &blob, runs));
            send_frames(peer, blob, frames, traffic, &mut send).await
        }
    }
}

/// What a request says in a second frame.
async fn runs(recv: &mut RecvStream) -> Result<Vec<(u64, u64)>, WireError> {
    let frame = tokio::time::timeout(PATIENCE, read_frame(recv, Runs::MAX_BYTES)).await.map_err(|_| WireError::Stalled)??;
    Ok(Runs::decode(&frame)?.runs)
}

/// Sends what `open` gives, which is nothing to who is not entitled.
async fn send_frames(
    peer: EndpointId,
    blob: BlobHash,
    open: Option<impl FnOnce() -> Result<Frames, ContentError> + Send + 'static>,
    traffic: Arc<Traffic>,
    send: &mut SendStream,
) -> Result<(), WireError> {
    let mut frames = match open {
        Some(open) => blocking(open).await.ok_or(WireError::Stalled)?,
        None => Err(ContentError::Absent(blob)),
    };
    loop {
        let next = match frames {
            Ok(mut open) => blocking(move || open.next().map(|next| next.map(|bytes| (bytes, open)))).await.flatten(),
            Err(error) => Some(Err(error)),
        };
        match next {
            Some(Ok((bytes, open))) => {
                traffic.served(bytes.len());
                BlockFrame::Block(bytes).write(send, PATIENCE).await?;
                frames = Ok(open);
            }
            Some(Err(error)) => {
                tracing::debug!(%blob, peer = %peer.short(), %error, "cannot serve");
                BlockFrame::Denied(denial(&error)).write(send, PATIENCE).await?;
                break;
            }
            None => break,
        }
    }
    let _ = send.finish();
    Ok(())
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
