//! Which blobs to fetch next, and from whom. Never fetches for anything but a job of this node, and never over budget.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::decide::FileSource;
use super::expected::behind;
use super::flights::{Flight, Place};
use super::memory::{Avoid, Delivery, Fetching, Memory, Missing, Rank, Work};
use super::pass::Pass;
use super::peers::{mix, number};
use super::sources::{left_alone_until, may_have_parts};
use super::{Action, FetchId, FetchOutcome, MAX_SMALL_BLOBS, MAX_SMALL_FETCH_BYTES, Patience, PinReason, SMALL_BYTES, View};
use crate::document::Distribution;
use crate::model::{BlobHash, DistributionId, EndpointId, Files, Priority, Timestamp};

/// Blobs that are looked at, from the first, for what can be fetched together with it.
const MAX_LOOKED_AT: usize = 4 * MAX_SMALL_BLOBS;

/// Who has all and is left alone for no longer is waited for, before others are asked for parts.
const SHORT_REST: Duration = Duration::from_secs(10);

/// How it went when a job was offered a share of the budget.
#[derive(PartialEq, Eq)]
pub(super) enum Offer {
    /// It takes no more for now.
    Taken,
    /// It would take more than there is.
    Exhausted,
}

impl Fetching {
    fn new(now: Timestamp, reason: Option<PinReason>) -> Self {
        Self {
            reason,
            files: None,
            missing: Default::default(),
            todo: BTreeSet::new(),
            stuck: BTreeSet::new(),
            bytes: 0,
            since: now,
            halted: false,
            admitted: false,
            begun: false,
            starved: None,
            no_space: None,
            full: false,
            refused: Default::default(),
            metered: BTreeSet::new(),
            drained: BTreeSet::new(),
            said: BTreeSet::new(),
            delivery: Delivery::default(),
            recorded: None,
            announced: false,
        }
    }

    /// Whether every blob is here.
    pub(super) fn is_whole(&self) -> bool {
        !self.halted && self.files.is_some() && self.missing.is_empty()
    }

    /// The list of its files is not here, and comes first.
    fn miss_list(&mut self, id: DistributionId, files: &Files, wanted: &mut BTreeMap<BlobHash, BTreeSet<DistributionId>>) {
        if let Files::List { blob, size, .. } = files
            && !self.missing.contains_key(blob)
        {
            self.missing.insert(*blob, Missing { size: *size, files: Vec::new() });
            self.todo.insert((0, *blob));
            wanted.entry(*blob).or_default().insert(id);
        }
    }

    pub(super) fn clock_went_back(&mut self, now: Timestamp, patience: &Patience) {
        self.since = self.since.min(now);
        self.starved = self.starved.map(|since| since.min(now));
        let latest = now.plus(patience.retry);
        self.no_space = self.no_space.map(|until| until.min(latest));
        self.delivery.retry_at = self.delivery.retry_at.map(|at| at.min(latest));
        self.refused.values_mut().for_each(|backoff| backoff.clamp(now, patience.backoff_max));
        self.unstick(Timestamp::from_millis(u64::MAX));
    }

    /// A source serves, or may serve again.
    pub(super) fn accept(&mut self, source: &EndpointId) -> bool {
        self.metered.remove(source);
        self.drained.remove(source);
        self.refused.remove(source).is_some()
    }

    /// About how much is asked for with a blob: small ones that wait behind it come along.
    fn bytes_to_ask_for(&self, blob: &BlobHash) -> u64 {
        let size = self.missing.get(blob).map(|missing| missing.size).unwrap_or_default();
        if size > SMALL_BYTES {
            return size;
        }
        let several = size.saturating_mul(self.todo.len().min(MAX_SMALL_BLOBS) as u64);
        several.clamp(size, MAX_SMALL_FETCH_BYTES)
    }

    /// Takes up again what was put off until `now`.
    pub(super) fn unstick(&mut self, now: Timestamp) {
        while let Some((_, index, blob)) = self.stuck.first().filter(|(until, ..)| *until <= now).copied() {
            self.stuck.pop_first();
            self.todo.insert((index, blob));
        }
    }
}

impl Pass<'_> {
    /// Keeps the job of a distribution whose blobs are to be here, and moves it on.
    pub(super) fn fetch(&mut self, id: DistributionId, distribution: Arc<Distribution>, reason: Option<PinReason>) {
        let (now, fits) = (self.now, |work: &Work| matches!(work, Work::Fetching(fetching) if fetching.reason == reason));
        self.keep_job(id, &distribution, || Work::Fetching(Box::new(Fetching::new(now, reason))), fits);
        let sources = self.sources(id, &distribution);
        let known = self.memory.jobs.get(&id).map(|job| &job.interests);
        let news =
            sources.iter().filter(|source| self.memory.peers.is_up(source) && !known.is_some_and(|known| known.contains(source)));
        let news: Vec<_> = news.copied().collect();
        self.interest(id, sources);
        // What was put off since nobody had it, or who had it failed, is asked of whoever turns out to have it.
        news.iter().for_each(|source| self.forgive(id, source));
        self.find_missing(id);
        self.retry_delivery(id);
        if let Some(job) = self.memory.jobs.get_mut(&id)
            && let Work::Fetching(fetching) = &mut job.work
        {
            fetching.unstick(self.now);
            fetching.no_space = fetching.no_space.filter(|until| *until > self.now);
            self.memory.ready.insert(job.rank);
            // What needs no fetch need not wait until its turn comes to fetch.
            if fetching.is_whole() {
                self.admit(id);
            }
        }
        self.deliver(id);
        self.tend(id);
    }

    /// Who can be asked: the sender, those who say in the document that they have it, and those of whom it was hinted.
    pub(super) fn sources(&self, id: DistributionId, distribution: &Distribution) -> BTreeSet<EndpointId> {
        let records = distribution.targets.iter().chain(&distribution.carriers);
        let holders = records.filter(|(_, record)| record.state.is_holder()).map(|(id, _)| *id);
        let mut sources: BTreeSet<_> = holders.chain([distribution.manifest.sender]).collect();
        if let Some(job) = self.memory.jobs.get(&id) {
            sources.extend(&job.hints);
        }
        sources.remove(&self.me);
        sources.retain(|source| !self.view.nodes().get(source).is_some_and(|node| node.revoked));
        sources
    }

    /// Finds out which blobs are not here, once the files are known; before that it is their list.
    fn find_missing(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        if fetching.files.is_some() {
            if std::mem::take(&mut fetching.halted) {
                self.look_for_blobs(id);
            }
            return;
        }
        match FileSource::open(self.view, &job.distribution) {
            Some(Ok(files)) => {
                fetching.files = Some(files);
                self.look_for_blobs(id);
            }
            // A list that is no list ends a target's job as refused, and a carrier has nothing more to fetch by it.
            Some(Err(_)) => {}
            None => fetching.miss_list(id, &job.distribution.manifest.files, &mut self.memory.wanted),
        }
    }

    /// Looks which blobs of the files not yet delivered are here. Also before a delivery is tried again: one may be damaged.
    pub(super) fn look_for_blobs(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        let Some(files) = fetching.files.clone() else { return };
        if let listed @ Files::List { blob, .. } = &job.distribution.manifest.files
            && !self.view.holds(blob)
        {
            // What is in it is known, but others may ask for it.
            fetching.miss_list(id, listed, &mut self.memory.wanted);
        }
        fetching.bytes = 0;
        let removes = job.distribution.manifest.removes;
        let asked = self.memory.known.get(&id).filter(|_| fetching.reason.is_none()).map(|known| &known.asked);
        for (index, file) in (0_u32..).zip(files.entries()) {
            if asked.is_some_and(|asked| !asked.contains(&file.blob)) {
                continue;
            }
            let over = fetching.delivery.done.contains(&index) || fetching.delivery.failed.contains_key(&index);
            // What is to go has no content.
            if over || removes || self.view.holds(&file.blob) {
                fetching.bytes += file.size;
                let delivery = &mut fetching.delivery;
                if !over && !delivery.under_way.contains(&index) && !delivery.postponed.contains(&index) {
                    delivery.ready.insert(index);
                }
                continue;
            }
            fetching.delivery.ready.remove(&index);
            fetching.delivery.postponed.remove(&index);
            let missing = fetching.missing.entry(file.blob).or_insert_with(|| {
                fetching.todo.insert((index, file.blob));
                Missing { size: file.size, files: Vec::new() }
            });
            if let Err(at) = missing.files.binary_search(&index) {
                missing.files.insert(at, index);
            }
            self.memory.wanted.entry(file.blob).or_default().insert(id);
        }
    }

    /// Blobs are here: whoever missed them goes on.
    pub(super) fn blobs_held(&mut self, blobs: impl IntoIterator<Item = BlobHash>) {
        let mut closer = BTreeSet::new();
        blobs.into_iter().for_each(|blob| self.blob_held(blob, &mut closer));
        // Once for all of them: files that came together are delivered together.
        closer.into_iter().for_each(|id| self.deliver(id));
    }

    fn blob_held(&mut self, blob: BlobHash, closer: &mut BTreeSet<DistributionId>) {
        if let Some(fetch) = self.memory.flights.of_blob(&blob) {
            self.memory.flights.land(fetch, BTreeSet::from([blob]));
            // Of several that come together the others still do.
            if self.memory.flights.get(fetch).is_none() {
                self.actions.push(Action::CancelFetch { fetch });
            }
        }
        for id in self.memory.wanted.remove(&blob).unwrap_or_default() {
            let Some(job) = self.memory.jobs.get_mut(&id) else { continue };
            let Work::Fetching(fetching) = &mut job.work else { continue };
            let Some(missing) = fetching.missing.remove(&blob) else { continue };
            fetching.full = false;
            let first = missing.files.first().copied().unwrap_or_default();
            fetching.todo.remove(&(first, blob));
            fetching.stuck.retain(|(_, _, stuck)| *stuck != blob);
            fetching.bytes = fetching.bytes.saturating_add(missing.size.saturating_mul(missing.files.len() as u64));
            fetching.delivery.ready.extend(missing.files);
            if fetching.missing.is_empty() {
                // Whole, or the list of files is here.
                self.memory.dirty.insert(id);
            } else {
                self.memory.ready.insert(job.rank);
                closer.insert(id);
            }
        }
        self.forget_avoided(&blob);
    }

    pub(super) fn fetch_ended(&mut self, id: FetchId, outcome: FetchOutcome) {
        if let Some(flight) = self.memory.flights.end(id) {
            self.landed(flight, outcome);
        }
    }

    /// Some of the blobs of a fetch have ended, each in its way.
    pub(super) fn some_fetched(&mut self, id: FetchId, outcomes: Vec<(BlobHash, FetchOutcome)>) {
        let mut by_outcome: BTreeMap<FetchOutcome, BTreeSet<BlobHash>> = BTreeMap::new();
        for (blob, outcome) in outcomes {
            by_outcome.entry(outcome).or_default().insert(blob);
        }
        if by_outcome.contains_key(&FetchOutcome::Done) {
            self.memory.flights.came(id, self.now);
        }
        for (outcome, blobs) in by_outcome {
            if let Some(landed) = self.memory.flights.land(id, blobs).filter(|landed| !landed.blobs.is_empty()) {
                self.landed(landed, outcome);
            }
        }
    }

    /// Blobs are on their way no longer: they are here, or their source is to blame.
    fn landed(&mut self, flight: Flight, outcome: FetchOutcome) {
        let blobs: Vec<BlobHash> = flight.blobs.into_keys().collect();
        if matches!(outcome, FetchOutcome::Done | FetchOutcome::Partial) {
            self.memory.seeking.forget(&flight.source);
            self.with_fetching(flight.distribution, |fetching| {
                fetching.accept(&flight.source);
                fetching.begun = true;
            });
        }
        if outcome == FetchOutcome::Done {
            if self.memory.peers.succeeded(flight.source) {
                self.look_up_again(&flight.source);
            }
            return self.blobs_held(blobs);
        }
        if flight.place == Place::Part && outcome == FetchOutcome::Missing {
            // Where something came, or it said meanwhile that it has more, it is asked once more.
            if !flight.came && !flight.has_news {
                self.gave_nothing(flight.distribution, flight.source);
            }
        } else {
            self.blame(flight.distribution, &blobs, flight.source, outcome);
        }
        blobs.iter().for_each(|blob| self.begin_again_later(blob));
    }

    /// A source has failed, and will be left alone accordingly.
    pub(super) fn blame(&mut self, id: DistributionId, blobs: &[BlobHash], source: EndpointId, outcome: FetchOutcome) {
        let (now, seed, patience) = (self.now, self.seed ^ number(source.as_bytes()), self.policy.patience);
        match outcome {
            FetchOutcome::Done | FetchOutcome::Partial => {}
            FetchOutcome::Unreachable => self.memory.peers.failed(source, now, self.seed, &patience),
            FetchOutcome::OneByOne => self.memory.peers.gives_one_by_one(&source),
            FetchOutcome::Missing => blobs.iter().for_each(|blob| {
                let avoid: &mut Avoid = self.memory.avoid.entry((*blob, source)).or_default();
                avoid.backoff.fail(now, seed, &patience);
            }),
            FetchOutcome::Corrupt => blobs.iter().for_each(|blob| {
                let avoid = self.memory.avoid.entry((*blob, source)).or_default();
                avoid.backoff.until = now.plus(patience.corrupt);
                avoid.corrupt = true;
            }),
            FetchOutcome::NoSpace => self.with_fetching(id, |fetching| fetching.rest(now.plus(patience.retry))),
            FetchOutcome::Refused | FetchOutcome::Later | FetchOutcome::Cancelled | FetchOutcome::Failed => {
                self.with_fetching(id, |fetching| {
                    fetching.refused.entry(source).or_default().fail(now, seed, &patience);
                    match outcome {
                        FetchOutcome::Later => _ = fetching.metered.insert(source),
                        _ => _ = fetching.metered.remove(&source),
                    }
                });
            }
        }
    }

    /// A blob is no longer being fetched: whoever misses it may begin again.
    fn begin_again_later(&mut self, blob: &BlobHash) {
        for id in self.memory.wanted.get(blob).cloned().unwrap_or_default() {
            let Some(job) = self.memory.jobs.get_mut(&id) else { continue };
            let Work::Fetching(fetching) = &mut job.work else { continue };
            if let Some(missing) = fetching.missing.get(blob) {
                fetching.todo.insert((missing.files.first().copied().unwrap_or_default(), *blob));
                self.memory.ready.insert(job.rank);
            }
        }
    }

    /// Fetches nothing more for a job that still waits for the end of a delivery.
    pub(super) fn halt(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        fetching.halted = true;
        fetching.todo.clear();
        fetching.stuck.clear();
        self.memory.ready.remove(&job.rank);
        for blob in std::mem::take(&mut fetching.missing).into_keys() {
            self.no_longer_wanted(id, &blob);
        }
    }

    /// A job has ended that missed the blob. A fetch on its behalf ends too; whoever else misses the blob begins its own.
    pub(super) fn no_longer_wanted(&mut self, id: DistributionId, blob: &BlobHash) {
        let Some(wanted) = self.memory.wanted.get_mut(blob) else { return };
        wanted.remove(&id);
        if wanted.is_empty() {
            self.memory.wanted.remove(blob);
            self.forget_avoided(blob);
        }
        let Some(fetch) = self.memory.flights.of_blob(blob) else { return };
        if self.memory.flights.get(fetch).is_none_or(|flight| flight.distribution != id) {
            return;
        }
        // The source was asked on behalf of the job that ended, and may entitle us to nothing for another.
        self.put_off(fetch);
    }

    fn forget_avoided(&mut self, blob: &BlobHash) {
        let all = (*blob, EndpointId::from_bytes([0; 32]))..=(*blob, EndpointId::from_bytes([0xff; 32]));
        let sources: Vec<_> = self.memory.avoid.range(all).map(|(key, _)| *key).collect();
        for key in sources {
            self.memory.avoid.remove(&key);
        }
    }

    /// A source is back: what it did not have or let us have before is asked again, but not what it served damaged.
    pub(super) fn forgive(&mut self, id: DistributionId, source: &EndpointId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        fetching.accept(source);
        for (_, _, blob) in &fetching.stuck {
            if self.memory.avoid.get(&(*blob, *source)).is_some_and(|avoid| !avoid.corrupt) {
                self.memory.avoid.remove(&(*blob, *source));
            }
        }
        fetching.unstick(Timestamp::from_millis(u64::MAX));
    }

    /// A source serves again: what was put off until its pause would be over is taken up.
    fn look_up_again(&mut self, source: &EndpointId) {
        self.unstick_interested(source, |_| true);
    }

    /// A source has all that this node knows, or is not metered any more: what it refused before is asked for again.
    pub(super) fn ask_again(&mut self, source: &EndpointId) {
        self.unstick_interested(source, |fetching| {
            // At once, but not as if nothing had been: over a thin link each try makes a connection, which reconciles.
            fetching.metered.remove(source);
            fetching.refused.get_mut(source).map(|backoff| backoff.until = Timestamp::default()).is_some()
        });
    }

    /// Takes up all that was put off of what a source may have, where `concerned` says so.
    fn unstick_interested(&mut self, source: &EndpointId, concerned: impl Fn(&mut Fetching) -> bool) {
        for id in self.memory.peers.interested_in(source) {
            let Some(job) = self.memory.jobs.get_mut(&id) else { continue };
            let Work::Fetching(fetching) = &mut job.work else { continue };
            if concerned(fetching) {
                fetching.unstick(Timestamp::from_millis(u64::MAX));
                self.memory.ready.insert(job.rank);
            }
        }
    }

    /// On a metered link what is not critical gives way. It goes on where it was when that is over.
    pub(super) fn heed_meter(&mut self) {
        if !self.policy.metered {
            return;
        }
        for fetch in self.memory.flights.ids() {
            if !self.is_critical(fetch) {
                self.put_off(fetch);
            }
        }
    }

    /// Whether something critical is on its way by this fetch: what was asked for together with it comes along.
    fn is_critical(&self, fetch: FetchId) -> bool {
        let critical = |id: &DistributionId| {
            self.memory.jobs.get(id).is_some_and(|job| job.distribution.manifest.priority >= Priority::Critical)
        };
        let wanted = |blob: &BlobHash| self.memory.wanted.get(blob).is_some_and(|ids| ids.iter().any(critical));
        self.memory.flights.get(fetch).is_some_and(|flight| flight.blobs.keys().any(wanted))
    }

    /// Whether the link is metered, and what is of this priority waits for the end of that.
    pub(super) fn gives_way(&self, priority: Priority) -> bool {
        self.policy.metered && priority < Priority::Critical
    }

    /// Spends the budget, the most urgent job first.
    pub(super) fn begin_fetches(&mut self) {
        self.end_turns();
        let mut goes_on = true;
        while goes_on {
            goes_on = self.take_turns();
            self.serve_ready();
        }
        self.begin_beside();
    }

    fn serve_ready(&mut self) {
        while let Some(rank) = self.memory.ready.first().copied() {
            let (Reverse(priority), ..) = rank;
            if self.gives_way(priority) {
                // It stays where it is, as all that follow, and they are taken up when the policy changes.
                break;
            }
            let offer = self.serve(rank, false);
            // What made room may be wanted by something more urgent, too.
            let first = self.memory.ready.first().is_none_or(|first| *first >= rank);
            if offer == Offer::Exhausted && first {
                break;
            }
        }
    }

    /// Lets a job have what it can begin: of the budget, or one fetch beside it.
    pub(super) fn serve(&mut self, rank: Rank, beside: bool) -> Offer {
        let (_, _, id) = rank;
        let offer = self.offer(id, beside);
        if offer == Offer::Taken {
            self.memory.ready.remove(&rank);
        }
        self.deliver(id);
        self.tend(id);
        offer
    }

    fn offer(&mut self, id: DistributionId, beside: bool) -> Offer {
        if !self.admit(id) {
            return Offer::Taken;
        }
        // What waits for its turn to be asked for does not keep others of the same from coming.
        let mut waiting = Vec::new();
        let offer = self.offer_all(id, beside, &mut waiting);
        self.with_fetching(id, |fetching| fetching.todo.extend(waiting));
        // Whose turn it was and who had no use for it leaves it to others.
        self.turns.remove(&id);
        offer
    }

    fn offer_all(&mut self, id: DistributionId, mut beside: bool, waiting: &mut Vec<(u32, BlobHash)>) -> Offer {
        loop {
            let Some(job) = self.memory.jobs.get_mut(&id) else { return Offer::Taken };
            let Work::Fetching(fetching) = &mut job.work else { return Offer::Taken };
            if fetching.no_space.is_some() {
                return Offer::Taken;
            }
            let Some((index, blob)) = fetching.todo.first().copied() else { return Offer::Taken };
            let Some(size) = fetching.missing.get(&blob).map(|missing| missing.size) else {
                fetching.todo.pop_first();
                continue;
            };
            let priority = job.distribution.manifest.priority;
            let has_holder = !self.memory.peers.connected().is_disjoint(&job.interests);
            if self.view.holds(&blob) {
                self.blobs_held([blob]);
                continue;
            }
            if let Some(fetch) = self.memory.flights.of_blob(&blob) {
                fetching.todo.pop_first();
                self.memory.flights.raise(fetch, priority);
                continue;
            }
            match choose(self.now, self.view, self.memory, &id, &blob) {
                Choice::Part(source) => {
                    if self.takes_place(id, priority) {
                        self.begin(id, (index, blob, size), source, priority, Place::Part);
                    } else if has_holder {
                        self.with_fetching(id, |fetching| _ = fetching.todo.remove(&(index, blob)));
                        waiting.push((index, blob));
                    } else {
                        return Offer::Taken;
                    }
                }
                Choice::From(source) => {
                    // What is under way makes room for the more urgent, but not again and again for a source that has nothing.
                    let doubted = self.memory.avoid.get(&(blob, source)).is_some_and(|avoid| avoid.backoff.is_lasting());
                    let pressing = if doubted { Priority::Bulk } else { priority };
                    if !beside {
                        let Some(cancel) = self.memory.flights.room(size, pressing, self.policy.budget) else {
                            return Offer::Exhausted;
                        };
                        cancel.into_iter().for_each(|fetch| self.put_off(fetch));
                    }
                    let place = if beside { Place::Beside } else { Place::Budget };
                    self.begin(id, (index, blob, size), source, priority, place);
                    beside = false;
                }
                Choice::NotBefore(until) => self.with_fetching(id, |fetching| {
                    fetching.todo.remove(&(index, blob));
                    fetching.stuck.insert((until, index, blob));
                }),
                Choice::NoneConnected => return Offer::Taken,
            }
        }
    }

    /// Begins to fetch a blob, and what can come together with it.
    fn begin(
        &mut self,
        distribution: DistributionId,
        first: (u32, BlobHash, u64),
        source: EndpointId,
        priority: Priority,
        place: Place,
    ) {
        let room = match place {
            Place::Budget => self.policy.budget.bytes.saturating_sub(self.memory.flights.bytes()),
            Place::Beside | Place::Part => u64::MAX,
        };
        let begun = self.together(distribution, first, source, room);
        let blobs = begun.iter().map(|(_, blob, size)| (*blob, *size)).collect();
        let (begun_at, latest) = (self.now, self.now);
        let flight = Flight { blobs, source, priority, distribution, place, came: false, has_news: false, begun_at, latest };
        let fetch = self.memory.flights.begin(flight);
        let ((_, blob, size), whole) = (first, place != Place::Part);
        self.actions.push(if begun.len() == 1 {
            Action::Fetch { fetch, blob, size, source, whole, priority, distribution }
        } else {
            let blobs = begun.iter().map(|(_, blob, size)| (*blob, *size)).collect();
            Action::FetchSmall { fetch, blobs, source, whole, priority, distribution }
        });
        self.with_fetching(distribution, |fetching| {
            fetching.begun |= whole;
            begun.iter().for_each(|(index, blob, _)| _ = fetching.todo.remove(&(*index, *blob)));
        });
    }

    /// What is asked of a source together with the first blob: small ones behind it that it can give, too, as far as there is room
    /// for them.
    fn together(
        &self,
        id: DistributionId,
        first: (u32, BlobHash, u64),
        source: EndpointId,
        room: u64,
    ) -> Vec<(u32, BlobHash, u64)> {
        let mut together = vec![first];
        let Some(Work::Fetching(fetching)) = self.memory.jobs.get(&id).map(|job| &job.work) else { return together };
        let mut bytes = first.2;
        if first.2 > SMALL_BYTES || !self.memory.peers.gives_several(&source) {
            return together;
        }
        let behind = fetching.todo.range((Bound::Excluded((first.0, first.1)), Bound::Unbounded)).take(MAX_LOOKED_AT);
        for (index, blob) in behind {
            let Some(size) = fetching.missing.get(blob).map(|missing| missing.size) else { continue };
            if size > SMALL_BYTES {
                continue;
            }
            if together.len() == MAX_SMALL_BLOBS || bytes + size > room.min(MAX_SMALL_FETCH_BYTES) {
                break;
            }
            let asked = self.memory.flights.of_blob(blob).is_some() || self.view.holds(blob);
            if !asked && left_alone_until(self.memory, fetching, &source, blob) <= self.now {
                together.push((*index, *blob, size));
                bytes += size;
            }
        }
        together
    }

    /// Cancels a fetch. Whoever misses its blobs goes on where it was when there is room again.
    pub(super) fn put_off(&mut self, fetch: FetchId) {
        if let Some(flight) = self.memory.flights.end(fetch) {
            self.actions.push(Action::CancelFetch { fetch });
            flight.blobs.keys().for_each(|blob| self.begin_again_later(blob));
        }
    }

    pub(super) fn with_fetching(&mut self, id: DistributionId, change: impl FnOnce(&mut Fetching)) {
        if let Some(job) = self.memory.jobs.get_mut(&id)
            && let Work::Fetching(fetching) = &mut job.work
        {
            change(fetching);
        }
    }

    /// Whether the quota has room for a job; once it had, it stays so.
    pub(super) fn admit(&mut self, id: DistributionId) -> bool {
        let Some(job) = self.memory.jobs.get(&id) else { return false };
        let Work::Fetching(fetching) = &job.work else { return false };
        let reason = fetching.reason;
        if !fetching.admitted {
            let bytes = job.distribution.manifest.total_bytes();
            let (quota, bytes) = match reason {
                Some(PinReason::Carry) => (Some(self.policy.carry_quota_bytes), bytes),
                Some(PinReason::Target) => (self.policy.quota_bytes, bytes),
                // What it sent is its own, and under nobody's quota; what is not pinned goes when there is no room.
                Some(PinReason::Sent) | None => (None, 0),
            };
            let own = self.memory.known.get(&id).and_then(|known| known.account).map_or(0, |(_, bytes)| bytes);
            let taken =
                reason.and_then(|reason| self.memory.accounts.get(&reason)).copied().unwrap_or_default().saturating_sub(own);
            if quota.is_some_and(|quota| taken.saturating_add(bytes) > quota) {
                self.memory.over_quota.insert(id);
                return false;
            }
            self.memory.over_quota.remove(&id);
            self.with_fetching(id, |fetching| fetching.admitted = true);
            self.pin(id, reason, bytes);
        }
        true
    }
}

/// The best source for a blob.
pub(super) fn choose(now: Timestamp, view: &dyn View, memory: &Memory, id: &DistributionId, blob: &BlobHash) -> Choice {
    let Some(job) = memory.jobs.get(id) else { return Choice::NoneConnected };
    let Work::Fetching(fetching) = &job.work else { return Choice::NoneConnected };
    let (mut sources, mut soonest) = (Vec::new(), None);
    for source in memory.peers.connected().intersection(&job.interests) {
        let until = left_alone_until(memory, fetching, source, blob);
        if until > now {
            soonest = Some(soonest.map_or(until, |other: Timestamp| other.min(until)));
            continue;
        }
        sources.push(*source);
    }
    // Those that it would come from soonest, as far as is known; the nearest of those, since what lies next door must not cross a
    // satellite, and then the least busy; among equals, different nodes and blobs prefer different sources.
    let behind = behind(view, sources, fetching.bytes_to_ask_for(blob));
    let best = behind.into_iter().map(|(source, behind)| {
        let spread = mix(number(view.me().as_bytes()) ^ number(blob.as_bytes()) ^ number(source.as_bytes()));
        (behind, view.distance(&source), memory.flights.from(&source), spread, source)
    });
    if let Some((.., source)) = best.min() {
        return Choice::From(source);
    }
    if let Some(until) = soonest.filter(|until| *until <= now.plus(SHORT_REST)) {
        return Choice::NotBefore(until);
    }
    let mut parts = Vec::new();
    for source in memory.peers.connected() {
        let is_hopeless =
            fetching.drained.contains(source) || (memory.seeking.is_in_vain(source) && !fetching.said.contains(source));
        if is_hopeless || !view.is_connected(source) || !may_have_parts(view, job, source) {
            continue;
        }
        match left_alone_until(memory, fetching, source, blob) {
            until if until > now => soonest = Some(soonest.map_or(until, |other: Timestamp| other.min(until))),
            _ => parts.push((view.distance(source), memory.flights.from(source), *source)),
        }
    }
    match (parts.into_iter().min(), soonest) {
        (Some((.., source)), _) => Choice::Part(source),
        (None, Some(until)) => Choice::NotBefore(until),
        (None, None) => Choice::NoneConnected,
    }
}

/// Whom to fetch a blob from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// From this source, now.
    From(EndpointId),
    /// Nobody who has it can be asked; from this one, which may have parts.
    Part(EndpointId),
    /// Each connected source is left alone for a while, the first of them until this time.
    NotBefore(Timestamp),
    /// No source is connected.
    NoneConnected,
}
