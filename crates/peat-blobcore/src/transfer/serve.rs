//! Answers requests for blocks. Never sends a byte to who is not entitled to it, nor one that does not match its hash.

use std::sync::Arc;

use iroh::endpoint::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Traffic;
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId};
use crate::network::wire::{BlockFrame, BlockRequest, Denial, WireError, read_frame};

/// Encoded blocks that are read ahead of what the stream takes.
const READ_AHEAD: usize = 2;

/// Says who may have what.
pub(crate) trait Entitlement: Send + Sync + 'static {
    /// Whether this peer is the sender, a target or a permitted carrier of something that consists of this blob.
    fn is_entitled(&self, peer: &EndpointId, blob: &BlobHash) -> bool;
}

/// Answers one request to its end.
///
/// # Errors
/// [`WireError`] when the peer leaves or breaks the protocol; both concern this stream alone.
pub(crate) async fn serve(
    peer: EndpointId,
    content: Content,
    entitlement: Arc<dyn Entitlement>,
    traffic: Arc<Traffic>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), WireError> {
    let request = BlockRequest::decode(&read_frame(&mut recv, BlockRequest::MAX_BYTES).await?)?;
    let (blocks, mut encoded) = mpsc::channel(READ_AHEAD);
    let mut reader = JoinSet::new();
    reader.spawn_blocking(move || {
        if !entitlement.is_entitled(&peer, &request.blob) {
            let _ = blocks.blocking_send(BlockFrame::Denied(Denial::NotAvailable));
            return;
        }
        for range in request.blocks() {
            let frame = match content.encode_block(&request.blob, range) {
                Ok(bytes) => BlockFrame::Block(bytes),
                Err(error) => {
                    tracing::warn!(blob = %request.blob, peer = %peer.short(), %error, "cannot serve");
                    BlockFrame::Denied(denial(&error))
                }
            };
            let ends = matches!(frame, BlockFrame::Denied(_));
            // The receiver is gone when the peer has left.
            if blocks.blocking_send(frame).is_err() || ends {
                return;
            }
        }
    });
    while let Some(frame) = encoded.recv().await {
        frame.write(&mut send).await?;
        if let BlockFrame::Block(bytes) = &frame {
            traffic.served(bytes.len());
        }
    }
    // Nothing is left to send; that the peer may have closed the stream first is no matter.
    let _ = send.finish();
    Ok(())
}

fn denial(error: &ContentError) -> Denial {
    match error {
        ContentError::Absent(_) | ContentError::BadRange { .. } => Denial::NotAvailable,
        ContentError::Damaged(_) => Denial::Damaged,
        _ => Denial::Failed,
    }
}
