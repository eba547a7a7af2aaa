//! What the replica gives away other than in sessions: ids of envelopes in an order in which each can be taken in.

use super::{Replica, ReplicaError};
use crate::document::{Document, Kind};
use crate::model::{DistributionId, EnvelopeId};

impl Replica {
    /// The envelopes of all registers: revocations first, so that nothing of who was expelled is taken in after them, then
    /// the members, then who has retired, then tags.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when they cannot be read.
    pub fn registers(&self) -> Result<Vec<EnvelopeId>, ReplicaError> {
        let mut ids = Vec::new();
        for kind in [Kind::Revoked, Kind::Node, Kind::Retired, Kind::Tag] {
            self.store().of_kind(kind, |id, _| ids.push(id))?;
        }
        Ok(ids)
    }

    /// The envelopes of a distribution, each after those that it follows; none when it is not known.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when they cannot be read.
    pub fn envelopes_in_order(&self, id: &DistributionId) -> Result<Vec<EnvelopeId>, ReplicaError> {
        let ordered = |document: &Document| Some(document.in_order());
        Ok(self.with_document(id, ordered)?.unwrap_or_default())
    }
}
