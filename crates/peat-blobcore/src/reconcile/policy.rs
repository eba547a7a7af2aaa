//! What this node is willing to do, as its user configured it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::EndpointId;

/// The rules of this node. A change of them is told with [`Event::PolicyChanged`](super::Event::PolicyChanged).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whose distributions are taken; `None` is any member.
    pub accepted_senders: Option<BTreeSet<EndpointId>>,
    /// The largest file that is taken, in bytes; a distribution with a larger one is refused.
    pub max_file_bytes: Option<u64>,
    /// How many bytes may be held at once of what is meant for this node. More waits; what alone is over it is refused.
    pub quota_bytes: Option<u64>,
    /// How many bytes may be held at once for others; zero turns carrying off.
    pub carry_quota_bytes: u64,
    /// Whether files go from the inbox that their sender has removed.
    pub deletions: bool,
    /// Whether there is an inbox. A node without one holds what is meant for it and never signs a receipt.
    pub inbox: bool,
    /// Whether the store keeps nothing of a distribution of files once this node has signed its receipt: the inbox has the only
    /// copy then, and others are served from elsewhere.
    pub inbox_only: bool,
    /// Whether the link costs by the byte: nothing is fetched then that is not critical. A node has this from its limits.
    pub metered: bool,
    /// How much may be under way at once.
    pub budget: Budget,
    /// How long to wait where, and how often to try again.
    pub patience: Patience,
}

/// How much may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Fetches, but for the one beside them that [`Patience::aging`] gives. Large enough that many small files fill a link.
    pub fetches: usize,
    /// The sum of the sizes of the blobs being fetched by these, in bytes. One blob alone may be larger.
    pub bytes: u64,
    /// Dials.
    pub dials: usize,
}

/// How long to wait where, and how often to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The wait after the first failure of a peer. It doubles with each further one.
    pub backoff: Duration,
    /// The longest wait for a peer. Within it, a holder that is back is found.
    pub backoff_max: Duration,
    /// How long a source is left out for a blob that it served damaged.
    pub corrupt: Duration,
    /// The wait after a file system was full, or an inbox could not take a file.
    pub retry: Duration,
    /// What is over before this is recorded once, at its end.
    pub quiet: Duration,
    /// How long more urgent fetches may take the whole budget before what waits has one fetch beside it.
    pub aging: Duration,
    /// How long a target is out of reach before others carry for it.
    pub carry_after: Duration,
    /// How long a target that said it was fetching counts as in reach while this node has no connection to it.
    pub fetching_believed: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            accepted_senders: None,
            max_file_bytes: None,
            quota_bytes: None,
            carry_quota_bytes: 10 * 1024 * 1024 * 1024,
            deletions: true,
            inbox: true,
            inbox_only: false,
            metered: false,
            budget: Budget { fetches: 64, bytes: 256 * 1024 * 1024, dials: 8 },
            patience: Patience {
                backoff: Duration::from_secs(1),
                backoff_max: Duration::from_secs(300),
                corrupt: Duration::from_secs(3600),
                retry: Duration::from_secs(300),
                quiet: Duration::from_secs(2),
                aging: Duration::from_secs(60),
                carry_after: Duration::from_secs(60),
                fetching_believed: Duration::from_secs(600),
            },
        }
    }
}
