//! The fetches under way, what of the budget they take, and which of them give way to what is more urgent.
//!
//! Fetches from those who have parts at most are none of the budget's: whether anything comes of one is not known when it begins,
//! and it may wait for its source. So there are few of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Budget, FetchId};
use crate::model::{BlobHash, DistributionId, EndpointId, Priority, Timestamp};

/// Fetches from those who have parts at most.
const MAX_PARTS: usize = 4;

/// The fetches under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    next: u64,
    all: BTreeMap<FetchId, Flight>,
    by_blob: BTreeMap<BlobHash, FetchId>,
    by_urgency: BTreeSet<(Priority, Reverse<FetchId>)>,
    /// Those from sources that have parts at most.
    parts: BTreeSet<(Priority, Reverse<FetchId>)>,
    by_source: BTreeMap<EndpointId, usize>,
    /// The sum of the sizes of what the budget is spent on.
    bytes: u64,
    /// The one that is none of the budget's: nothing more urgent takes its place.
    beside: Option<FetchId>,
}

/// A fetch: of one blob, or of several small ones.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    /// The blobs that have not come yet, each with its size.
    pub(super) blobs: BTreeMap<BlobHash, u64>,
    pub(super) source: EndpointId,
    pub(super) priority: Priority,
    pub(super) distribution: DistributionId,
    pub(super) place: Place,
    /// Whether something came of it.
    pub(super) came: bool,
    /// Whether its source, which may have parts, has said since it began that it has more.
    pub(super) has_news: bool,
    pub(super) begun_at: Timestamp,
    /// When something came last, as far as that is told.
    pub(super) latest: Timestamp,
}

/// What a fetch is begun as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// One of the budget's.
    Budget,
    /// The one beside it.
    Beside,
    /// From a source that has parts at most.
    Part,
}

impl Flight {
    fn bytes(&self) -> u64 {
        self.blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size))
    }
}

impl Flights {
    /// Begins a fetch.
    pub(super) fn begin(&mut self, flight: Flight) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        self.by_blob.extend(flight.blobs.keys().map(|blob| (*blob, id)));
        *self.by_source.entry(flight.source).or_default() += 1;
        match flight.place {
            Place::Budget => _ = self.by_urgency.insert((flight.priority, Reverse(id))),
            Place::Part => _ = self.parts.insert((flight.priority, Reverse(id))),
            Place::Beside => self.beside = Some(id),
        }
        self.all.insert(id, flight);
        self.weigh();
        id
    }

    pub(super) fn end(&mut self, id: FetchId) -> Option<Flight> {
        let flight = self.all.remove(&id)?;
        flight.blobs.keys().for_each(|blob| _ = self.by_blob.remove(blob));
        self.by_urgency.remove(&(flight.priority, Reverse(id)));
        self.parts.remove(&(flight.priority, Reverse(id)));
        self.beside = self.beside.filter(|beside| *beside != id);
        if let Some(count) = self.by_source.get_mut(&flight.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&flight.source);
            }
        }
        self.weigh();
        Some(flight)
    }

    /// Takes out of a fetch those of the blobs that it is still for, and ends it when none is left.
    pub(super) fn land(&mut self, id: FetchId, mut blobs: BTreeSet<BlobHash>) -> Option<Flight> {
        let flight = self.all.get_mut(&id)?;
        blobs.retain(|blob| flight.blobs.contains_key(blob));
        if blobs.len() == flight.blobs.len() {
            return self.end(id);
        }
        let (landed, left) = std::mem::take(&mut flight.blobs).into_iter().partition(|(blob, _)| blobs.contains(blob));
        flight.blobs = left;
        let landed = Flight { blobs: landed, ..*flight };
        blobs.iter().for_each(|blob| _ = self.by_blob.remove(blob));
        self.weigh();
        Some(landed)
    }

    fn weigh(&mut self) {
        let of_the_budget = self.all.values().filter(|flight| flight.place == Place::Budget);
        self.bytes = of_the_budget.fold(0, |sum: u64, flight| sum.saturating_add(flight.bytes()));
    }

    /// Another distribution wants the same blob, more urgently perhaps.
    pub(super) fn raise(&mut self, id: FetchId, priority: Priority) {
        let Some(flight) = self.all.get_mut(&id).filter(|flight| flight.priority < priority) else { return };
        for ranked in [&mut self.by_urgency, &mut self.parts] {
            if ranked.remove(&(flight.priority, Reverse(id))) {
                ranked.insert((priority, Reverse(id)));
            }
        }
        flight.priority = priority;
    }

    pub(super) fn of_blob(&self, blob: &BlobHash) -> Option<FetchId> {
        self.by_blob.get(blob).copied()
    }

    pub(super) fn get(&self, id: FetchId) -> Option<&Flight> {
        self.all.get(&id)
    }

    /// Something came of a fetch.
    pub(super) fn came(&mut self, id: FetchId, now: Timestamp) -> Option<&Flight> {
        let flight = self.all.get_mut(&id)?;
        (flight.came, flight.latest) = (true, now);
        Some(flight)
    }

    /// A source has more of a distribution than when it was asked.
    pub(super) fn note_news(&mut self, distribution: DistributionId, source: &EndpointId) {
        for (_, Reverse(id)) in &self.parts {
            let flight = self.all.get_mut(id).filter(|flight| (flight.distribution, flight.source) == (distribution, *source));
            if let Some(flight) = flight {
                flight.has_news = true;
            }
        }
    }

    /// The blobs that are asked of those who have parts at most, as long as nothing comes of that.
    pub(super) fn doubtful(&self) -> impl Iterator<Item = &BlobHash> {
        let flights = self.parts.iter().filter_map(|(_, Reverse(id))| self.all.get(id)).filter(|flight| !flight.came);
        flights.flat_map(|flight| flight.blobs.keys())
    }

    /// How many more may begin that are from sources that have parts at most.
    pub(super) fn free_for_parts(&self) -> usize {
        MAX_PARTS.saturating_sub(self.parts.len())
    }

    /// The least urgent of those, if it is less urgent than this.
    pub(super) fn least_urgent_part(&self, priority: Priority) -> Option<FetchId> {
        self.parts.first().filter(|(least, _)| *least < priority).map(|(_, Reverse(id))| *id)
    }

    /// Of those that are no more urgent than this the first that will have been quiet for so long, or begun so long ago, and when.
    pub(super) fn longest(&self, priority: Priority, quiet: Duration, turn: Duration) -> Option<(Timestamp, FetchId)> {
        let parts = self.parts.iter().filter(|(other, _)| *other <= priority);
        let ends = parts.filter_map(|(_, Reverse(id))| {
            let flight = self.all.get(id)?;
            Some((flight.latest.plus(quiet).min(flight.begun_at.plus(turn)), *id))
        });
        ends.min()
    }

    pub(super) fn clock_went_back(&mut self, now: Timestamp) {
        for flight in self.all.values_mut() {
            (flight.begun_at, flight.latest) = (flight.begun_at.min(now), flight.latest.min(now));
        }
    }

    pub(super) fn ids(&self) -> Vec<FetchId> {
        self.all.keys().copied().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The sum of the sizes of what is under way.
    pub(super) fn all_bytes(&self) -> u64 {
        self.all.values().fold(0, |sum: u64, flight| sum.saturating_add(flight.bytes()))
    }

    /// The sum of the sizes of what the budget is spent on.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The fetch beside the budget.
    pub(super) fn beside(&self) -> Option<FetchId> {
        self.beside
    }

    /// Whether some of the budget is spent on what is of this priority, or less urgent.
    pub(super) fn serve(&self, priority: Priority) -> bool {
        self.by_urgency.first().is_some_and(|(least, _)| *least <= priority)
    }

    pub(super) fn from(&self, source: &EndpointId) -> usize {
        self.by_source.get(source).copied().unwrap_or_default()
    }

    /// Which less urgent fetches to cancel so that `size` more bytes fit: none when there is room, `None` when it cannot be.
    pub(super) fn room(&self, size: u64, priority: Priority, budget: Budget) -> Option<Vec<FetchId>> {
        let (mut count, mut bytes) = (self.by_urgency.len(), self.bytes);
        let mut cancel = Vec::new();
        let mut lesser = self.by_urgency.iter().take_while(|(other, _)| *other < priority);
        while count >= budget.fetches.max(1) || (count > 0 && bytes.saturating_add(size) > budget.bytes) {
            let (_, Reverse(id)) = lesser.next()?;
            count -= 1;
            bytes = bytes.saturating_sub(self.all.get(id).map_or(0, Flight::bytes));
            cancel.push(*id);
        }
        Some(cancel)
    }
}
