//! Bytes between peers: requests for blocks answered, and blobs fetched. Never trusts a byte that its hash does not vouch for.

//!
//! - `fetch`: one blob from its sources; `sources` says what to ask of whom
//! - `availability`: what a node has that does not have all of a blob
//! - `serve`: the answers; `stock`: those to clients of iroh-blobs
mod availability;
mod fetch;
mod serve;
mod sources;
#[cfg(test)]
mod sources_tests;
mod stock;

pub(crate) use fetch::{Order, fetch};
pub(crate) use serve::{Entitlement, Turns, serve};
pub(crate) use sources::Candidate;
pub(crate) use stock::serve_stock;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::ContentError;
use crate::network::wire::WireError;

/// Bytes of blocks that have crossed this node's links since it started: data and the hashes that come along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockBytes {
    /// That came from holders, whether they were of use or not.
    pub received: u64,
    /// That were sent to those who asked, whether they arrived or not.
    pub served: u64,
}

/// The running count of them.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    served: AtomicU64,
}

impl Traffic {
    pub(crate) fn bytes(&self) -> BlockBytes {
        BlockBytes { received: self.received.load(Ordering::Relaxed), served: self.served.load(Ordering::Relaxed) }
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn served(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why a fetch from one source ended early. What had arrived is kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no connection with the source, or it ended.
    #[error("the source is out of reach: {0}")]
    Unreachable(String),
    /// Nothing came for a long time.
    #[error("the source sends nothing")]
    Stalled,
    /// The source does not have it, or not for us.
    #[error("the source does not have it for us")]
    NotAvailable,
    /// The source has it and cannot send it.
    #[error("the source cannot read its copy")]
    SourceFailed,
    /// What the source sent breaks the protocol.
    #[error("the source breaks the protocol: {0}")]
    Protocol(WireError),
    /// Everything that is missing is on its way already.
    #[error("the rest is on its way from other sources")]
    Busy,
    /// This node stops.
    #[error("stopped")]
    Stopped,
    /// Bytes were wrong, or this node's store refused them.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ContentError> + Send + 'static) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(FetchError::Content),
        // Only a runtime that shuts down cancels blocking work.
        Err(_) => Err(FetchError::Stopped),
    }
}

impl FetchError {
    fn connection(error: iroh::endpoint::ConnectionError) -> Self {
        Self::Unreachable(error.to_string())
    }

    fn wire(error: WireError) -> Self {
        match error {
            WireError::Read(iroh::endpoint::ReadExactError::ReadError(_)) | WireError::Write(_) | WireError::Connection(_) => {
                Self::Unreachable(error.to_string())
            }
            WireError::Stalled => Self::Stalled,
            _ => Self::Protocol(error),
        }
    }
}
