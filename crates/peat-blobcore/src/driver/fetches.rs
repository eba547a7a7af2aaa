//! The fetches under way, and how far each distribution has come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::ErrorKind;
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, DistributionId, EndpointId, Priority};
use crate::network::{Network, Peer};
use crate::reconcile::{FetchId, FetchOutcome};
use crate::transfer::{self, Candidate, FetchError};

/// Blobs from this size on, in bytes, are worth asking several sources for parts.
const SHARED_BYTES: u64 = 1024 * 1024;

/// What to fetch, as the action has it.
pub(super) struct Order {
    pub(super) fetch: FetchId,
    pub(super) blob: BlobHash,
    pub(super) size: u64,
    pub(super) source: EndpointId,
    pub(super) distribution: DistributionId,
    pub(super) priority: Priority,
}

/// What the driver hears of fetches.
#[derive(Debug)]
pub(super) enum News {
    Ended(Ended),
    Dropped(Dropped),
}

/// A source is asked no more for a blob, and others are.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) blob: BlobHash,
    pub(super) distribution: DistributionId,
    pub(super) source: EndpointId,
    pub(super) outcome: FetchOutcome,
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
    me: EndpointId,
    tasks: JoinSet<Ended>,
    running: BTreeMap<FetchId, Running>,
    tell: mpsc::UnboundedSender<Dropped>,
    dropped: mpsc::UnboundedReceiver<Dropped>,
}

struct Running {
    abort: AbortHandle,
    distribution: DistributionId,
    blob: BlobHash,
    size: u64,
    /// Verified bytes of the blob so far.
    held: Arc<AtomicU64>,
    candidates: watch::Sender<Vec<Candidate>>,
}

impl Fetches {
    pub(super) fn new(content: Content, network: Arc<Network>, patience: Duration, me: EndpointId) -> Self {
        let (tell, dropped) = mpsc::unbounded_channel();
        Self { content, network, patience, me, tasks: JoinSet::new(), running: BTreeMap::new(), tell, dropped }
    }

    /// Begins a fetch.
    pub(super) fn begin(&mut self, order: Order) {
        let Order { fetch, blob, size, distribution, .. } = order;
        let held = Arc::new(AtomicU64::new(0));
        let (candidates, receiver) = watch::channel(Vec::new());
        let task = Task {
            content: self.content.clone(),
            network: Arc::clone(&self.network),
            order,
            patience: self.patience,
            me: self.me,
            held: Arc::clone(&held),
            candidates: candidates.clone(),
            receiver,
            tell: self.tell.clone(),
        };
        let abort = self.tasks.spawn(async move { Ended { fetch, blob, distribution, outcome: task.run().await } });
        self.running.insert(fetch, Running { abort, distribution, blob, size, held, candidates });
    }

    /// The fetches that are worth several sources.
    pub(super) fn shared(&self) -> impl Iterator<Item = (FetchId, DistributionId, BlobHash)> {
        let shared = self.running.iter().filter(|(_, running)| running.size > SHARED_BYTES);
        shared.map(|(fetch, running)| (*fetch, running.distribution, running.blob))
    }

    /// Adds to the sources of a fetch, each with whether it is said to have all of the blob.
    pub(super) fn offer(&self, fetch: FetchId, sources: &BTreeMap<EndpointId, bool>) {
        let Some(running) = self.running.get(&fetch) else { return };
        let connected = sources.iter().filter_map(|(id, whole)| {
            // Who has no connection now is offered when it has.
            self.network.wake(id);
            Some(candidate(&*self.network.peer(id)?, *whole))
        });
        let offered: Vec<_> = connected.collect();
        running.candidates.send_if_modified(|known| {
            let mut changed = false;
            for new in offered {
                let same = |old: &&mut Candidate| old.id == new.id;
                match known.iter_mut().find(same) {
                    Some(old) if old.connection.stable_id() == new.connection.stable_id() && old.whole >= new.whole => continue,
                    Some(old) => *old = new,
                    None => known.push(new),
                }
                changed = true;
            }
            changed
        });
    }

    /// Ends a fetch; what has come is kept.
    pub(super) fn cancel(&mut self, fetch: FetchId) {
        if let Some(running) = self.running.remove(&fetch) {
            running.abort.abort();
        }
    }

    /// The end of a fetch that was not cancelled, or of a source's part in one. Pends while none is under way.
    pub(super) async fn news(&mut self) -> News {
        loop {
            tokio::select! {
                Some(dropped) = self.dropped.recv() => return News::Dropped(dropped),
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    // Of those that were cancelled nobody wants to hear.
                    Some(Ok(ended)) if self.running.remove(&ended.fetch).is_some() => return News::Ended(ended),
                    _ => {}
                }
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

fn candidate(peer: &Peer, whole: bool) -> Candidate {
    Candidate { id: peer.id, connection: peer.connection.clone(), whole, _in_use: Arc::clone(&peer.in_use) }
}

/// One fetch, as it goes on beside the loop.
struct Task {
    content: Content,
    network: Arc<Network>,
    order: Order,
    patience: Duration,
    me: EndpointId,
    held: Arc<AtomicU64>,
    candidates: watch::Sender<Vec<Candidate>>,
    receiver: watch::Receiver<Vec<Candidate>>,
    tell: mpsc::UnboundedSender<Dropped>,
}

impl Task {
    async fn run(self) -> FetchOutcome {
        let Self { order: Order { blob, size, source, distribution, priority, .. }, held, tell, .. } = &self;
        let on_progress = |bytes| held.store(bytes, Ordering::Relaxed);
        let on_dropped = |source: EndpointId, error: &FetchError| {
            let outcome = outcome_of(error);
            if outcome == FetchOutcome::Corrupt {
                tracing::warn!(%blob, %source, %error, "a source that sends what is not the blob's is asked no more, others are");
            } else {
                tracing::info!(%blob, source = %source.short(), %error, "a source is asked no more, others are");
            }
            // The driver may have stopped.
            let _ = tell.send(Dropped { blob: *blob, distribution: *distribution, source, outcome });
        };
        loop {
            let Some(peer) = self.network.reach(source).await else { return FetchOutcome::Unreachable };
            self.candidates.send_modify(|known| {
                known.retain(|other| other.id != *source);
                known.push(candidate(&peer, true));
            });
            let order = transfer::Order {
                content: self.content.clone(),
                blob: *blob,
                size: *size,
                priority: *priority,
                me: self.me,
                patience: self.patience,
                traffic: Arc::clone(self.network.traffic()),
                candidates: self.receiver.clone(),
            };
            let Err(error) = transfer::fetch(order, &on_progress, &on_dropped).await else { return FetchOutcome::Done };
            tracing::info!(%blob, source = %source.short(), %error, "a fetch ended early");
            let outcome = outcome_of(&error);
            // Another connection has taken the place of the one that ended: nothing has failed but that one.
            let replaced =
                self.network.peer(source).is_none_or(|now| !Arc::ptr_eq(&now, &peer)) && self.network.is_in_reach(source);
            if outcome != FetchOutcome::Unreachable || !replaced {
                return outcome;
            }
        }
    }
}

fn outcome_of(error: &FetchError) -> FetchOutcome {
    match error {
        FetchError::Unreachable(_) | FetchError::Stalled => FetchOutcome::Unreachable,
        FetchError::NotAvailable => FetchOutcome::Refused,
        FetchError::Later => FetchOutcome::Later,
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
