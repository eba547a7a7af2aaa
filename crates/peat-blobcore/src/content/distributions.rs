//! The pins that distributions have: which role they give this node, and which blobs they are for.

use super::index::{self, PINS, REASONS};
use super::keep::ALL_HASHES;
use super::{Content, ContentError, Pin, PinRole};
use crate::model::{BlobHash, DistributionId, decode_whole};

const ROLES: [PinRole; 3] = [PinRole::Sender, PinRole::Target, PinRole::Carrier];

impl Content {
    /// What this node is to a distribution, if anything is kept for it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn pinned_as(&self, id: &DistributionId) -> Result<Option<PinRole>, ContentError> {
        Ok(self.roles(id)?.first().copied())
    }

    fn roles(&self, id: &DistributionId) -> Result<Vec<PinRole>, ContentError> {
        self.0.index.read(|txn| {
            let pins = txn.open_table(PINS)?;
            let mut roles = Vec::new();
            for role in ROLES {
                let (key, _) = Pin::Distribution(*id, role).key();
                if pins.range((key.as_slice(), ALL_HASHES.0)..=(key.as_slice(), ALL_HASHES.1))?.next().is_some() {
                    roles.push(role);
                }
            }
            Ok(roles)
        })
    }

    /// Keeps the blobs of a distribution in this role and in no other.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn pin_distribution(&self, id: &DistributionId, role: PinRole, hashes: &[BlobHash]) -> Result<(), ContentError> {
        self.pin(&Pin::Distribution(*id, role), hashes)?;
        let mut others = self.roles(id)?.into_iter().filter(|other| *other != role);
        others.try_for_each(|other| self.unpin(&Pin::Distribution(*id, other)))
    }

    /// Ends every role that this node has in a distribution.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn unpin_distribution(&self, id: &DistributionId) -> Result<(), ContentError> {
        self.roles(id)?.into_iter().try_for_each(|role| self.unpin(&Pin::Distribution(*id, role)))
    }

    /// The distributions that each of these blobs is kept for.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn distributions_of(&self, hashes: &[BlobHash]) -> Result<Vec<Vec<DistributionId>>, ContentError> {
        let id = |pin| if let Pin::Distribution(id, _) = pin { Some(id) } else { None };
        let reasons = self.reasons_of(hashes)?;
        Ok(reasons.into_iter().map(|pins| pins.into_iter().filter_map(id).collect()).collect())
    }

    /// For each of these blobs the reasons that it is kept for.
    pub(super) fn reasons_of(&self, hashes: &[BlobHash]) -> Result<Vec<Vec<Pin>>, ContentError> {
        self.0.index.read(|txn| {
            let reasons = txn.open_table(REASONS)?;
            let of = |hash| {
                let keys = index::reasons_of(&reasons, hash)?;
                Ok(keys.iter().filter_map(|key| decode_whole::<Pin>(key).ok()).collect())
            };
            hashes.iter().map(of).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::content::Options;

    #[test]
    fn a_distribution_has_one_role_and_its_blobs_know_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let content = Content::open(directory.path(), Options::default(), Arc::new(SystemClock)).expect("opens");
        let (id, other) = (DistributionId::from_bytes([1; 32]), DistributionId::from_bytes([2; 32]));
        let (first, second) = (BlobHash::from_bytes([0xff; 32]), BlobHash::from_bytes([0; 32]));
        assert_eq!(content.pinned_as(&id).expect("read"), None);
        content.pin_distribution(&id, PinRole::Carrier, &[first]).expect("pinned");
        content.pin_distribution(&id, PinRole::Target, &[first, second]).expect("pinned");
        content.pin_distribution(&other, PinRole::Sender, &[second]).expect("pinned");
        assert_eq!(content.pinned_as(&id).expect("read"), Some(PinRole::Target));
        assert_eq!(content.distributions_of(&[first, second]).expect("read"), [vec![id], vec![id, other]]);
        content.unpin_distribution(&id).expect("unpinned");
        assert_eq!(content.pinned_as(&id).expect("read"), None);
        assert_eq!(content.distributions_of(&[first, second]).expect("read"), [vec![], vec![other]]);
    }
}
