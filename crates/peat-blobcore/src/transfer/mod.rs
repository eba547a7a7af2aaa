//! Bytes between peers: requests for blocks answered, and blobs fetched. Never trusts a byte that its hash does not vouch for.

//!
//! - `fetch`: one blob from its sources; `sources` says what to ask of whom
//! - `availability`: what a node has that does not have all of a blob
//! - `delta`: a blob put together from others that are here, and what they lack
//! - `small`: many small blobs with one request
//! - `errand`: what a node can have from a registry that another cannot reach
//! - `speeds`: how fast each peer has sent of late
//! - `serve`: the answers; `stock`: those to clients of iroh-blobs
//! - `limits`: how much may cross, and when; `limiter`: who waits for it; `paced`: the streams that do
mod availability;
mod delta;
mod errand;
mod fetch;
mod limiter;
mod limits;
mod paced;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod relief_tests;
mod serve;
mod small;
mod sources;
#[cfg(test)]
mod sources_tests;
mod speeds;
mod stock;

pub(crate) use errand::ask as ask_errand;
pub(crate) use fetch::{Order, fetch};
pub(crate) use limiter::Limiter;
pub use limits::{LimitError, Limits, LimitsInForce, Period, Rate, RateChange, Rates, Then, rate_or_none};
pub(crate) use serve::{Entitlement, Turns, serve};
pub(crate) use small::{Landed, SmallOrder, fetch_small};
pub(crate) use sources::Candidate;
pub(crate) use speeds::Speeds;
pub(crate) use stock::serve_stock;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::ContentError;
use crate::network::wire::WireError;

/// Bytes of blobs, compressed or not, with the hashes that come along, that have crossed this node's links since it started, or need
/// not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockBytes {
    /// That came from holders, whether they were of use or not.
    pub received: u64,
    /// That were sent to those who asked, whether they arrived or not.
    pub served: u64,
    /// That did not have to cross, since blocks were compressed, in both directions.
    pub saved: u64,
    /// Of blobs that were asked for, those that did not have to come: they were copied from other blobs here.
    pub copied: u64,
}

/// The running count of them, their limits, and how fast they come.
#[derive(Debug)]
pub(crate) struct Traffic {
    received: AtomicU64,
    served: AtomicU64,
    saved: AtomicU64,
    copied: AtomicU64,
    pub(crate) limiter: Limiter,
    pub(crate) speeds: Arc<Speeds>,
}

impl Traffic {
    pub(crate) fn new(limiter: Limiter) -> Self {
        Self {
            received: AtomicU64::new(0),
            served: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            limiter,
            speeds: Arc::default(),
        }
    }

    pub(crate) fn bytes(&self) -> BlockBytes {
        let counts = [&self.received, &self.served, &self.saved, &self.copied];
        let [received, served, saved, copied] = counts.map(|bytes| bytes.load(Ordering::Relaxed));
        BlockBytes { received, served, saved, copied }
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn served(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn saved(&self, plain: usize, compressed: usize) {
        self.saved.fetch_add(plain.saturating_sub(compressed) as u64, Ordering::Relaxed);
    }

    fn copied(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
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
    /// The source's link is metered, and it is not critical.
    #[error("the source sends it later: its link is metered")]
    Later,
    /// The source has it and cannot send it.
    #[error("the source cannot read its copy")]
    SourceFailed,
    /// What the source sent breaks the protocol.
    #[error("the source breaks the protocol: {0}")]
    Protocol(WireError),
    /// The source does not know requests for several blobs.
    #[error("the source gives blobs one by one only")]
    OneByOne,
    /// Of a blob of which nothing is here somebody was found to have all: it may be had by its recipe.
    #[error("{} has all of it", .0.short())]
    HasAll(crate::model::EndpointId),
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
