//! The ids of envelopes that were refused, so that they are not fetched again: bounded, durable, the oldest goes first.
//! Each remembers the peer that offered it, since in a session with that peer it counts as had; in one with another it must
//! not, or two honest nodes would ask each other for what neither keeps.

use std::collections::BTreeMap;

use super::Reason;
use super::store::{Store, Tables};
use crate::model::{EndpointId, EnvelopeId, decode_whole, encode};

#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Refusal {
    #[n(0)]
    id: EnvelopeId,
    #[n(1)]
    author: Option<EndpointId>,
    #[n(2)]
    from: Option<EndpointId>,
    #[n(3)]
    reason: Reason,
}

/// The bounded set.
#[derive(Debug, Default)]
pub(super) struct Refused {
    by_number: BTreeMap<u64, Refusal>,
    numbers: BTreeMap<EnvelopeId, u64>,
}

impl Refused {
    /// Reads the set. What only an older version did not understand is left out, for this one to look at again.
    pub(super) fn load(store: &Store) -> Result<Self, redb::Error> {
        let mut refused = Self::default();
        for (number, bytes) in store.refusals()? {
            if let Ok(refusal) = decode_whole::<Refusal>(&bytes)
                && refusal.reason != Reason::Unknown
            {
                refused.numbers.insert(refusal.id, number);
                refused.by_number.insert(number, refusal);
            }
        }
        Ok(refused)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn contains(&self, id: &EnvelopeId) -> bool {
        self.numbers.contains_key(id)
    }

    /// The ids that `peer` offered.
    pub(super) fn offered_by(&self, peer: &EndpointId) -> impl Iterator<Item = EnvelopeId> {
        self.by_number.values().filter(move |refusal| refusal.from.as_ref() == Some(peer)).map(|refusal| refusal.id)
    }

    pub(super) fn add(
        &mut self,
        tables: &mut Tables<'_>,
        limit: usize,
        id: EnvelopeId,
        author: Option<EndpointId>,
        from: Option<EndpointId>,
        reason: Reason,
    ) -> Result<(), redb::Error> {
        if self.contains(&id) {
            return Ok(());
        }
        let number = self.by_number.last_key_value().map_or(0, |(number, _)| number + 1);
        let refusal = Refusal { id, author, from, reason };
        tables.put_refusal(number, &encode(&refusal))?;
        self.numbers.insert(id, number);
        self.by_number.insert(number, refusal);
        while self.by_number.len() > limit {
            let (number, oldest) = self.by_number.pop_first().expect("it is over its limit");
            self.numbers.remove(&oldest.id);
            tables.remove_refusal(number)?;
        }
        Ok(())
    }

    /// Forgets what was refused because its author had no valid credential: it has another one now.
    pub(super) fn forget_stranger(&mut self, tables: &mut Tables<'_>, author: &EndpointId) -> Result<(), redb::Error> {
        let theirs = |refusal: &Refusal| refusal.author.as_ref() == Some(author) && refusal.reason == Reason::NotMember;
        let numbers: Vec<u64> = self.by_number.iter().filter(|(_, refusal)| theirs(refusal)).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(refusal) = self.by_number.remove(&number) {
                self.numbers.remove(&refusal.id);
            }
            tables.remove_refusal(number)?;
        }
        Ok(())
    }
}
