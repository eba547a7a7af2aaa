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
