//! How much a replica keeps, what it counts, and the reasons for which it refuses.

use std::collections::BTreeMap;

/// How much a replica keeps. What exceeds it is refused, or makes room for what is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Distributions of one sender.
    pub documents_per_sender: usize,
    /// Envelopes of one distribution.
    pub envelopes_per_document: usize,
    /// Node records.
    pub nodes: usize,
    /// Tags of one author, removed ones included.
    pub tags_per_author: usize,
    /// Envelopes that wait for what they depend on, in memory.
    pub waiting: usize,
    /// The bytes of those.
    pub waiting_bytes: usize,
    /// Ids of refused envelopes, on disk and in memory.
    pub refused: usize,
    /// Documents that are kept ready in memory.
    pub loaded: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            documents_per_sender: 50_000,
            envelopes_per_document: 50_000,
            nodes: 10_000,
            tags_per_author: 10_000,
            waiting: 1024,
            waiting_bytes: 8 * 1024 * 1024,
            refused: 4096,
            loaded: 128,
        }
    }
}

/// Why an envelope was refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// Not an envelope, or its signature is not its author's.
    #[n(0)]
    Malformed,
    /// Of a kind or version that this node does not know; forgotten when it is upgraded.
    #[n(1)]
    Unknown,
    /// Its author is no member; forgotten when it has a new credential.
    #[n(2)]
    NotMember,
    /// Its author was revoked.
    #[n(3)]
    Revoked,
    /// It expired more than two days ago.
    #[n(4)]
    Expired,
    /// Its author may not say that.
    #[n(5)]
    NotPermitted,
    /// No honest author makes such a change.
    #[n(6)]
    Change,
    /// There are as many as are kept.
    #[n(7)]
    TooMany,
    /// A further claim to a place that two envelopes claim already.
    #[n(8)]
    Surplus,
}

impl Reason {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::NotMember => "not a member",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::NotPermitted => "not permitted",
            Self::Change => "change",
            Self::TooMany => "too many",
            Self::Surplus => "surplus",
        }
    }
}

/// What a replica has seen since it was opened, and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Envelopes that were stored.
    pub accepted: u64,
    /// Envelopes that were here already.
    pub known: u64,
    /// Registers older than what is here.
    pub stale: u64,
    /// Envelopes that were refused, by reason.
    pub refused: BTreeMap<Reason, u64>,
    /// Envelopes dated more than a day ahead of this node's clock, which are held back.
    pub held: u64,
    /// Times that two lives or copies of one endpoint spoke at once.
    pub clones: u64,
    /// Envelopes that were dropped after their expiry.
    pub expired: u64,
    /// Envelopes that were dropped because their author was revoked.
    pub purged: u64,
    /// Envelopes that wait now.
    pub waiting: usize,
    /// Ids on record as refused now.
    pub refused_ids: usize,
    /// Distributions here now.
    pub documents: usize,
    /// Documents ready in memory now.
    pub loaded: usize,
    /// Whether this node's clock agrees with what it saw before and with its peers. Nothing is dropped while it does not.
    pub clock_plausible: bool,
}
