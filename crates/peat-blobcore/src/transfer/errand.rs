//! What a member can have from an upstream, over the connection with another that cannot: asked for, and given on while it comes.
//! It is nobody's claim: who asks holds it against its digest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, SendStream};
use n0_future::{StreamExt as _, stream};

use super::paced::{Incoming, Outgoing, Paid};
use super::serve::PATIENCE;
use super::{Entitlement, FetchError, Traffic, Turns};
use crate::model::{EndpointId, Priority};
use crate::network::errand::{UpstreamHead, UpstreamRequest, UpstreamWanted};
use crate::network::wire::{BlockFrame, Denial, Request, WireError, write_frame};
use crate::registry::Pieces;

/// How urgent it is: as images are that nobody has sent.
const PRIORITY: Priority = Priority::Routine;

/// How long a request waits until earlier ones of the same member are answered: as long as who asks waits.
const TURN: Duration = Duration::from_secs(30);

/// Answers a request.
pub(super) async fn give(
    peer: EndpointId,
    request: UpstreamRequest,
    entitlement: Arc<dyn Entitlement>,
    traffic: Arc<Traffic>,
    turns: &Turns,
    send: SendStream,
) -> Result<(), WireError> {
    let mut send = Outgoing::new(send, traffic.limiter.up(peer, PRIORITY));
    // Who asked does not wait for ever, and what is asked for nobody is not to be fetched.
    let turn = tokio::time::timeout(TURN, turns.errands.acquire()).await;
    let _turn = turn.map_err(|_| WireError::Stalled)?.map_err(|_| WireError::Stalled)?;
    let given = match traffic.limiter.refuses(PRIORITY) {
        true => Err(Denial::Later),
        false => entitlement.errand(&request).await,
    };
    let last = match given {
        Err(denial) => Some(denial),
        Ok((head, mut pieces)) => {
            BlockFrame::Block(head.encode()).write(&mut send, PATIENCE).await?;
            loop {
                if traffic.limiter.refuses(PRIORITY) {
                    break Some(Denial::Later);
                }
                match pieces.next().await {
                    Some(Ok(bytes)) => {
                        traffic.served(bytes.len());
                        BlockFrame::Block(bytes.into()).write(&mut send, PATIENCE).await?;
                    }
                    Some(Err(why)) => {
                        tracing::debug!(peer = %peer.short(), why, "what an upstream gives for a node breaks off");
                        break Some(Denial::Failed);
                    }
                    None => break None,
                }
            }
        }
    };
    if let Some(denial) = last {
        BlockFrame::Denied(denial).write(&mut send, PATIENCE).await?;
    }
    send.finish();
    Ok(())
}

/// Asks a member. `in_use` keeps the connection from being let go while the bytes come. A member that says nothing for as long as
/// `patience` is not waited for.
///
/// # Errors
/// [`FetchError::NotAvailable`] when the upstream has no such thing; anything else says nothing about that.
pub(crate) async fn ask(
    (peer, connection, in_use): (EndpointId, Connection, Arc<()>),
    request: UpstreamRequest,
    traffic: Arc<Traffic>,
    patience: Duration,
) -> Result<(UpstreamHead, Pieces), FetchError> {
    let (mut send, recv) = connection.open_bi().await.map_err(FetchError::connection)?;
    let mut recv = Incoming::new(recv, Paid::take(traffic.limiter.down(peer, PRIORITY), 0).await);
    let begin = match &request.wanted {
        UpstreamWanted::Tag(_) => u64::MAX,
        UpstreamWanted::Manifest(_) => 0,
        UpstreamWanted::Blob(_, begin) => *begin,
    };
    write_frame(&mut send, &Request::Upstream(request).encode()).await.map_err(FetchError::wire)?;
    let _ = send.finish();
    let head = match BlockFrame::read(&mut recv, patience).await.map_err(FetchError::wire)? {
        BlockFrame::Block(bytes) => UpstreamHead::decode(&bytes).map_err(FetchError::wire)?,
        other => return Err(refusal(other)),
    };
    let left = head.size.saturating_sub(begin);
    let pieces = stream::unfold((recv, left), move |(mut recv, left)| {
        let (traffic, in_use) = (Arc::clone(&traffic), Arc::clone(&in_use));
        async move {
            let _in_use = in_use;
            if left == 0 {
                return None;
            }
            let piece = match BlockFrame::read(&mut recv, patience).await {
                Ok(BlockFrame::Block(bytes)) if !bytes.is_empty() && bytes.len() as u64 <= left => Ok(Bytes::from(bytes)),
                Ok(BlockFrame::Block(_)) => Err(WireError::Request.to_string()),
                Ok(other) => Err(refusal(other).to_string()),
                Err(error) => Err(error.to_string()),
            };
            let came = piece.as_ref().map_or(0, Bytes::len);
            traffic.received(came);
            // Nothing comes after an error.
            let left = if piece.is_ok() { left - came as u64 } else { 0 };
            Some((piece, (recv, left)))
        }
    });
    Ok((head, Box::pin(pieces)))
}

fn refusal(frame: BlockFrame) -> FetchError {
    match frame {
        BlockFrame::Denied(Denial::NotAvailable) => FetchError::NotAvailable,
        BlockFrame::Denied(Denial::Later) => FetchError::Later,
        BlockFrame::Denied(Denial::Damaged | Denial::Failed) => FetchError::SourceFailed,
        BlockFrame::Block(_) | BlockFrame::Compressed(_) => FetchError::Protocol(WireError::Request),
    }
}
