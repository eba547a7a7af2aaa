//! Asking those who may have parts, where nobody who has all can be asked. Whether anything comes of that is not known before, and it
//! may wait for its source, so that few ask at once, by turns; and who had nothing is not asked again without a reason.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pass::Pass;
use super::sources::may_have_parts;
use super::{FetchId, memory::Work};
use crate::model::{DistributionId, EndpointId, Priority, Timestamp};

/// While others wait, a fetch of which nothing came for so long gives up its place: over a thin link the first that counts takes its
/// time, and a source that has nothing is left before...
const QUIET: Duration = Duration::from_secs(60);
/// ...and so does one that has had it for this long.
const TURN: Duration = Duration::from_secs(120);
/// Distributions for which a peer may be asked in vain. After that it has to say that it has something, or to be met anew.
const MAX_IN_VAIN: u32 = 16;

/// Jobs that can only ask those who may have parts, and wait for others to have asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Seeking {
    /// The most urgent first, then who waits longest.
    order: BTreeSet<(Reverse<Priority>, u64, DistributionId)>,
    /// Where each is in it, and since when.
    places: BTreeMap<DistributionId, (Reverse<Priority>, u64, Timestamp)>,
    next: u64,
    /// For how many distributions who was asked in vain.
    in_vain: BTreeMap<EndpointId, u32>,
}

impl Seeking {
    fn join(&mut self, id: DistributionId, priority: Priority, now: Timestamp) {
        if !self.places.contains_key(&id) {
            self.next += 1;
            self.places.insert(id, (Reverse(priority), self.next, now));
            self.order.insert((Reverse(priority), self.next, id));
        }
    }

    pub(super) fn leave(&mut self, id: &DistributionId) {
        if let Some((priority, place, _)) = self.places.remove(id) {
            self.order.remove(&(priority, place, *id));
        }
    }

    fn pop(&mut self) -> Option<DistributionId> {
        let (.., id) = self.order.pop_first()?;
        self.places.remove(&id);
        Some(id)
    }

    /// The most urgent that waits.
    fn priority(&self) -> Option<Priority> {
        self.order.first().map(|(Reverse(priority), ..)| *priority)
    }

    pub(super) fn clock_went_back(&mut self, now: Timestamp) {
        self.places.values_mut().for_each(|(.., since)| *since = (*since).min(now));
    }

    /// Whether a peer was asked in vain so often that nobody asks it who does not know better.
    pub(super) fn is_in_vain(&self, peer: &EndpointId) -> bool {
        self.in_vain.get(peer).is_some_and(|times| *times >= MAX_IN_VAIN)
    }

    /// A peer gives something, or was met anew, or is gone.
    pub(super) fn forget(&mut self, peer: &EndpointId) {
        self.in_vain.remove(peer);
    }
}

impl Pass<'_> {
    /// Makes room for those who wait where others have had a place for long. These wait behind them.
    pub(super) fn end_turns(&mut self) {
        // Not for those who have only just begun to wait: each event is done with once.
        let wait = self.memory.seeking.places.values().filter(|(.., since)| *since < self.now).count();
        while self.memory.flights.free_for_parts() < wait
            && let Some(priority) = self.memory.seeking.priority()
            && let Some((_, fetch)) = self.memory.flights.longest(priority, QUIET, TURN).filter(|(until, _)| *until <= self.now)
        {
            self.put_off(fetch);
        }
    }

    /// Lets those who wait have the places that are free; whether there are some.
    pub(super) fn take_turns(&mut self) -> bool {
        let turns: Vec<_> = (0..self.memory.flights.free_for_parts()).map_while(|_| self.memory.seeking.pop()).collect();
        self.memory.ready.extend(turns.iter().filter_map(|id| self.memory.jobs.get(id).map(|job| job.rank)));
        self.turns.extend(&turns);
        !turns.is_empty()
    }

    /// When somebody has had a place for long for which others wait.
    pub(super) fn turns_due(&self) -> Option<Timestamp> {
        let priority = self.memory.seeking.priority()?;
        let (until, _) = self.memory.flights.longest(priority, QUIET, TURN)?;
        Some(until.max(self.now.plus(Duration::from_millis(1))))
    }

    /// Takes a place for a job, from what is less urgent if need be. If there is none, the job waits for one.
    pub(super) fn takes_place(&mut self, id: DistributionId, priority: Priority) -> bool {
        let free = self.memory.flights.free_for_parts();
        if free == 0 {
            if let Some(fetch) = self.memory.flights.least_urgent_part(priority) {
                self.put_off(fetch);
                return true;
            }
        } else {
            let is_first = free > self.turns.len() && self.memory.seeking.priority().is_none_or(|first| first < priority);
            if self.turns.remove(&id) || is_first {
                return true;
            }
        }
        self.memory.seeking.join(id, priority, self.now);
        false
    }

    /// A source had nothing. It is asked again when it says that it has more, or is met anew.
    pub(super) fn gave_nothing(&mut self, id: DistributionId, source: EndpointId) {
        *self.memory.seeking.in_vain.entry(source).or_default() += 1;
        self.with_fetching(id, |fetching| {
            fetching.said.remove(&source);
            fetching.drained.insert(source);
        });
    }

    /// Something came of a fetch from a source that may have parts.
    pub(super) fn part_came(&mut self, fetch: FetchId) {
        let Some(flight) = self.memory.flights.came(fetch, self.now) else { return };
        let (id, source) = (flight.distribution, flight.source);
        self.memory.seeking.forget(&source);
        self.with_fetching(id, |fetching| {
            fetching.accept(&source);
            fetching.begun = true;
        });
        self.tend(id);
    }

    /// A peer has more of a distribution than before, and may have parts that are missing here.
    pub(super) fn getting(&mut self, id: DistributionId, peer: &EndpointId) {
        let Some(job) = self.memory.jobs.get_mut(&id).filter(|_| self.memory.peers.is_up(peer)) else { return };
        if !may_have_parts(self.view, job, peer) {
            return;
        }
        let Work::Fetching(fetching) = &mut job.work else { return };
        self.memory.flights.note_news(id, peer);
        fetching.said.insert(*peer);
        let was_drained = fetching.drained.remove(peer);
        self.memory.ready.insert(job.rank);
        if was_drained {
            self.forgive(id, peer);
        }
    }

    /// A peer was met anew: whoever may have parts from it asks. What it had nothing of when it was asked it is not asked for again
    /// unless it was away.
    pub(super) fn seek_parts(&mut self, peer: &EndpointId, was_away: bool) {
        self.memory.seeking.forget(peer);
        let mut may = Vec::new();
        for (id, job) in &mut self.memory.jobs {
            let is_open = matches!(&job.work, Work::Fetching(fetching) if !fetching.halted && !fetching.is_whole());
            if is_open && may_have_parts(self.view, job, peer) {
                self.memory.ready.insert(job.rank);
                may.push(*id);
            }
        }
        if was_away {
            may.iter().for_each(|id| self.forgive(*id, peer));
        }
    }
}
