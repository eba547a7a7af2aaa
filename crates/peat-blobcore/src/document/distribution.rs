//! The document `file_distributions/<id>` as the rest of the library sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{DistributionId, EndpointId, Manifest, TargetRecord, Timestamp};

/// One distribution with all that its envelopes say so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The hash of the manifest's bytes.
    pub id: DistributionId,
    /// What its sender defined, for good.
    pub manifest: Manifest,
    /// What the targets say of themselves.
    pub targets: BTreeMap<EndpointId, TargetRecord>,
    /// What the carriers say of themselves.
    pub carriers: BTreeMap<EndpointId, TargetRecord>,
    /// The closed set that completion is judged by, once the sender has written it.
    pub roster: Option<BTreeSet<EndpointId>>,
    /// When the sender cancelled it, if so.
    pub cancelled: Option<Timestamp>,
}

/// The two maps of a distribution document in which each endpoint has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `targets`: those that it is for.
    Targets,
    /// `carriers`: those that hold it for others.
    Carriers,
}

impl Section {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Targets, Self::Carriers];

    /// The key in the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Targets => "targets",
            Self::Carriers => "carriers",
        }
    }
}
