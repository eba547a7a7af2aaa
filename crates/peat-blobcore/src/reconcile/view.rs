//! What reconcile may look at: the replicated documents and registers and what is stored here, read-only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::PinReason;
use crate::document::Distribution;
use crate::model::{BlobHash, DistributionId, EndpointId, FileEntry, Labels};

/// A member as its registers describe it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The name that counts: the certificate's, when there is one.
    pub name: String,
    /// The labels that count: the certificate's, when there is one.
    pub labels: Labels,
    /// The names of the registries that it asks on behalf of others.
    pub upstreams: Vec<String>,
    /// It is gone for good: rosters leave it out and nobody dials it.
    pub retired: bool,
    /// It was expelled: nothing is fetched from it or meant for it.
    pub revoked: bool,
}

/// How far away a connected node is, by the round trip time of its link: a rough class, so that the load still spreads among
/// nodes that are about as far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Distance {
    /// At the same site: a round trip of less than 15 ms.
    #[default]
    Near,
    /// Over land: less than 250 ms.
    Wide,
    /// Over a satellite or the like; also one whose link was let go, as those of dear links are.
    Far,
}

impl Distance {
    /// That of a link, whose round trip time may not be known.
    #[must_use]
    pub fn of(round_trip: Option<Duration>) -> Self {
        match round_trip {
            Some(time) if time < Duration::from_millis(15) => Self::Near,
            Some(time) if time < Duration::from_millis(250) => Self::Wide,
            Some(_) | None => Self::Far,
        }
    }
}

/// The state of the world as this node knows it. A view is asked only while [`reconcile`](super::reconcile()) runs, and
/// shows everything that earlier actions wrote: records, rosters and pins are in it before the next event comes.
pub trait View {
    /// This node.
    fn me(&self) -> EndpointId;

    /// Every member that a register is known of, this node included.
    fn nodes(&self) -> &BTreeMap<EndpointId, Node>;

    /// A distribution, unless it was never known or has been purged.
    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>>;

    /// Whether a distribution is known whose document cannot be read at the moment. What is done about it stays as it is.
    fn is_unreadable(&self, _: &DistributionId) -> bool {
        false
    }

    /// The files of a distribution whose manifest names a list: `None` while the list's blob is not here, an error when it
    /// is here and is no list that agrees with the manifest. Not asked where the manifest has its files inline.
    fn listed_files(&self, id: &DistributionId) -> Option<Result<Arc<[FileEntry]>, String>>;

    /// Whether a blob is here, whole and durable.
    fn holds(&self, blob: &BlobHash) -> bool;

    /// For which reason the blobs of a distribution are pinned here, if they are.
    fn pinned(&self, id: &DistributionId) -> Option<PinReason>;

    /// How many more changes this node may write to a distribution's document (it is bounded, and a receipt must fit).
    fn changes_left(&self, id: &DistributionId) -> u32;

    /// Whether the clock is plausible. Nothing expires by a clock that is not.
    fn clock_trusted(&self) -> bool;

    /// How far away a node is that is in reach.
    fn distance(&self, _: &EndpointId) -> Distance {
        Distance::Near
    }

    /// Whether a node that is in reach has a connection: who has none is connected again for what it is known to have, and not to
    /// ask whether it has something.
    fn is_connected(&self, _: &EndpointId) -> bool {
        true
    }

    /// Bytes a second that have come of late from a node that is in reach, while it was asked; nothing where that is not known. A
    /// view tells the same as long as what it measures changes little.
    fn rate(&self, _: &EndpointId) -> Option<u64> {
        None
    }
}
