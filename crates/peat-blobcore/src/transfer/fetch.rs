//! Fetches one blob into its assembly, from one holder or from several at once, from wherever an earlier run left it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::availability::{self, News};
use super::limiter::Pace;
use super::paced::{Incoming, Paid};
use super::sources::{Asking, Candidate, Loose, Rates, Sources, compression_for};
use super::{FetchError, Traffic, blocking};
use crate::content::{Assembly, Content, ContentError, Ingested, MAX_INLINE_BYTES, RECIPE_SIZES};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::compression::expand;
use crate::network::wire::{BlockFrame, BlockRequest, Denial, GROUP_BYTES, MAX_PAIRS_BYTES, Request, WireError, write_frame};

/// The first block from a source; from then on the link's rate decides.
pub(super) const FIRST_BLOCK_BYTES: u64 = 2 * GROUP_BYTES;
/// What of a blob is asked for and not written yet, at most: this much crosses the link again after a kill.
pub(super) const WINDOW_BYTES: u64 = 1024 * 1024;
/// Requests under way at once to one source, so that it reads, the link carries and this node writes all the time.
pub(super) const REQUESTS: usize = 4;
/// How often to look whether there is something to ask for, if nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait for others to get more when nobody who has all of it is left, where somebody was.
const HOPE: Duration = Duration::from_secs(2);

/// What a caller hears while a fetch goes on: verified bytes of the blob so far.
pub(crate) type OnProgress<'a> = dyn Fn(u64) + Send + Sync + 'a;
/// What a caller hears of a source that is asked no more while others are.
pub(crate) type OnDropped<'a> = dyn Fn(EndpointId, &FetchError) + Send + Sync + 'a;

/// What to fetch, and how.
pub(crate) struct Order {
    pub(crate) content: Content,
    pub(crate) blob: BlobHash,
    pub(crate) size: u64,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// This node.
    pub(crate) me: EndpointId,
    /// A source that sends nothing for so long has stalled.
    pub(crate) patience: Duration,
    pub(crate) traffic: Arc<Traffic>,
    /// Who is to blame when it ends, of those who are asked.
    pub(crate) source: EndpointId,
    /// Whether that one, or another, is known to have all of it.
    pub(crate) whole: bool,
    /// Whom to ask. More may come while the fetch goes on.
    pub(crate) candidates: watch::Receiver<Vec<Candidate>>,
}

/// Fetches the missing parts of a blob over admitted connections and makes it whole.
///
/// # Errors
/// [`FetchError::HasAll`] where nobody was known to have all, and somebody turns out to; that of the order's source, if it was left
/// last; [`FetchError::Busy`] if it was another, which `on_dropped` hears of. What had arrived by then is kept.
pub(crate) async fn fetch(
    order: Order,
    on_progress: &OnProgress<'_>,
    on_dropped: &OnDropped<'_>,
) -> Result<Ingested, FetchError> {
    let (store, blob, size) = (order.content.clone(), order.blob, order.size);
    let assemble = move || {
        if size <= MAX_INLINE_BYTES {
            // Better asked here than found out when it has crossed the link.
            store.ensure_small_fit(size)?;
        }
        store.assemble(&blob, size)
    };
    let assembly = blocking(assemble).await?;
    on_progress(assembly.held());
    if order.whole {
        super::delta::fetch(&order, &assembly, on_progress).await?;
    } else if assembly.keeps_recipe() {
        // Most of it may be here already, by the recipe, which parts would be the end of.
        return Err(FetchError::Busy);
    }
    let sources = Sources::new(size.div_ceil(GROUP_BYTES).max(1), order.me);
    let (tell, news) = mpsc::channel(16);
    let swarm = Swarm {
        assembly: assembly.clone(),
        sources,
        dropped: BTreeSet::new(),
        requests: JoinSet::new(),
        aborts: BTreeMap::new(),
        listeners: JoinSet::new(),
        tell,
        news,
        order,
    };
    swarm.run(on_progress, on_dropped).await?;
    blocking(move || assembly.finish()).await
}

/// One fetch under way. When it is dropped, what its tasks do ends, and what they had taken is given back.
struct Swarm {
    order: Order,
    assembly: Assembly,
    sources: Sources<Connection>,
    /// Connections that are asked no more.
    dropped: BTreeSet<(EndpointId, usize)>,
    requests: JoinSet<Ended>,
    /// Ends each request under way, by its number.
    aborts: BTreeMap<u64, (EndpointId, AbortHandle)>,
    listeners: JoinSet<()>,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

/// A request has ended that was not broken off.
struct Ended {
    source: EndpointId,
    connection: usize,
    number: u64,
    outcome: Result<Rates, FetchError>,
}

impl Swarm {
    async fn run(mut self, on_progress: &OnProgress<'_>, on_dropped: &OnDropped<'_>) -> Result<(), FetchError> {
        let mut upkeep = JoinSet::new();
        let (mut look, mut busy) = (tokio::time::interval(LOOK_INTERVAL), Instant::now());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.take_candidates();
        loop {
            self.hold_to_limits();
            if !self.order.whole
                && RECIPE_SIZES.contains(&self.order.size)
                && self.assembly.held() == 0
                && self.requests.is_empty()
                && let Some(source) = self.sources.who_has_all()
            {
                return Err(FetchError::HasAll(source));
            }
            while let Some(asking) = self.sources.next(&self.assembly) {
                self.ask(asking);
            }
            // Once their ends are heard of, what is missing of them is asked for.
            for number in self.sources.relieve(&self.assembly) {
                if let Some((source, abort)) = self.aborts.remove(&number) {
                    tracing::debug!(blob = %self.order.blob, source = %source.short(), "the rest of a request is asked of another");
                    abort.abort();
                }
            }
            if self.requests.is_empty() && upkeep.is_empty() && (self.assembly.is_whole() || self.sources.is_empty()) {
                break;
            }
            if !self.requests.is_empty() || !upkeep.is_empty() {
                busy = Instant::now();
            }
            let waits = self.sources.any_whole() || !self.order.whole || self.sources.wait_for_word();
            if busy.elapsed() > if waits { self.order.patience } else { HOPE } {
                break;
            }
            tokio::select! {
                Some(ended) = self.requests.join_next() => {
                    let Ended { source, connection, number, outcome } = match ended {
                        Ok(ended) => ended,
                        // It was broken off, and what it was for is free again.
                        Err(aborted) if aborted.is_cancelled() => {
                            self.sources.look_again();
                            continue;
                        }
                        Err(_) => return Err(FetchError::Stopped),
                    };
                    match outcome {
                        Ok(rates) => self.sources.answered(&source, connection, number, rates),
                        Err(error) => self.fail(source, connection, error, on_dropped)?,
                    }
                    on_progress(self.assembly.held());
                    if upkeep.is_empty() && !self.assembly.is_whole() {
                        let assembly = self.assembly.clone();
                        upkeep.spawn_blocking(move || assembly.keep_up());
                    }
                }
                Some(ended) = upkeep.join_next() => ended.map_err(|_| FetchError::Stopped)??,
                Some(News { source, key, runs }) = self.news.recv() => match runs {
                    Some(runs) => self.sources.gained(&source, key, runs),
                    None => self.sources.silent(&source, key),
                },
                Ok(()) = self.order.candidates.changed() => self.take_candidates(),
                // Time alone changes whom others wait for.
                _ = look.tick() => self.sources.look_again(),
            }
        }
        // Else all that is missing is on its way elsewhere, or with nobody within reach.
        if self.assembly.is_whole() { Ok(()) } else { Err(FetchError::Busy) }
    }

    fn take_candidates(&mut self) {
        let candidates = self.order.candidates.borrow_and_update().clone();
        for Candidate { id, connection, whole, .. } in candidates {
            let key = connection.stable_id();
            if !self.dropped.contains(&(id, key)) && self.sources.add(id, key, connection.clone(), whole) && !whole {
                self.listeners.spawn(availability::ask(id, connection, self.order.blob, self.tell.clone()));
            }
        }
    }

    /// Asks each source for no more at once than its limit lets come in a moment.
    fn hold_to_limits(&mut self) {
        let (limiter, priority) = (&self.order.traffic.limiter, self.order.priority);
        self.sources.hold_to(|source| limiter.down(*source, priority).rate().map(|rate| rate.bytes()));
    }

    fn ask(&mut self, asking: Asking<Connection>) {
        let Asking { source, connection, number, loose, taken, block, link } = asking;
        let (assembly, patience, traffic) = (self.assembly.clone(), self.order.patience, Arc::clone(&self.order.traffic));
        let pace = traffic.limiter.down(source, self.order.priority);
        self.aborts.retain(|_, (_, abort)| !abort.is_finished());
        let abort = self.requests.spawn(async move {
            let (range, id) = (taken.range(), connection.stable_id());
            let round_trip = connection.paths().iter().find(|path| path.is_selected()).map(|path| path.rtt());
            let (blob, compression) = (assembly.hash(), compression_for(link, round_trip));
            let order = BlockRequest { blob, start: range.start, end: range.end, block, compression, pairs: 0 };
            let outcome = request(connection, assembly, order, patience, traffic, pace, loose).await;
            drop(taken);
            Ended { source, connection: id, number, outcome }
        });
        self.aborts.insert(number, (source, abort));
    }

    /// A request has failed. Its source is asked no more; without another one, or when it is this node that cannot go on, the
    /// fetch ends.
    fn fail(
        &mut self,
        id: EndpointId,
        connection: usize,
        error: FetchError,
        on_dropped: &OnDropped<'_>,
    ) -> Result<(), FetchError> {
        let own = match &error {
            FetchError::Content(ContentError::Corrupt(_)) => false,
            FetchError::Content(_) | FetchError::Stopped => true,
            _ => false,
        };
        // Of a connection that another has replaced nothing is said.
        let news = self.dropped.insert((id, connection)) && self.sources.remove(&id, connection);
        let is_last = news && self.sources.is_empty();
        if own || is_last && id == self.order.source {
            return Err(error);
        }
        if news {
            self.aborts.values().filter(|(source, _)| *source == id).for_each(|(_, abort)| abort.abort());
            on_dropped(id, &error);
        }
        if is_last { Err(FetchError::Busy) } else { Ok(()) }
    }
}

/// Asks for one range and writes what arrives, receiving and writing at the same time. What the assembly knows of the hashes above
/// it is seen when there is a stream to ask on.
pub(super) async fn request(
    connection: Connection,
    assembly: Assembly,
    mut order: BlockRequest,
    patience: Duration,
    traffic: Arc<Traffic>,
    pace: Pace,
    loose: Arc<Loose>,
) -> Result<Rates, FetchError> {
    let (started, mut crossed, source) = (Instant::now(), 0, pace.peer());
    let paid = Paid::take(pace, order.end - order.start).await;
    let measured = traffic.speeds.asked(source, &connection);
    let (mut send, recv) = connection.open_bi().await.map_err(FetchError::connection)?;
    let told = Arc::clone(&loose);
    let mut recv = Incoming::new(recv, paid).telling(move |bytes| {
        measured.came(bytes);
        told.came(bytes);
    });
    order.pairs = assembly.known_pairs(order.start);
    let (blocks, mut arrived) = mpsc::channel::<(Range<u64>, BlockFrame)>(2);
    let write = async {
        while let Some((range, frame)) = arrived.recv().await {
            let (assembly, traffic) = (assembly.clone(), Arc::clone(&traffic));
            let bytes = frame.bytes_on_wire();
            blocking(move || write(&assembly, &order, range, frame, &traffic)).await?;
            loose.written(bytes);
        }
        Ok(())
    };
    let receive = async {
        let blocks = blocks;
        write_frame(&mut send, &Request::Blocks(order).encode()).await.map_err(FetchError::wire)?;
        let _ = send.finish();
        for range in order.blocks() {
            let frame = BlockFrame::read(&mut recv, patience).await.map_err(FetchError::wire)?;
            match &frame {
                BlockFrame::Compressed(_) if order.compression.is_none() => return Err(FetchError::wire(WireError::Request)),
                BlockFrame::Block(bytes) | BlockFrame::Compressed(bytes) => {
                    crossed += bytes.len();
                    traffic.received(bytes.len());
                }
                BlockFrame::Denied(Denial::NotAvailable) => return Err(FetchError::NotAvailable),
                BlockFrame::Denied(Denial::Later) => return Err(FetchError::Later),
                BlockFrame::Denied(Denial::Damaged | Denial::Failed) => return Err(FetchError::SourceFailed),
            }
            // The writer leaves early only with an error of its own, which then counts.
            if blocks.send((range, frame)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::try_join!(receive, write)?;
    let seconds = started.elapsed().as_secs_f64().max(1e-6);
    Ok(Rates { blob: (order.end - order.start) as f64 / seconds, link: crossed as f64 / seconds })
}

/// Verifies and writes a block as it came.
fn write(
    assembly: &Assembly,
    order: &BlockRequest,
    range: Range<u64>,
    frame: BlockFrame,
    traffic: &Traffic,
) -> Result<(), ContentError> {
    let encoded = match frame {
        BlockFrame::Block(encoded) => encoded,
        BlockFrame::Compressed(bytes) => {
            let most = usize::try_from(range.end - range.start).map_or(0, |bytes| bytes + MAX_PAIRS_BYTES);
            let encoded = expand(&bytes, most).ok_or(ContentError::Corrupt(assembly.hash()))?;
            traffic.saved(encoded.len(), bytes.len());
            encoded
        }
        BlockFrame::Denied(_) => return Ok(()),
    };
    assembly.write_block_below(range, order.known(), &encoded)
}
