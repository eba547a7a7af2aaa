//! How a distribution stands, for people and programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::Distribution;
use crate::model::{DistributionState, EndpointId, TargetRecord};

/// How a distribution stands, as this node knows it.
#[derive(Debug, Clone)]
pub struct DistributionStatus {
    /// The distribution with all that its envelopes say.
    pub distribution: Arc<Distribution>,
    /// Where it stands as a whole.
    pub state: DistributionState,
    /// Where it stands at each node that is meant, or that has signed a record.
    pub targets: BTreeMap<EndpointId, TargetStatus>,
    /// Verified bytes of it here, while it is being fetched.
    pub bytes_here: Option<u64>,
}

/// Where a distribution stands at one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// The target's name; empty while none is known.
    pub name: String,
    /// The last record that it signed. In the states delivered and superseded it is the receipt.
    pub record: Option<TargetRecord>,
    /// Why it is not there yet, or that it is, in words.
    pub why: String,
}
