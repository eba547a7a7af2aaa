//! The fetches under way, what of the budget they take, and which of them give way to what is more urgent.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Budget, FetchId};
use crate::model::{BlobHash, DistributionId, EndpointId, Priority};

/// The fetches under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    next: u64,
    all: BTreeMap<FetchId, Flight>,
    by_blob: BTreeMap<BlobHash, FetchId>,
    by_urgency: BTreeSet<(Priority, Reverse<FetchId>)>,
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
}

impl Flight {
    fn bytes(&self) -> u64 {
        self.blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size))
    }
}

impl Flights {
    /// Begins a fetch, of the budget or beside it.
    pub(super) fn begin(&mut self, flight: Flight, beside: bool) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        self.by_blob.extend(flight.blobs.keys().map(|blob| (*blob, id)));
        *self.by_source.entry(flight.source).or_default() += 1;
        if beside {
            self.beside = Some(id);
        } else {
            self.by_urgency.insert((flight.priority, Reverse(id)));
            self.bytes = self.bytes.saturating_add(flight.bytes());
        }
        self.all.insert(id, flight);
        id
    }

    pub(super) fn end(&mut self, id: FetchId) -> Option<Flight> {
        let flight = self.all.remove(&id)?;
        flight.blobs.keys().for_each(|blob| _ = self.by_blob.remove(blob));
        self.by_urgency.remove(&(flight.priority, Reverse(id)));
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
        let Flight { source, priority, distribution, .. } = *flight;
        let landed = Flight { blobs: landed, source, priority, distribution };
        blobs.iter().for_each(|blob| _ = self.by_blob.remove(blob));
        self.weigh();
        Some(landed)
    }

    fn weigh(&mut self) {
        let beside = self.beside.and_then(|id| self.all.get(&id)).map_or(0, Flight::bytes);
        self.bytes = self.all_bytes().saturating_sub(beside);
    }

    /// Another distribution wants the same blob, more urgently perhaps.
    pub(super) fn raise(&mut self, id: FetchId, priority: Priority) {
        let Some(flight) = self.all.get_mut(&id).filter(|flight| flight.priority < priority) else { return };
        let of_the_budget = self.by_urgency.remove(&(flight.priority, Reverse(id)));
        flight.priority = priority;
        if of_the_budget {
            self.by_urgency.insert((priority, Reverse(id)));
        }
    }

    pub(super) fn of_blob(&self, blob: &BlobHash) -> Option<FetchId> {
        self.by_blob.get(blob).copied()
    }

    pub(super) fn get(&self, id: FetchId) -> Option<&Flight> {
        self.all.get(&id)
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
