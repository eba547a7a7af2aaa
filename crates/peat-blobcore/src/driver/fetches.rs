//! The fetches under way, and how far each distribution has come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use crate::ErrorKind;
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, DistributionId, EndpointId};
use crate::network::Network;
use crate::reconcile::{FetchId, FetchOutcome};
use crate::transfer::{self, FetchError};

/// What to fetch, as the action has it.
pub(super) struct Order {
    pub(super) fetch: FetchId,
    pub(super) blob: BlobHash,
    pub(super) size: u64,
    pub(super) source: EndpointId,
    pub(super) distribution: DistributionId,
}

/// A fetch has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) fetch: FetchId,
    pub(super) blob: BlobHash,
    pub(super) distribution: DistributionId,
    pub(super) outcome: FetchOutcome,
}

/// The fetches under way.
pub(super) struct Fetches {
    content: Content,
    network: Arc<Network>,
    /// How long a source may send nothing.
    patience: Duration,
    tasks: JoinSet<Ended>,
    running: BTreeMap<FetchId, Running>,
}

struct Running {
    abort: AbortHandle,
    distribution: DistributionId,
    /// Verified bytes of the blob so far.
    held: Arc<AtomicU64>,
}

impl Fetches {
    pub(super) fn new(content: Content, network: Arc<Network>, patience: Duration) -> Self {
        Self { content, network, patience, tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Begins a fetch.
    pub(super) fn begin(&mut self, order: Order) {
        let Order { fetch, blob, size, source, distribution } = order;
        let (content, network, patience) = (self.content.clone(), Arc::clone(&self.network), self.patience);
        let held = Arc::new(AtomicU64::new(0));
        let progress = Arc::clone(&held);
        let abort = self.tasks.spawn(async move {
            let on_progress = move |bytes| progress.store(bytes, Ordering::Relaxed);
            let outcome = loop {
                let Some(peer) = network.peer(&source) else { break FetchOutcome::Unreachable };
                let traffic = Arc::clone(network.traffic());
                let fetched = transfer::fetch(&peer.connection, &content, blob, size, patience, traffic, &on_progress).await;
                let Err(error) = fetched else {
                    break FetchOutcome::Done;
                };
                tracing::info!(%blob, source = %source.short(), %error, "a fetch ended early");
                let outcome = outcome_of(&error);
                // Another connection has taken the place of the one that ended: nothing has failed but that one.
                let replaced = network.peer(&source).is_some_and(|now| !Arc::ptr_eq(&now, &peer));
                if outcome != FetchOutcome::Unreachable || !replaced {
                    break outcome;
                }
            };
            Ended { fetch, blob, distribution, outcome }
        });
        self.running.insert(fetch, Running { abort, distribution, held });
    }

    /// Ends a fetch; what has come is kept.
    pub(super) fn cancel(&mut self, fetch: FetchId) {
        if let Some(running) = self.running.remove(&fetch) {
            running.abort.abort();
        }
    }

    /// The end of a fetch that was not cancelled. Pends while none is under way.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            match self.tasks.join_next().await {
                // Of those that were cancelled nobody wants to hear.
                Some(Ok(ended)) if self.running.remove(&ended.fetch).is_some() => return ended,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Verified bytes of the blobs under way, by distribution.
    pub(super) fn bytes_under_way(&self) -> BTreeMap<DistributionId, u64> {
        let mut bytes = BTreeMap::new();
        for running in self.running.values() {
            *bytes.entry(running.distribution).or_default() += running.held.load(Ordering::Relaxed);
        }
        bytes
    }

    /// Whether anything is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Ends all of them and waits until they have.
    pub(super) async fn stop(&mut self) {
        self.running.clear();
        self.tasks.shutdown().await;
    }
}

fn outcome_of(error: &FetchError) -> FetchOutcome {
    match error {
        FetchError::Unreachable(_) | FetchError::Stalled => FetchOutcome::Unreachable,
        FetchError::NotAvailable => FetchOutcome::Refused,
        FetchError::SourceFailed => FetchOutcome::Missing,
        FetchError::Protocol(_) | FetchError::Content(ContentError::Corrupt(_)) => FetchOutcome::Corrupt,
        FetchError::Stopped => FetchOutcome::Cancelled,
        FetchError::Content(error) if error.kind() == ErrorKind::NoSpace => FetchOutcome::NoSpace,
        FetchError::Busy | FetchError::Content(_) => FetchOutcome::Failed,
    }
}

/// Verified bytes of distributions at this node, for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<BTreeMap<DistributionId, u64>>);

impl Progress {
    /// Verified bytes that are whole blobs.
    pub(super) fn set(&self, distribution: DistributionId, bytes: u64) {
        self.lock().insert(distribution, bytes);
    }

    /// One more blob is whole.
    pub(super) fn add(&self, distribution: DistributionId, bytes: u64) {
        if let Some(sum) = self.lock().get_mut(&distribution) {
            *sum += bytes;
        }
    }

    /// What is known of a distribution while it is being fetched.
    pub(crate) fn get(&self, distribution: &DistributionId) -> Option<u64> {
        self.lock().get(distribution).copied()
    }

    /// It is done with.
    pub(super) fn forget(&self, distribution: &DistributionId) {
        self.lock().remove(distribution);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DistributionId, u64>> {
        self.0.lock().expect("nothing panics while it holds the figures")
    }
}
