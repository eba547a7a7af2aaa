//! What happened, as the driver tells it to reconcile.

use super::FetchId;
use crate::model::{BlobHash, DistributionId, EndpointId};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The node runs; the replica knows these distributions. The first event of a life.
    Started {
        /// All of them.
        distributions: Vec<DistributionId>,
    },
    /// The document of a distribution is new, has changed or was purged.
    DistributionChanged(DistributionId),
    /// The registers of a node have changed.
    NodeChanged(EndpointId),
    /// An admitted connection to the peer exists, whoever dialled.
    PeerUp(EndpointId),
    /// No admitted connection to the peer exists any more.
    PeerDown(EndpointId),
    /// The set reconciliation with the peer has finished.
    Reconciled(EndpointId),
    /// A hint: the peer says that it has every blob of the distribution.
    Holding {
        /// Who says so.
        peer: EndpointId,
        /// Of what.
        distribution: DistributionId,
    },
    /// A hint: the peer is fetching the distribution, and has more of it than when it said so last.
    Getting {
        /// Who says so.
        peer: EndpointId,
        /// Of what.
        distribution: DistributionId,
    },
    /// Something came of a fetch from a source that may have parts, which goes on.
    PartCame(FetchId),
    /// Somebody brings blobs of the distribution, so that they need not be fetched: what is wanted of it, to be delivered or
    /// carried, gets its place in the quota and is pinned now.
    Offered(DistributionId),
    /// A client of this node's registry asks for blobs of a package, wherever they are. They are fetched until they are here,
    /// though nothing of it be meant for this node, as far as its manifest lets this node hold it for others.
    Asked {
        /// Of which distribution.
        distribution: DistributionId,
        /// Which blobs.
        blobs: Vec<BlobHash>,
    },
    /// A blob came to be here, whole and durable, other than by a fetch.
    BlobHeld(BlobHash),
    /// A blob that was kept here for the distribution is gone, or was found damaged.
    Lost(DistributionId),
    /// A fetch ended. Comes once for each [`Action::Fetch`](super::Action::Fetch) and
    /// [`Action::FetchSmall`](super::Action::FetchSmall); after a cancellation it may stay out.
    FetchEnded {
        /// Which.
        fetch: FetchId,
        /// How, for all blobs of it that nothing was said of before.
        outcome: FetchOutcome,
    },
    /// Some blobs of a fetch of several are done with, each by itself. The others go on.
    SomeFetched {
        /// Which fetch.
        fetch: FetchId,
        /// Which blobs, and how it went with each.
        outcomes: Vec<(BlobHash, FetchOutcome)>,
    },
    /// A source of a blob has failed, and others go on: the fetch has not ended.
    SourceFailed {
        /// On behalf of which distribution it was asked.
        distribution: DistributionId,
        /// For which blob.
        blob: BlobHash,
        /// Who.
        source: EndpointId,
        /// How; nothing that concerns this node.
        outcome: FetchOutcome,
    },
    /// A delivery ended. Comes once for each [`Action::Deliver`](super::Action::Deliver).
    DeliveryEnded {
        /// Of which distribution.
        distribution: DistributionId,
        /// What became of each file that was to be delivered, by its index.
        outcomes: Vec<(u32, FileOutcome)>,
    },
    /// A dial ended. Comes once for each [`Action::Dial`](super::Action::Dial).
    DialEnded {
        /// Whom it was to.
        peer: EndpointId,
        /// Whether an admitted connection came of it.
        ok: bool,
    },
    /// There is room again on a file system that was full.
    RoomMade,
    /// The policy has changed, or the clock has become trusted.
    PolicyChanged,
    /// The user, or a lost ledger, wants a distribution delivered again.
    Redeliver(DistributionId),
    /// The time of the last [`Action::ArmTimer`](super::Action::ArmTimer) has come.
    Timer,
    /// The node is shutting down. Nothing is begun after it.
    Stop,
}

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchOutcome {
    /// The blob is here, whole and durable.
    Done,
    /// The source could not be reached, or the connection to it was lost.
    Unreachable,
    /// The source does not let us have it, or not yet: the document may still be on its way there.
    Refused,
    /// The source lets us have it later: its link is metered, and this is not critical.
    Later,
    /// The source does not have it.
    Missing,
    /// What the source had of it is here, and that is not all.
    Partial,
    /// The source served bytes that do not verify.
    Corrupt,
    /// The file system of the store is full.
    NoSpace,
    /// The source gives blobs one by one only.
    OneByOne,
    /// It was cancelled.
    Cancelled,
    /// Anything else.
    Failed,
}

/// What became of one file of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOutcome {
    /// It is in the inbox, verified and durable.
    Delivered,
    /// An equal file was there already, or the user has removed what was delivered.
    AlreadyThere,
    /// The inbox has something newer under that name.
    Superseded,
    /// It was to go, and is gone from the inbox.
    Removed,
    /// It was to go, and stays: the user edited it, or it is another sender's. There is nothing more to do about it.
    Kept,
    /// It could not be written.
    Failed {
        /// Why.
        error: String,
        /// When it is tried again.
        retry: Retry,
    },
}

/// When a file that the inbox could not take is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: a person has to mend it.
    Never,
    /// After a while, in which what is in its way may go.
    Later,
    /// As soon as there is room. After a while all the same: there may be quotas.
    WithRoom,
}
