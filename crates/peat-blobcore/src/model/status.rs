//! How far a distribution has come, at one target and as a whole.

use std::fmt;

use super::Timestamp;

/// Longest `error` of a record, in bytes; longer ones are cut by the writer and refused by readers.
pub const MAX_ERROR_BYTES: usize = 512;

/// Where one target (or carrier) stands with one distribution. Only transitions are written to the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// Known and accepted; no byte has come yet.
    Pending,
    /// Bytes are coming.
    Fetching,
    /// Every blob is here, verified and durable, and can be fetched from here; the inbox does not show it (yet).
    Held,
    /// Every file is in the inbox, verified and durable. With the envelope's signature this is the receipt.
    Delivered,
    /// Given up for a reason that only a person can mend; the record's error names it.
    Failed,
    /// This node's policy does not take it; the record's error names the rule.
    Refused,
    /// The inbox has something newer under every one of its names. Counts as delivered.
    Superseded,
    /// The sender cancelled it before it was delivered here.
    Cancelled,
}

impl TargetState {
    /// All states, in the order in which a distribution can go through them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Fetching,
        Self::Held,
        Self::Delivered,
        Self::Failed,
        Self::Refused,
        Self::Superseded,
        Self::Cancelled,
    ];

    /// The word that documents, logs and the API use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether a record in this state is a receipt: the target has what it was meant to have.
    #[must_use]
    pub const fn is_receipt(self) -> bool {
        matches!(self, Self::Delivered | Self::Superseded)
    }

    /// Whether a node in this state has all blobs, as far as it says itself. A superseded target may have fetched nothing.
    #[must_use]
    pub const fn is_holder(self) -> bool {
        matches!(self, Self::Held | Self::Delivered)
    }

    /// Whether the target itself expects no further transition.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Refused | Self::Superseded | Self::Cancelled)
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one endpoint says of itself under its own key of a distribution document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// Where it stands.
    pub state: TargetState,
    /// Verified bytes it had when it wrote this.
    pub bytes: u64,
    /// Why, for `failed` and `refused`; at most [`MAX_ERROR_BYTES`].
    pub error: Option<String>,
    /// When it wrote this, by its own clock.
    pub time: Timestamp,
}

/// Where a distribution stands as a whole, as the sender's roster and the receipts have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DistributionState {
    /// Nobody is meant, as far as this node knows: neither done nor failed.
    NoTargets,
    /// Somebody is meant, and nobody has begun.
    Pending,
    /// Somebody has begun.
    InProgress,
    /// Every node of the roster has signed a receipt. Stays so.
    Completed,
    /// It ended (expiry, cancellation or failures) with receipts from some.
    Partial,
    /// It ended with a failure or refusal at every node of the roster.
    Failed,
    /// It expired before anyone signed a receipt.
    Expired,
    /// The sender cancelled it before anyone signed a receipt.
    Cancelled,
}

impl DistributionState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::NoTargets,
        Self::Pending,
        Self::InProgress,
        Self::Completed,
        Self::Partial,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word that logs, the CLI and the API use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoTargets => "no targets",
            Self::Pending => "pending",
            Self::InProgress => "in progress",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for DistributionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
