//! What reconcile remembers between two events. Nothing in it is durable: an empty memory and
//! [`Event::Started`](super::Event::Started) are enough to go on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PinReason;
use super::aging::Aging;
use super::decide::FileSource;
use super::flights::Flights;
use super::parts::Seeking;
use super::peers::{Backoff, Peers};
use crate::document::Distribution;
use crate::model::{BlobHash, DistributionId, DistributionState, EndpointId, Priority, TargetState, Timestamp};

/// What reconcile remembers. Belongs to one life of one node.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub(super) stopped: bool,
    /// The latest event's time: a clock that went back is noticed by it.
    pub(super) latest: Timestamp,
    /// Whether this node has reconciled with another in this life.
    pub(super) reconciled: bool,
    pub(super) known: BTreeMap<DistributionId, Known>,
    /// Those of them that were found not to be completed: few, where there are many.
    pub(super) open: BTreeSet<DistributionId>,
    pub(super) jobs: BTreeMap<DistributionId, Job>,
    /// To be looked at before anything else is begun.
    pub(super) dirty: BTreeSet<DistributionId>,
    pub(super) timers: BTreeSet<(Timestamp, DistributionId)>,
    pub(super) armed: Option<Timestamp>,
    /// Jobs that may be able to begin a fetch, the most urgent first.
    pub(super) ready: BTreeSet<Rank>,
    /// Jobs that wait for their turn to ask those who may have parts.
    pub(super) seeking: Seeking,
    /// Jobs that wait for others to give space of a quota back.
    pub(super) over_quota: BTreeSet<DistributionId>,
    /// Which jobs miss a blob.
    pub(super) wanted: BTreeMap<BlobHash, BTreeSet<DistributionId>>,
    pub(super) flights: Flights,
    /// Which priorities get nothing of the budget though something of theirs waits.
    pub(super) aging: Aging,
    /// Which sources to leave out for a blob.
    pub(super) avoid: BTreeMap<(BlobHash, EndpointId), Avoid>,
    pub(super) peers: Peers,
    /// Bytes held by reason, against the quotas.
    pub(super) accounts: BTreeMap<PinReason, u64>,
}

/// What is remembered of each distribution, idle ones included.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) wake: Option<Timestamp>,
    pub(super) state: Option<DistributionState>,
    /// Whether its blobs are to be here once more, though all was done: to be delivered again, or since some were lost.
    pub(super) again: bool,
    /// Blobs that a client of the registry waits for.
    pub(super) asked: BTreeSet<BlobHash>,
    pub(super) account: Option<(PinReason, u64)>,
}

/// The order in which jobs get what the budget allows: urgency, then age.
pub(super) type Rank = (Reverse<Priority>, Timestamp, DistributionId);

/// A source to leave out for a blob.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Avoid {
    pub(super) backoff: Backoff,
    /// It served damaged bytes: a new connection does not make it better.
    pub(super) corrupt: bool,
}

/// A distribution that something is to be done about here.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) rank: Rank,
    pub(super) distribution: Arc<Distribution>,
    pub(super) work: Work,
    /// Who said that it has everything, if not in the document.
    pub(super) hints: BTreeSet<EndpointId>,
    /// Whom to look at this job for when they come or go.
    pub(super) interests: BTreeSet<EndpointId>,
    /// Whom it needs a connection to.
    pub(super) demands: BTreeSet<EndpointId>,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    /// Sent from here: a roster is to be written, targets are to be reached.
    Sending,
    /// Not meant for this node; others may need it carried.
    Watching(BTreeMap<EndpointId, Seen>),
    /// To be fetched: as a target, or to carry it.
    Fetching(Box<Fetching>),
}

/// What was seen of a target, and since when it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: Option<TargetState>,
    pub(super) since: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct Fetching {
    /// Why it is kept; nothing when a client of the registry asked for some of it, which makes a cache of it.
    pub(super) reason: Option<PinReason>,
    pub(super) files: Option<FileSource>,
    /// The blobs that are not here.
    pub(super) missing: BTreeMap<BlobHash, Missing>,
    /// Those of them to be begun, in the order of the files.
    pub(super) todo: BTreeSet<(u32, BlobHash)>,
    /// Those of them that no connected source can give before a time.
    pub(super) stuck: BTreeSet<(Timestamp, u32, BlobHash)>,
    /// Verified bytes that are here.
    pub(super) bytes: u64,
    pub(super) since: Timestamp,
    /// Whether it is no longer to be fetched, and only the end of a delivery is waited for.
    pub(super) halted: bool,
    /// Whether the quota has room for it.
    pub(super) admitted: bool,
    /// Whether a byte may have come in this life.
    pub(super) begun: bool,
    /// Since when no source is connected.
    pub(super) starved: Option<Timestamp>,
    /// Until when it rests because the store was full.
    pub(super) no_space: Option<Timestamp>,
    /// Whether the store was full, and no blob has come since.
    pub(super) full: bool,
    /// Sources that did not serve this distribution.
    pub(super) refused: BTreeMap<EndpointId, Backoff>,
    /// Those of them whose link is metered.
    pub(super) metered: BTreeSet<EndpointId>,
    /// Those who may have parts, and had nothing more to give when they were asked last.
    pub(super) drained: BTreeSet<EndpointId>,
    /// Those of the others who have said since then that they have more.
    pub(super) said: BTreeSet<EndpointId>,
    pub(super) delivery: Delivery,
    /// This node's record, as it was written last.
    pub(super) recorded: Option<(TargetState, Option<String>)>,
    pub(super) announced: bool,
}

/// A blob that is not here.
#[derive(Debug, Clone)]
pub(super) struct Missing {
    pub(super) size: u64,
    /// The files that consist of it; none for the list of files.
    pub(super) files: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    /// Files whose blobs are here.
    pub(super) ready: BTreeSet<u32>,
    /// Files that the inbox could not take; they wait for `retry_at`, and those that come meanwhile do not wait for them.
    pub(super) postponed: BTreeSet<u32>,
    pub(super) under_way: BTreeSet<u32>,
    pub(super) done: BTreeSet<u32>,
    pub(super) superseded: usize,
    /// Files that were to go and stay.
    pub(super) kept: usize,
    /// Files that only a person can help.
    pub(super) failed: BTreeMap<u32, String>,
    pub(super) retry_at: Option<Timestamp>,
    /// Whether it is room that one of them waits for.
    pub(super) for_room: bool,
    pub(super) error: Option<String>,
}

impl Memory {
    /// The job of this priority that comes first.
    pub(super) fn first_ready(&self, priority: Priority) -> Option<Rank> {
        let from = (Reverse(priority), Timestamp::default(), DistributionId::from_bytes([0; 32]));
        self.ready.range(from..).next().filter(|(Reverse(first), ..)| *first == priority).copied()
    }

    /// The fetches under way.
    #[must_use]
    pub fn fetches_in_flight(&self) -> usize {
        self.flights.count()
    }

    /// How many distributions were found in which state when they were looked at last, every state among them.
    #[must_use]
    pub fn states(&self) -> BTreeMap<DistributionState, u64> {
        let mut states: BTreeMap<_, _> = DistributionState::ALL.into_iter().map(|state| (state, 0)).collect();
        for state in self.known.values().filter_map(|known| known.state) {
            *states.entry(state).or_default() += 1;
        }
        states
    }

    /// The sum of the sizes of the blobs being fetched, in bytes.
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.flights.all_bytes()
    }
}
