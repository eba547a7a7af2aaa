//! The sources of one blob, and what to ask each of them for. Pure: what is under way is told to it.
//!
//! With one source a blob comes from its first byte to its last. With several, who has all of it is asked only for what nobody
//! else within reach has: so each part leaves it once, and those who fetch it get the rest from each other. So that they do not
//! ask for the same at the same time, each unit of the blob is one node's to ask for first, by rendezvous hashing: all who know
//! of each other agree on it without a word.
//!
//! Near the end all that is missing is asked for, and a slow source may have much of it. When another has nothing left to do that
//! would be done with it much earlier, the requests to the slow one are broken off, and what is missing of them is free again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iroh::endpoint::Connection;
use tokio::time::Instant;

use super::fetch::{FIRST_BLOCK_BYTES, REQUESTS, WINDOW_BYTES};
use crate::content::{Assembly, Groups, Taken};
use crate::model::EndpointId;
use crate::network::wire::GROUP_BYTES;
use crate::reconcile::{mix, number};

/// How long a block should take to arrive, so that little is lost when the link is cut and each arrives verified.
const BLOCK_TIME: Duration = Duration::from_millis(300);
/// How long a request should take at most when it has the link for itself. They are answered one after the other: each must have
/// its first block well before its source counts as stalled.
const REQUEST_TIME: Duration = Duration::from_secs(1);
/// Longest request, and with it the longest block.
const REQUEST_BYTES: u64 = WINDOW_BYTES / REQUESTS as u64;
/// Blocks of one request at most: enough that asking costs no time, few enough that another source can take the rest.
const BLOCKS_PER_REQUEST: u64 = 8;
/// Groups of a unit, that one node asks for. No request is longer, so that it lies within one.
const UNIT_GROUPS: u64 = REQUEST_BYTES / GROUP_BYTES;
/// Ranges of which the rarest is asked for: enough to find a rare one, few enough to cost nothing.
const MAX_COMPARED: usize = 256;
/// Who has no more groups left to ask for, and gets on, needs no help.
const HELPED_GROUPS: u64 = 2 * UNIT_GROUPS;
/// Who has sent nothing for so long, though it was asked, is not waited for by others.
const SLOW: Duration = Duration::from_secs(2);
/// Who is so much slower than the fastest is not waited for either.
const MUCH_SLOWER: f64 = 8.0;
/// Bytes a second below which who has all is not asked while another who has all is much faster: the last of what it was asked for
/// would be waited for, and its link is one that bytes are dear on. Above, a single slow answer means nothing.
const THIN_RATE: f64 = 1e6;
/// Who needs so many times as long for what is left as one who has nothing to do, and a moment more, is relieved of it.
const RELIEVED: f64 = 4.0;
/// That moment: round trips, and what a rate of a moment ago says too much.
const MOMENT: Duration = REQUEST_TIME;
/// Of a blob so much at most comes for nothing since requests are broken off: this part of it, or as much as one request is for.
const LOST_PART: u64 = 100;
/// For how long who was relieved is not asked while another who is faster gets on.
const SPARED: Duration = Duration::from_secs(5);
/// How much work compressing is worth, as a level of zstd, on a link of at most so many bytes a second: one core does it ten
/// times as fast as the link carries them, or faster. Above the last it would be the bottleneck of slower machines.
const LEVELS: [(f64, u8); 2] = [(1e6, 9), (16e6, 3)];
/// The level as long as nothing is known of the link but that it is longer than this.
const FIRST_LEVEL: u8 = 3;
const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);
/// What is left with each request of the rate that an earlier one has shown: a single slow answer says little.
const REMEMBERED: f64 = 0.8;

/// How fast a request was answered, in bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Of the blob.
    pub(super) blob: f64,
    /// Over the link: fewer, if they were compressed.
    pub(super) link: f64,
}

/// What has come of a request and is not written, as the one who reads its answer says: it is lost when the request is broken off.
#[derive(Debug, Default)]
pub(super) struct Loose(AtomicU64);

impl Loose {
    /// So many bytes have come.
    pub(super) fn came(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many of them are written.
    pub(super) fn written(&self, bytes: usize) {
        self.0.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is under way.
#[derive(Debug)]
struct UnderWay {
    range: Range<u64>,
    block: u64,
    loose: Arc<Loose>,
}

/// Who may have a blob.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Its id.
    pub(crate) id: EndpointId,
    /// The connection with it.
    pub(crate) connection: Connection,
    /// Whether it is said to have all of it; who is fetching it itself is asked what it has.
    pub(crate) whole: bool,
    /// Keeps the connection from being let go.
    pub(crate) _in_use: Arc<()>,
}

/// The sources of a blob.
#[derive(Debug)]
pub(super) struct Sources<C> {
    all: BTreeMap<EndpointId, Source<C>>,
    /// This node, which shares the work with others.
    me: EndpointId,
    /// The blob's groups.
    count: u64,
    /// Whether nothing was left to ask of those who have all, when that was looked for last. Only time, and the end of a source,
    /// change it.
    exhausted: bool,
    /// Whether that is looked for anew in this turn.
    looks: bool,
    /// The number of the next request.
    number: u64,
    /// Bytes that had come of requests when they were broken off, and were of no use.
    lost: u64,
}

#[derive(Debug)]
struct Source<C> {
    connection: C,
    /// Which connection it is.
    key: usize,
    /// What it has; all of the blob, without it.
    parts: Option<Groups>,
    /// The size of block that suits the link.
    block: u64,
    /// Bytes to ask it for at once, at most.
    longest: u64,
    /// Whether what comes from it is held to a limit of this node.
    limited: bool,
    /// The requests to it that are under way, by their numbers.
    under_way: BTreeMap<u64, UnderWay>,
    /// Bytes a second, as the last request has shown.
    rate: Option<f64>,
    /// Bytes a second that its link has carried of late.
    link: Option<f64>,
    /// When it said that it had come to have more.
    gained: Option<Instant>,
    /// Whether it has said what it has, if only that it is nothing yet.
    has_spoken: bool,
    /// When it was asked first of what is under way, or last answered.
    heard: Instant,
    /// Since when something has been under way, and how many bytes of the blob were answered since.
    busy: (Instant, u64),
    /// Bytes a second that were answered while something was under way: steadier than the last request's.
    pace: Option<f64>,
    /// Until when it is spared, since requests to it were broken off and none was answered since.
    relieved: Option<Instant>,
}

impl<C> Source<C> {
    /// How many blocks to ask it for at once.
    fn blocks(&self) -> u64 {
        let bytes = self.rate.unwrap_or_default() * REQUEST_TIME.as_secs_f64();
        (bytes as u64 / self.block).clamp(1, BLOCKS_PER_REQUEST)
    }

    /// Whether it has sent nothing for long, though it was asked.
    fn stalls(&self) -> bool {
        !self.under_way.is_empty() && self.heard.elapsed() > SLOW
    }

    fn has_all(&self) -> bool {
        self.parts.as_ref().is_none_or(Groups::is_all)
    }

    /// Bytes that it was asked for and that are not here.
    fn left(&self, assembly: &Assembly) -> u64 {
        self.under_way.values().map(|request| assembly.missing(&request.range)).sum()
    }

    /// Bytes a second that come from it now: those of the last answer, or fewer if what has come of the next ones, and a block more,
    /// makes fewer.
    fn rate_now(&self, assembly: &Assembly) -> f64 {
        let come = self.under_way.values().map(|UnderWay { range, loose, .. }| {
            (range.end - range.start).saturating_sub(assembly.missing(range)) + loose.bytes()
        });
        let block = self.under_way.values().map(|request| request.block).max().unwrap_or_default();
        let seen = (come.sum::<u64>() + block) as f64 / self.heard.elapsed().as_secs_f64().max(1e-6);
        self.rate.map_or(seen, |rate| rate.min(seen))
    }

    fn is_spared(&self) -> bool {
        self.relieved.is_some_and(|until| Instant::now() < until)
    }
}

/// What to ask of whom.
#[derive(Debug)]
pub(super) struct Asking<C> {
    pub(super) source: EndpointId,
    pub(super) connection: C,
    /// Tells this request from others.
    pub(super) number: u64,
    pub(super) loose: Arc<Loose>,
    pub(super) taken: Taken,
    /// The size of its blocks in bytes.
    pub(super) block: u64,
    /// Bytes a second that its link has carried of late.
    pub(super) link: Option<f64>,
}

impl<C: Clone> Sources<C> {
    pub(super) fn new(count: u64, me: EndpointId) -> Self {
        Self { all: BTreeMap::new(), me, count, exhausted: false, looks: true, number: 0, lost: 0 }
    }

    /// One more source, or another connection with one. Says whether it is news.
    pub(super) fn add(&mut self, id: EndpointId, key: usize, connection: C, whole: bool) -> bool {
        if let Some(known) = self.all.get_mut(&id).filter(|known| known.key == key) {
            if whole {
                known.parts = None;
            }
            return false;
        }
        let parts = (!whole).then(|| Groups::none(self.count));
        let heard = Instant::now();
        self.all.insert(
            id,
            Source {
                connection,
                key,
                parts,
                block: FIRST_BLOCK_BYTES,
                longest: REQUEST_BYTES,
                limited: false,
                under_way: BTreeMap::new(),
                rate: None,
                link: None,
                has_spoken: false,
                gained: None,
                heard,
                busy: (heard, 0),
                pace: None,
                relieved: None,
            },
        );
        true
    }

    /// Asks a source no more over this connection.
    pub(super) fn remove(&mut self, id: &EndpointId, key: usize) -> bool {
        let known = self.all.get(id).is_some_and(|source| source.key == key);
        known && self.forget(id)
    }

    /// A source says that it has these groups, too. One that says so of more than it had left to say wastes our time, and is
    /// asked no more.
    pub(super) fn gained(&mut self, id: &EndpointId, key: usize, runs: Vec<Range<u64>>) {
        let Some(source) = self.all.get_mut(id).filter(|source| source.key == key) else { return };
        source.has_spoken = true;
        if !runs.is_empty() {
            source.gained = Some(Instant::now());
        }
        let Some(parts) = &mut source.parts else { return };
        let runs = runs.into_iter().map(|run| run.start.min(self.count)..run.end.min(self.count));
        let said = runs.clone().fold(0, |sum: u64, run| sum.saturating_add(run.end.saturating_sub(run.start)));
        if said > self.count - parts.len() {
            self.forget(id);
            return;
        }
        runs.for_each(|run| parts.insert(&run));
    }

    /// A source says no more what it has. One that has not all is of no use any longer.
    pub(super) fn silent(&mut self, id: &EndpointId, key: usize) {
        if self.all.get(id).is_some_and(|source| source.key == key && !source.has_all()) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: &EndpointId) -> bool {
        self.look_again();
        self.all.remove(id).is_some()
    }

    /// Time has passed: who was waited for may be waited for no more.
    pub(super) fn look_again(&mut self) {
        (self.exhausted, self.looks) = (false, true);
    }

    /// A request has been answered in full.
    pub(super) fn answered(&mut self, id: &EndpointId, key: usize, number: u64, rates: Rates) {
        let Some(source) = self.all.get_mut(id).filter(|source| source.key == key) else { return };
        // They share the link.
        let sharing = source.under_way.len() as f64;
        // Its end may have come when it was about to be broken off: what it says is of no use then.
        let Some(UnderWay { range, .. }) = source.under_way.remove(&number) else { return };
        let (rate, link) = (rates.blob * sharing, rates.link * sharing);
        source.link = Some(source.link.map_or(link, |before| link.max(before * REMEMBERED)));
        (source.block, source.rate, source.heard) = (block_for(rate), Some(rate), Instant::now());
        source.busy.1 += range.end - range.start;
        source.pace = Some(source.busy.1 as f64 / source.busy.0.elapsed().as_secs_f64().max(1e-6));
        source.relieved = None;
    }

    /// When there is nothing to ask for: the requests to break off, since what is missing of them would be here much earlier from
    /// one who has nothing to do. Those to the slowest source that has any to break off. Only what was found in this turn counts: who
    /// has nothing to do since the last one may have.
    pub(super) fn relieve(&mut self, assembly: &Assembly) -> Vec<u64> {
        if !std::mem::take(&mut self.looks) {
            return Vec::new();
        }
        let idle = |source: &&Source<C>| source.has_all() && source.under_way.is_empty() && self.is_useful(source);
        // What is held to a limit of this node says nothing of who sends it.
        let idle = self.all.values().filter(idle).filter(|source| !source.limited);
        let Some(best) = idle.filter_map(|source| source.pace).reduce(f64::max) else { return Vec::new() };
        // What those who fetch the same were asked for stays with them: else who has all would send it once more than need be.
        let asked = self.all.iter().filter(|(_, source)| source.has_all() && !source.limited);
        let slow = asked.filter_map(|(id, source)| {
            // A round trip says nothing yet.
            let left = Some(source.left(assembly) as f64).filter(|left| *left > 0.0 && source.heard.elapsed() >= MOMENT)?;
            let rate = source.rate_now(assembly);
            (left / rate > RELIEVED * left / best + MOMENT.as_secs_f64()).then_some((rate, *id))
        });
        let mut slow: Vec<_> = slow.collect();
        slow.sort_by(|one, other| one.0.total_cmp(&other.0));
        slow.into_iter().map(|(rate, id)| self.break_off(&id, rate)).find(|ended| !ended.is_empty()).unwrap_or_default()
    }

    /// Of the requests to a source, whose rate this is, those that may be broken off.
    fn break_off(&mut self, id: &EndpointId, rate: f64) -> Vec<u64> {
        let source = self.all.get_mut(id).expect("it is one of them");
        let mut requests: Vec<_> = source.under_way.iter().map(|(number, request)| (request.loose.bytes(), *number)).collect();
        requests.sort_unstable();
        let most = (self.count * GROUP_BYTES / LOST_PART).max(REQUEST_BYTES);
        let mut ended = Vec::new();
        for (loose, number) in requests {
            if self.lost + loose > most {
                break;
            }
            self.lost += loose;
            source.under_way.remove(&number);
            ended.push(number);
        }
        if !ended.is_empty() {
            source.relieved = Some(Instant::now() + SPARED);
            (source.rate, source.pace, source.block) = (Some(rate), Some(rate), block_for(rate));
        }
        ended
    }

    /// So many bytes a second may come from each source, if not as many as do.
    pub(super) fn hold_to(&mut self, limit: impl Fn(&EndpointId) -> Option<u64>) {
        for (id, source) in &mut self.all {
            let limit = limit(id);
            source.limited = limit.is_some();
            source.longest = limit.map_or(REQUEST_BYTES, |rate| block_for(rate as f64));
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one of them has all of the blob.
    pub(super) fn any_whole(&self) -> bool {
        self.all.values().any(Source::has_all)
    }

    /// One of those who have all of the blob, as is known or as they say.
    pub(super) fn who_has_all(&self) -> Option<EndpointId> {
        self.all.iter().find(|(_, source)| source.parts.as_ref().is_none_or(Groups::is_all)).map(|(id, _)| *id)
    }

    /// Whether somebody has yet to say what it has.
    pub(super) fn wait_for_word(&self) -> bool {
        self.all.values().any(|source| source.parts.is_some() && !source.has_spoken)
    }

    /// The next request to make, while there is one.
    pub(super) fn next(&mut self, assembly: &Assembly) -> Option<Asking<C>> {
        let givers = self.all.values().filter(|source| source.parts.as_ref().is_none_or(|parts| parts.len() > 0)).count();
        let groups = WINDOW_BYTES / GROUP_BYTES / (REQUESTS * givers.max(1)) as u64;
        let request = (1 << groups.max(1).ilog2()) * GROUP_BYTES;
        // The least busy first.
        let mut order: Vec<_> = self.all.iter().filter(|(_, source)| self.is_useful(source)).collect();
        order.sort_by_key(|(id, source)| (source.under_way.len(), **id));
        let ids: Vec<EndpointId> = order.into_iter().map(|(id, _)| *id).collect();
        for id in ids {
            let source = &self.all[&id];
            let request = request.min(source.longest);
            let (most, block) = ((source.block * source.blocks()).min(request), source.block.min(request));
            let shared = source.parts.is_none() && self.is_shared();
            if shared && self.exhausted {
                continue;
            }
            let Some(taken) = self.take(&id, assembly, most) else {
                self.exhausted |= shared;
                continue;
            };
            let source = self.all.get_mut(&id).expect("it is one of them");
            if source.under_way.is_empty() {
                source.heard = Instant::now();
                source.busy = (source.heard, 0);
            }
            let (number, loose, range) = (self.number, Arc::<Loose>::default(), taken.range());
            self.number += 1;
            source.under_way.insert(number, UnderWay { range, block, loose: Arc::clone(&loose) });
            let connection = source.connection.clone();
            return Some(Asking { source: id, connection, number, loose, taken, block, link: source.link });
        }
        None
    }

    /// Whether there is something to be had by asking a source for more now.
    fn is_useful(&self, source: &Source<C>) -> bool {
        let most = if self.is_trusted(source) { REQUESTS } else { 1 };
        source.under_way.len() < most && !self.is_dispensable(source)
    }

    /// Whether one was relieved of late and another who has all and is faster gets on; or whether one who has all is on a thin link, while another who
    /// has all is much faster and gets on.
    fn is_dispensable(&self, source: &Source<C>) -> bool {
        let gets_on = |other: &&Source<C>| other.has_all() && !other.stalls();
        if source.is_spared() && self.all.values().filter(gets_on).any(|other| other.pace > source.pace) {
            return true;
        }
        let Some(rate) = source.rate.filter(|rate| *rate < THIN_RATE && source.has_all()) else { return false };
        self.all.values().filter(gets_on).filter_map(|other| other.rate).any(|other| rate * MUCH_SLOWER < other)
    }

    /// Whether to ask a source for several parts at once: not for the first ones, while there is another that could turn out to be
    /// much faster, and not while it has answered nothing since it was relieved.
    fn is_trusted(&self, source: &Source<C>) -> bool {
        if source.relieved.is_some() {
            return false;
        }
        !source.has_all() || source.rate.is_some() || self.all.values().filter(|other| other.has_all()).count() == 1
    }

    /// Whether others fetch the same.
    fn is_shared(&self) -> bool {
        self.all.values().any(|source| source.parts.is_some())
    }

    fn take(&self, id: &EndpointId, assembly: &Assembly, most: u64) -> Option<Taken> {
        if !self.is_shared() {
            return assembly.take(most);
        }
        let source = &self.all[id];
        let fastest = self.all.values().filter_map(|source| source.rate).fold(0.0, f64::max);
        let waited_for = |other: &Source<C>| !other.stalls() && other.rate.is_none_or(|rate| rate * MUCH_SLOWER >= fastest);
        let fellows = Fellows(self.all.iter().filter(|(_, other)| other.parts.is_some() && waited_for(other)).collect());
        let Some(parts) = &source.parts else { return self.take_unshared(&fellows, assembly, most) };
        let mut compared = 0;
        assembly.take_best(most, |free| {
            let first = free.clone().find(|group| parts.contains(*group)).filter(|_| compared < MAX_COMPARED)?;
            let end = (first..free.end).find(|group| !parts.contains(*group)).unwrap_or(free.end);
            compared += 1;
            Some(((fellows.holding(first), mix(number(self.me.as_bytes()) ^ (first / UNIT_GROUPS)), first), first..end))
        })
    }
}

impl<C> Sources<C> {
    /// Takes what no fellow has: one's own share first, from its beginning; then that of others, whom each helps in an order of
    /// its own, from their ends. Who is nearly done and gets on needs no help.
    fn take_unshared(&self, fellows: &Fellows<'_, C>, assembly: &Assembly, most: u64) -> Option<Taken> {
        let is_mine = |groups: &Range<u64>| fellows.owner(groups.start, &self.me) == self.me;
        let own = assembly.take_first(most, |free| is_mine(&free).then(|| fellows.unshared(free)).flatten());
        if own.is_some() {
            return own;
        }
        let mut left: BTreeMap<EndpointId, u64> = BTreeMap::new();
        let _ = assembly.take_best(most, |free| {
            let groups = fellows.unshared(free)?;
            *left.entry(fellows.owner(groups.start, &self.me)).or_default() += groups.end - groups.start;
            None::<((), _)>
        });
        left.retain(|owner, groups| *groups > HELPED_GROUPS || !fellows.gets_on(owner));
        assembly.take_best(most, |free| {
            let groups = fellows.unshared(free)?;
            let owner = fellows.owner(groups.start, &self.me);
            let order = mix(number(owner.as_bytes()) ^ mix(number(self.me.as_bytes())));
            left.contains_key(&owner).then_some(((order, u64::MAX - groups.start), groups))
        })
    }
}

/// Those who fetch the same.
struct Fellows<'a, C>(Vec<(&'a EndpointId, &'a Source<C>)>);

impl<C> Fellows<'_, C> {
    /// How many of them have a group.
    fn holding(&self, group: u64) -> usize {
        self.0.iter().filter(|(_, fellow)| fellow.parts.as_ref().is_some_and(|parts| parts.contains(group))).count()
    }

    /// The first of these groups that none of them has.
    fn unshared(&self, groups: Range<u64>) -> Option<Range<u64>> {
        let first = groups.clone().find(|group| self.holding(*group) == 0)?;
        let end = (first..groups.end).find(|group| self.holding(*group) > 0).unwrap_or(groups.end);
        Some(first..end)
    }

    /// Who is to ask first for the unit that a group is in (rendezvous hashing).
    fn owner(&self, group: u64, me: &EndpointId) -> EndpointId {
        let unit = mix(group / UNIT_GROUPS);
        let weight = |id: &EndpointId| (mix(number(id.as_bytes()) ^ unit), *id);
        self.0.iter().map(|(id, _)| weight(id)).fold(weight(me), Ord::max).1
    }

    /// Whether one of them has come to have more of late.
    fn gets_on(&self, id: &EndpointId) -> bool {
        let fellow = self.0.iter().find(|(fellow, _)| *fellow == id);
        fellow.and_then(|(_, fellow)| fellow.gained).is_some_and(|gained| gained.elapsed() < SLOW)
    }
}

/// How much work compressing is worth on a link that has carried `rate` bytes a second, if that is known, and whose round trip
/// takes so long; nothing where it is not worth any.
pub(super) fn compression_for(rate: Option<f64>, round_trip: Option<Duration>) -> Option<u8> {
    match rate {
        Some(rate) => LEVELS.iter().find(|(most, _)| rate <= *most).map(|(_, level)| *level),
        None => round_trip.filter(|round_trip| *round_trip > LONG_ROUND_TRIP).map(|_| FIRST_LEVEL),
    }
}

/// The block size that takes about [`BLOCK_TIME`] at a rate in bytes a second: a power of two of groups.
fn block_for(rate: f64) -> u64 {
    let groups = (rate * BLOCK_TIME.as_secs_f64() / GROUP_BYTES as f64).clamp(1.0, (REQUEST_BYTES / GROUP_BYTES) as f64) as u64;
    (1 << groups.ilog2()) * GROUP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_rate_of_the_link() {
        assert_eq!(block_for(1e9), REQUEST_BYTES);
        assert_eq!(block_for(32_000.0), GROUP_BYTES);
        assert_eq!(block_for(1024.0 * 1024.0), 256 * 1024);
        assert_eq!(block_for(0.0), GROUP_BYTES);
    }

    #[test]
    fn the_slower_a_link_the_more_compression_is_worth_and_on_a_fast_one_none() {
        let levels = [1e9, 20e6, 6e6, 250e3, 0.0].map(|rate| compression_for(Some(rate), None));
        assert_eq!(levels, [None, None, Some(3), Some(9), Some(9)]);
        assert_eq!(compression_for(None, Some(Duration::from_millis(600))), Some(FIRST_LEVEL));
        assert_eq!(compression_for(None, Some(Duration::from_micros(200))), None);
    }
}
