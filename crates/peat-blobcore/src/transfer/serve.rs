//! Answers requests for blocks. Never sends a byte to who is not entitled to it, nor one that does not match its hash, and
//! holds no thread and no more than two blocks while the asker takes its time.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::delta::{self, Frames};
use super::paced::Outgoing;
use super::{Traffic, availability, errand, small};
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::compression::compress;
use crate::network::errand::{UpstreamHead, UpstreamRequest};
use crate::network::wire::{
    AvailabilityRequest, BlockFrame, BlockRequest, Denial, RangesRequest, RecipeRequest, Request, Runs, SmallRequest, WireError,
    read_frame,
};
use crate::registry::{Answer, Pieces};

/// A peer that sends no request on the stream that it opened, or takes nothing, is not waited for longer than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Says who may have what.
pub(crate) trait Entitlement: Send + Sync + 'static {
    /// For each of these blobs how urgent that is which consists of it and has this peer for its sender, target or permitted
    /// carrier: of several the most urgent. Nothing where the peer may not have the blob.
    fn entitle(&self, peer: &EndpointId, blobs: &[BlobHash]) -> Vec<Option<Priority>>;

    /// Has those of these blobs be in the store that can be and are not. Who asks for them may have them.
    fn supply<'a>(&'a self, blobs: &'a [BlobHash]) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let _ = blobs;
        Box::pin(std::future::ready(()))
    }

    /// What an upstream of this node's has of that, and its bytes as they come; or why there are none.
    fn errand<'a>(&'a self, request: &'a UpstreamRequest) -> Answer<'a, Result<(UpstreamHead, Pieces), Denial>> {
        let _ = request;
        Box::pin(std::future::ready(Err(Denial::Failed)))
    }
}

/// How much of what one peer asks is done at once. Each request for blocks costs up to two blocks of memory; further ones
/// wait. Who asks for more availability than that is not answered.
#[derive(Debug)]
pub(crate) struct Turns {
    /// For each priority: who waits under the limit of one holds up no other.
    blocks: [Semaphore; 5],
    availability: Semaphore,
    /// No more than one core is busy compressing for one peer.
    compressing: Semaphore,
    /// A recipe may have to be made of the whole blob first.
    pub(super) recipes: Semaphore,
    /// What it has this node ask an upstream for.
    pub(super) errands: Semaphore,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            blocks: std::array::from_fn(|_| Semaphore::new(16)),
            availability: Semaphore::new(64),
            compressing: Semaphore::new(1),
            recipes: Semaphore::new(2),
            errands: Semaphore::new(8),
        }
    }

    async fn blocks(&self, priority: Priority) -> Result<SemaphorePermit<'_>, WireError> {
        self.blocks[priority as usize].acquire().await.map_err(|_| WireError::Stalled)
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
    send: SendStream,
    mut recv: RecvStream,
) -> Result<(), WireError> {
    let asked = tokio::time::timeout(PATIENCE, read_frame(&mut recv, Request::MAX_BYTES)).await;
    let request = Request::decode(&asked.map_err(|_| WireError::Stalled)??)?;
    let entitled = async |blob| entitle(entitlement.clone(), peer, vec![blob]).await.into_iter().next().flatten();
    match request {
        Request::Availability(AvailabilityRequest { blob }) => {
            // The stream ends: a stranger does not learn whether anything is here.
            let Some(priority) = entitled(blob).await else { return Ok(()) };
            let _turn = turns.availability.try_acquire().map_err(|_| WireError::Request)?;
            tokio::select! {
                told = availability::tell(content, blob, send) => told,
                // What is here cannot be had now.
                () = traffic.limiter.refused(priority) => Ok(()),
            }
        }
        Request::Blocks(request) => {
            let Some(priority) = entitled(request.blob).await else { return deny(send).await };
            let turn = turns.blocks(priority).await?;
            let sent = send_blocks(peer, content, priority, traffic, &turns, send, request).await?;
            drop(turn);
            sent.heed().await;
            Ok(())
        }
        Request::Recipe(RecipeRequest { blob }) => {
            let Some(priority) = entitled(blob).await else { return deny(send).await };
            let _turn = turns.recipes.acquire().await.map_err(|_| WireError::Stalled)?;
            let runs = runs(&mut recv).await?;
            let frames = move || delta::recipe_frames(&content, &blob, runs);
            send_frames(peer, blob, priority, frames, traffic, send).await
        }
        Request::Ranges(RangesRequest { blob }) => {
            let Some(priority) = entitled(blob).await else { return deny(send).await };
            let _turn = turns.blocks(priority).await?;
            let runs = runs(&mut recv).await?;
            let frames = move || delta::range_frames(&content, &blob, runs);
            send_frames(peer, blob, priority, frames, traffic, send).await
        }
        Request::Upstream(request) => errand::give(peer, request, entitlement, traffic, &turns, send).await,
        Request::Small(SmallRequest { blobs }) => {
            let allowed = entitle(entitlement, peer, blobs.clone()).await;
            let most_urgent = allowed.iter().flatten().max().copied().unwrap_or(Priority::Bulk);
            let _turn = turns.blocks(most_urgent).await?;
            small::give(peer, content, blobs.into_iter().zip(allowed).collect(), most_urgent, traffic, send).await
        }
    }
}

/// How urgent each of these blobs is for the peer, where it is entitled to it; nothing when this node stops.
async fn entitle(entitlement: Arc<dyn Entitlement>, peer: EndpointId, blobs: Vec<BlobHash>) -> Vec<Option<Priority>> {
    let (judge, asked) = (Arc::clone(&entitlement), blobs.clone());
    let entitled = blocking(move || judge.entitle(&peer, &asked)).await.unwrap_or_default();
    let may_have: Vec<_> =
        blobs.iter().zip(&entitled).filter(|(_, entitled)| entitled.is_some()).map(|(blob, _)| *blob).collect();
    entitlement.supply(&may_have).await;
    entitled
}

/// What a request says in a second frame.
async fn runs(recv: &mut RecvStream) -> Result<Vec<(u64, u64)>, WireError> {
    let frame = tokio::time::timeout(PATIENCE, read_frame(recv, Runs::MAX_BYTES)).await.map_err(|_| WireError::Stalled)??;
    Ok(Runs::decode(&frame)?.runs)
}

/// Sends what `open` gives.
async fn send_frames(
    peer: EndpointId,
    blob: BlobHash,
    priority: Priority,
    open: impl FnOnce() -> Result<Frames, ContentError> + Send + 'static,
    traffic: Arc<Traffic>,
    send: SendStream,
) -> Result<(), WireError> {
    let mut send = Outgoing::new(send, traffic.limiter.up(peer, priority));
    if traffic.limiter.refuses(priority) {
        BlockFrame::Denied(Denial::Later).write(&mut send, PATIENCE).await?;
        send.finish();
        return Ok(());
    }
    let mut frames = blocking(open).await.ok_or(WireError::Stalled)?;
    loop {
        if traffic.limiter.refuses(priority) {
            BlockFrame::Denied(Denial::Later).write(&mut send, PATIENCE).await?;
            break;
        }
        let next = match frames {
            Ok(mut open) => blocking(move || open.next().map(|next| next.map(|bytes| (bytes, open)))).await.flatten(),
            Err(error) => Some(Err(error)),
        };
        match next {
            Some(Ok((bytes, open))) => {
                traffic.served(bytes.len());
                BlockFrame::Block(bytes).write(&mut send, PATIENCE).await?;
                frames = Ok(open);
            }
            Some(Err(error)) => {
                tracing::debug!(%blob, peer = %peer.short(), %error, "cannot serve");
                BlockFrame::Denied(denial(&error)).write(&mut send, PATIENCE).await?;
                break;
            }
            None => break,
        }
    }
    send.finish();
    Ok(())
}

/// Who is not entitled does not learn whether anything is here.
async fn deny(mut send: SendStream) -> Result<(), WireError> {
    BlockFrame::Denied(Denial::NotAvailable).write(&mut send, PATIENCE).await?;
    let _ = send.finish();
    Ok(())
}

/// Writes all that is asked for; gives the stream back, of which much may still be to go out.
async fn send_blocks(
    peer: EndpointId,
    content: Content,
    priority: Priority,
    traffic: Arc<Traffic>,
    turns: &Turns,
    send: SendStream,
    request: BlockRequest,
) -> Result<Outgoing, WireError> {
    let mut blocks = request.blocks();
    let mut send = Outgoing::new(send, traffic.limiter.up(peer, priority));
    let block = async |range| match traffic.limiter.refuses(priority) {
        true => Some(BlockFrame::Denied(Denial::Later)),
        false => encode(&content, peer, request, range, &traffic, turns).await,
    };
    let mut next = match blocks.next() {
        Some(range) => block(range).await,
        None => None,
    };
    while let Some(frame) = next {
        let goes_on = !matches!(frame, BlockFrame::Denied(_));
        let following = async {
            match blocks.next() {
                Some(range) if goes_on => block(range).await,
                _ => None,
            }
        };
        if let BlockFrame::Block(bytes) | BlockFrame::Compressed(bytes) = &frame {
            traffic.served(bytes.len());
        }
        let (written, following) = tokio::join!(frame.write(&mut send, PATIENCE), following);
        written?;
        next = following;
    }
    send.finish();
    Ok(send)
}

/// One block as it goes over the wire; nothing when this node stops.
async fn encode(
    content: &Content,
    peer: EndpointId,
    request: BlockRequest,
    range: Range<u64>,
    traffic: &Traffic,
    turns: &Turns,
) -> Option<BlockFrame> {
    let content = content.clone();
    let _turn = match request.compression {
        Some(_) => turns.compressing.acquire().await.ok(),
        None => None,
    };
    let encoded = blocking(move || {
        let plain = content.encode_block_below(&request.blob, range, request.known())?;
        let compressed = request.compression.and_then(|level| compress(&plain, level));
        Ok::<_, ContentError>((plain.len(), compressed.map_or(BlockFrame::Block(plain), BlockFrame::Compressed)))
    });
    Some(match encoded.await? {
        Ok((plain, frame)) => {
            if let BlockFrame::Compressed(bytes) = &frame {
                traffic.saved(plain, bytes.len());
            }
            frame
        }
        Err(error) => {
            tracing::warn!(blob = %request.blob, peer = %peer.short(), %error, "cannot serve");
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
