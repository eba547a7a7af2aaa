//! What is to be done, as reconcile tells the driver.

use std::collections::BTreeSet;

use crate::document::Section;
use crate::model::{BlobHash, DistributionId, DistributionState, EndpointId, Priority, TargetRecord, Timestamp};

/// Blobs up to this size, in bytes, may be fetched several at a time.
pub const SMALL_BYTES: u64 = 16 * 1024;
/// Most blobs of one [`Action::FetchSmall`].
pub const MAX_SMALL_BLOBS: usize = 256;
/// Most bytes of them.
pub const MAX_SMALL_FETCH_BYTES: u64 = 1024 * 1024;

/// One fetch, in the order in which this life of the node began them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// Why the blobs of a distribution are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinReason {
    /// This node sent it, and others may still come for it.
    Sent,
    /// It is meant for this node, and not everybody has it.
    Target,
    /// It is carried for others.
    Carry,
}

/// What is to be done. Actions are performed in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch a blob from a connected peer, continuing what an earlier fetch left.
    Fetch {
        /// What to call it.
        fetch: FetchId,
        /// What to fetch.
        blob: BlobHash,
        /// Its size in bytes, as the manifest claims it.
        size: u64,
        /// From whom.
        source: EndpointId,
        /// Whether the source is known to have all of it. Else it may have parts.
        whole: bool,
        /// How urgent it is.
        priority: Priority,
        /// On behalf of what: the source checks that this entitles us.
        distribution: DistributionId,
    },
    /// Fetch several small blobs from a connected peer with one request. They count as one fetch, and each has an end of its own.
    FetchSmall {
        /// What to call it.
        fetch: FetchId,
        /// What to fetch, with the sizes in bytes that the manifest claims: at least two, none over [`SMALL_BYTES`].
        blobs: Vec<(BlobHash, u64)>,
        /// From whom.
        source: EndpointId,
        /// Whether the source is known to have all of them. Else it may have some.
        whole: bool,
        /// How urgent they are.
        priority: Priority,
        /// On behalf of what: the source checks that this entitles us.
        distribution: DistributionId,
    },
    /// Stop a fetch. What has come is kept for the next one.
    CancelFetch {
        /// Which.
        fetch: FetchId,
    },
    /// Connect to a peer, by whatever addresses are known.
    Dial {
        /// Whom.
        peer: EndpointId,
    },
    /// Put files into the inbox, all at once: their blobs are here. At most one delivery of a distribution is under way.
    Deliver {
        /// Of what.
        distribution: DistributionId,
        /// Which files, by their index.
        files: Vec<u32>,
    },
    /// Write this node's record. A receipt among them is written only after the delivery that it is about has ended.
    Record {
        /// Into which document.
        distribution: DistributionId,
        /// Into which map of it.
        section: Section,
        /// The record.
        record: TargetRecord,
    },
    /// Write the closed set of targets of a distribution that this node sent.
    WriteRoster {
        /// Into which document.
        distribution: DistributionId,
        /// The set; never empty.
        roster: BTreeSet<EndpointId>,
    },
    /// Keep the blobs of a distribution, its list of files included, also while they are not whole. Replaces an earlier pin.
    Pin {
        /// Of what.
        distribution: DistributionId,
        /// Why.
        reason: PinReason,
    },
    /// The blobs of a distribution need not be kept any longer.
    Unpin {
        /// Of what.
        distribution: DistributionId,
    },
    /// Spread the hint that this node has every blob of a distribution.
    Announce {
        /// Of what.
        distribution: DistributionId,
    },
    /// Send [`Event::Timer`](super::Event::Timer) at this time or soon after it. Replaces what was armed before.
    ArmTimer(Timestamp),
    /// Tell those who watch that a distribution as a whole stands elsewhere now.
    Notify {
        /// Which.
        distribution: DistributionId,
        /// Where.
        state: DistributionState,
    },
}
