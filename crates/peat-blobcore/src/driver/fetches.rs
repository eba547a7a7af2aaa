//! The fetches under way, and how far each distribution has come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::ErrorKind;
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, DistributionId, EndpointId, Priority};
use crate::network::{Network, Peer};
use crate::reconcile::{FetchId, FetchOutcome};
use crate::transfer::{self, Candidate, FetchError, Landed};

/// Blobs from this size on, in bytes, are worth asking several sources for parts.
const SHARED_BYTES: u64 = 1024 * 1024;
/// Requests for several blobs that one source answers at a time: enough that it reads, the link carries and this node writes
/// all the time; more would only take memory.
const SMALL_REQUESTS: usize = 4;

/// What to fetch, as the action has it.
pub(super) struct Order {
    pub(super) fetch: FetchId,
    pub(super) blob: BlobHash,
    pub(super) size: u64,
    pub(super) source: EndpointId,
    /// Whether the source is known to have all of it.
    pub(super) whole: bool,
    pub(super) distribution: DistributionId,
    pub(super) priority: Priority,
}

/// Several small blobs to fetch, as the action has it.
pub(super) struct SmallOrder {
    pub(super) fetch: FetchId,
    pub(super) blobs: Vec<(BlobHash, u64)>,
    pub(super) source: EndpointId,
    /// Whether the source is known to have all of them.
    pub(super) whole: bool,
    pub(super) distribution: DistributionId,
    pub(super) priority: Priority,
}

/// What the driver hears of fetches.
#[derive(Debug)]
pub(super) enum News {
    Ended(Ended),
    Some(SomeEnded),
    Dropped(Dropped),
}

/// Some blobs of a fetch of several have ended, each by itself.
#[derive(Debug)]
pub(super) struct SomeEnded {
    pub(super) fetch: FetchId,
    pub(super) distribution: DistributionId,
    pub(super) outcomes: Vec<(BlobHash, FetchOutcome)>,
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
    /// The blob, unless there were several.
    pub(super) blob: Option<BlobHash>,
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
    /// Requests for several blobs that each source is to answer at a time.
    turns: BTreeMap<(EndpointId, Priority), Arc<Semaphore>>,
    tell: mpsc::UnboundedSender<News>,
    told: mpsc::UnboundedReceiver<News>,
    /// Ends of fetches that come after what was told of them before.
    ended: VecDeque<Ended>,
}

struct Running {
    abort: AbortHandle,
    distribution: DistributionId,
    /// The blob, unless there are several.
    one: Option<One>,
}

/// A blob that is fetched by itself.
struct One {
    blob: BlobHash,
    size: u64,
    /// Whether it began with a source that is known to have all of it.
    whole: bool,
    /// Verified bytes of the blob so far.
    held: Arc<AtomicU64>,
    /// Whether something came from a source that may have parts, which nobody was told of yet.
    came: Arc<AtomicBool>,
    candidates: watch::Sender<Vec<Candidate>>,
}

impl Fetches {
    pub(super) fn new(content: Content, network: Arc<Network>, patience: Duration, me: EndpointId) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let (tasks, running, turns, ended) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { content, network, patience, me, tasks, running, turns, tell, told, ended }
    }

    /// Begins a fetch.
    pub(super) fn begin(&mut self, order: Order) {
        let Order { fetch, blob, size, whole, distribution, .. } = order;
        let (held, came) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (candidates, receiver) = watch::channel(Vec::new());
        let task = Task {
            content: self.content.clone(),
            network: Arc::clone(&self.network),
            order,
            patience: self.patience,
            me: self.me,
            held: Arc::clone(&held),
            came: Arc::clone(&came),
            candidates: candidates.clone(),
            receiver,
            tell: self.tell.clone(),
        };
        let abort = self.tasks.spawn(async move { Ended { fetch, blob: Some(blob), distribution, outcome: task.run().await } });
        self.running.insert(fetch, Running { abort, distribution, one: Some(One { blob, size, whole, held, came, candidates }) });
    }

    /// Begins a fetch of several blobs.
    pub(super) fn begin_small(&mut self, order: SmallOrder) {
        let SmallOrder { fetch, distribution, source, priority, .. } = order;
        self.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = Arc::clone(self.turns.entry((source, priority)).or_insert_with(|| Arc::new(Semaphore::new(SMALL_REQUESTS))));
        let (content, network) = (self.content.clone(), Arc::clone(&self.network));
        let task = SmallTask { content, network, order, patience: self.patience, tell: self.tell.clone(), turns };
        let abort = self.tasks.spawn(async move { Ended { fetch, blob: None, distribution, outcome: task.run().await } });
        self.running.insert(fetch, Running { abort, distribution, one: None });
    }

    /// The fetches that are worth several sources: also those from who may have nothing.
    pub(super) fn shared(&self) -> impl Iterator<Item = (FetchId, DistributionId, BlobHash)> {
        self.running.iter().filter_map(|(fetch, running)| {
            let one = running.one.as_ref().filter(|one| one.size > SHARED_BYTES || !one.whole)?;
            Some((*fetch, running.distribution, one.blob))
        })
    }

    /// The fetches from sources that may have parts of which something came since this was asked last.
    pub(super) fn that_came(&self) -> Vec<FetchId> {
        let came = |one: &One| one.came.swap(false, Ordering::Relaxed);
        self.running.iter().filter(|(_, running)| running.one.as_ref().is_some_and(came)).map(|(fetch, _)| *fetch).collect()
    }

    /// Adds to the sources of a fetch, each with whether it is said to have all of the blob.
    pub(super) fn offer(&self, fetch: FetchId, sources: &BTreeMap<EndpointId, bool>) {
        let Some(one) = self.running.get(&fetch).and_then(|running| running.one.as_ref()) else { return };
        // Who has no connection now is not woken for this, since the fetch has a source; it is offered when it has one.
        let connected = sources.iter().filter_map(|(id, whole)| Some(candidate(&*self.network.peer(id)?, *whole)));
        let offered: Vec<_> = connected.collect();
        one.candidates.send_if_modified(|known| {
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
            // What a fetch told before it ended is in the channel by now.
            if let Ok(news) = self.told.try_recv() {
                return news;
            }
            if let Some(ended) = self.ended.pop_front() {
                return News::Ended(ended);
            }
            tokio::select! {
                Some(news) = self.told.recv() => return news,
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => match ended {
                    // Of those that were cancelled nobody wants to hear.
                    Some(Ok(ended)) if self.running.remove(&ended.fetch).is_some() => self.ended.push_back(ended),
                    _ => {}
                }
            }
        }
    }

    /// Verified bytes of the blobs under way, by distribution.
    pub(super) fn bytes_under_way(&self) -> BTreeMap<DistributionId, u64> {
        let mut bytes = BTreeMap::new();
        for running in self.running.values() {
            // Of several small blobs one is whole, and counted as such, or nothing yet.
            let held = running.one.as_ref().map_or(0, |one| one.held.load(Ordering::Relaxed));
            *bytes.entry(running.distribution).or_default() += held;
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
    came: Arc<AtomicBool>,
    candidates: watch::Sender<Vec<Candidate>>,
    receiver: watch::Receiver<Vec<Candidate>>,
    tell: mpsc::UnboundedSender<News>,
}

impl Task {
    async fn run(self) -> FetchOutcome {
        let Self { order: Order { blob, size, source, whole, distribution, priority, .. }, held, tell, .. } = &self;
        let first = AtomicU64::new(u64::MAX);
        let on_progress = |bytes| {
            held.store(bytes, Ordering::Relaxed);
            if first.fetch_min(bytes, Ordering::Relaxed) < bytes && !whole {
                self.came.store(true, Ordering::Relaxed);
            }
        };
        let on_dropped = |source: EndpointId, error: &FetchError| {
            let outcome = outcome_of(error);
            if outcome == FetchOutcome::Corrupt {
                tracing::warn!(%blob, %source, %error, "a source that sends what is not the blob's is asked no more, others are");
            } else {
                tracing::info!(%blob, source = %source.short(), %error, "a source is asked no more, others are");
            }
            // The driver may have stopped.
            let _ = tell.send(News::Dropped(Dropped { blob: *blob, distribution: *distribution, source, outcome }));
        };
        let mut has_all = None;
        loop {
            let Some(peer) = self.network.reach(source).await else { return FetchOutcome::Unreachable };
            self.candidates.send_modify(|known| {
                known.retain(|other| other.id != *source);
                known.push(candidate(&peer, *whole));
                known.iter_mut().for_each(|candidate| candidate.whole |= Some(candidate.id) == has_all);
            });
            let order = transfer::Order {
                content: self.content.clone(),
                blob: *blob,
                size: *size,
                priority: *priority,
                me: self.me,
                source: *source,
                whole: *whole || has_all.is_some(),
                patience: self.patience,
                traffic: Arc::clone(self.network.traffic()),
                candidates: self.receiver.clone(),
            };
            let Err(error) = transfer::fetch(order, &on_progress, &on_dropped).await else { return FetchOutcome::Done };
            let stands = peer.connection.close_reason().is_none();
            let error = match error {
                FetchError::HasAll(source) => {
                    has_all = Some(source);
                    continue;
                }
                FetchError::Busy if !stands => FetchError::Unreachable("the connection ended".to_owned()),
                error => error,
            };
            if !whole && outcome_of(&error) == FetchOutcome::NoSpace {
                // Nobody knows yet that there is something to make room for.
                return FetchOutcome::Missing;
            }
            if !whole && matches!(error, FetchError::Busy | FetchError::NotAvailable) {
                // All that it has is here, and others may have more.
                let came = held.load(Ordering::Relaxed) > first.load(Ordering::Relaxed);
                return if came { FetchOutcome::Partial } else { FetchOutcome::Missing };
            }
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

/// One fetch of several blobs, as it goes on beside the loop.
struct SmallTask {
    content: Content,
    network: Arc<Network>,
    order: SmallOrder,
    patience: Duration,
    tell: mpsc::UnboundedSender<News>,
    turns: Arc<Semaphore>,
}

impl SmallTask {
    async fn run(self) -> FetchOutcome {
        let Self { content, network, order, patience, tell, turns } = self;
        let SmallOrder { fetch, blobs, source, whole, distribution, priority } = order;
        let Ok(_turn) = turns.acquire().await else { return FetchOutcome::Cancelled };
        let left = Mutex::new(blobs.iter().map(|(blob, _)| *blob).collect::<BTreeSet<_>>());
        let some_ended = |landed: Vec<Landed>| {
            let mut left = left.lock().expect("nothing panics while it holds what is left");
            landed.iter().for_each(|(blob, _)| _ = left.remove(blob));
            let outcomes =
                landed.into_iter().map(|(blob, outcome)| (blob, small_outcome(&blob, &source, whole, outcome))).collect();
            // The driver may have stopped.
            let _ = tell.send(News::Some(SomeEnded { fetch, distribution, outcomes }));
        };
        loop {
            let Some(peer) = network.reach(&source).await else { return FetchOutcome::Unreachable };
            // Not let go while this waits for its turn under a limit.
            let _in_use = Arc::clone(&peer.in_use);
            let left = left.lock().expect("nothing panics while it holds what is left").clone();
            if left.is_empty() {
                return FetchOutcome::Done;
            }
            let pace = network.traffic().limiter.down(source, priority);
            // It is paid for before it is asked for, and a thin link that is silent meanwhile is let go by the other side.
            let (most, mut bytes) = (pace.rate().map_or(u64::MAX, |rate| rate.bytes().saturating_mul(2)), 0);
            let asked = blobs.iter().filter(|(blob, _)| left.contains(blob)).take_while(|(_, size)| {
                let is_first = bytes == 0;
                bytes += size;
                is_first || bytes <= most
            });
            let order = transfer::SmallOrder {
                content: content.clone(),
                connection: peer.connection.clone(),
                blobs: asked.copied().collect(),
                patience,
                pace,
                traffic: Arc::clone(network.traffic()),
            };
            // Each that was asked for has been told of.
            let Err(error) = transfer::fetch_small(order, &some_ended).await else { continue };
            if !whole && matches!(error, FetchError::NotAvailable) {
                return FetchOutcome::Missing;
            }
            tracing::info!(source = %source.short(), %error, "a fetch of several blobs ended early");
            let outcome = outcome_of(&error);
            // Another connection has taken the place of the one that ended: nothing has failed but that one.
            let is_other = network.peer(&source).is_none_or(|now| !Arc::ptr_eq(&now, &peer));
            let replaced = is_other && network.is_in_reach(&source);
            if outcome != FetchOutcome::Unreachable || !replaced {
                return outcome;
            }
        }
    }
}

/// How it went with one of several blobs. That it is not available, when others are, concerns it alone.
fn small_outcome(blob: &BlobHash, source: &EndpointId, whole: bool, outcome: Result<(), FetchError>) -> FetchOutcome {
    let Err(error) = outcome else { return FetchOutcome::Done };
    let outcome = match error {
        FetchError::NotAvailable => FetchOutcome::Missing,
        _ => outcome_of(&error),
    };
    if outcome == FetchOutcome::Corrupt {
        tracing::warn!(%blob, %source, %error, "a source sends what is not the blob's");
    } else if whole || outcome != FetchOutcome::Missing {
        tracing::info!(%blob, source = %source.short(), %error, "one of several blobs does not come");
    }
    outcome
}

fn outcome_of(error: &FetchError) -> FetchOutcome {
    match error {
        FetchError::OneByOne => FetchOutcome::OneByOne,
        FetchError::Unreachable(_) | FetchError::Stalled => FetchOutcome::Unreachable,
        FetchError::NotAvailable => FetchOutcome::Refused,
        FetchError::Later => FetchOutcome::Later,
        FetchError::SourceFailed => FetchOutcome::Missing,
        FetchError::Protocol(_) | FetchError::Content(ContentError::Corrupt(_)) => FetchOutcome::Corrupt,
        FetchError::Stopped => FetchOutcome::Cancelled,
        FetchError::Content(error) if error.kind() == ErrorKind::NoSpace => FetchOutcome::NoSpace,
        FetchError::Busy | FetchError::HasAll(_) | FetchError::Content(_) => FetchOutcome::Failed,
    }
}
