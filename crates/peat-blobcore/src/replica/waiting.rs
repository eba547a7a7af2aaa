//! Envelopes that cannot be judged yet, in memory: bounded in number and bytes, and no peer may take more than a quarter
//! once it is full. What falls out is offered again in the next session. Must never be what anything rests on.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::document::Envelope;
use crate::model::{DistributionId, EndpointId, EnvelopeId};

/// What an envelope waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum On {
    /// The credential of an endpoint.
    Credential(EndpointId),
    /// A change of a document that it follows.
    Document(DistributionId),
    /// Time: it is dated ahead, or our clock is implausible.
    Clock,
}

/// An envelope whose form and signature were checked.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) id: EnvelopeId,
    pub(super) bytes: Bytes,
    pub(super) envelope: Envelope,
    pub(super) from: Option<EndpointId>,
}

/// The bounded set.
#[derive(Debug)]
pub(super) struct Waiting {
    offers: BTreeMap<EnvelopeId, (On, Offer)>,
    oldest: VecDeque<EnvelopeId>,
    bytes: usize,
    limit: usize,
    limit_bytes: usize,
}

impl Waiting {
    pub(super) fn new(limit: usize, limit_bytes: usize) -> Self {
        Self { offers: BTreeMap::new(), oldest: VecDeque::new(), bytes: 0, limit, limit_bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.offers.len()
    }

    pub(super) fn contains(&self, id: &EnvelopeId) -> bool {
        self.offers.contains_key(id)
    }

    /// The ids that `peer` offered.
    pub(super) fn offered_by(&self, peer: &EndpointId) -> impl Iterator<Item = EnvelopeId> {
        self.offers.values().filter(move |(_, offer)| offer.from.as_ref() == Some(peer)).map(|(_, offer)| offer.id)
    }

    pub(super) fn add(&mut self, on: On, offer: Offer) {
        self.bytes += offer.bytes.len();
        self.oldest.push_back(offer.id);
        self.offers.insert(offer.id, (on, offer));
        while self.offers.len() > self.limit || self.bytes > self.limit_bytes {
            let victim = self.victim().expect("it is over its limit");
            self.remove(&victim);
        }
    }

    /// The oldest offer of the peer that has the most here, if that is more than a quarter; else the oldest of all.
    fn victim(&self) -> Option<EnvelopeId> {
        let mut counts: BTreeMap<Option<EndpointId>, usize> = BTreeMap::new();
        for (_, offer) in self.offers.values() {
            *counts.entry(offer.from).or_default() += 1;
        }
        let greedy = counts.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > self.offers.len() / 4);
        let of_greedy = |id: &&EnvelopeId| match (&greedy, self.offers.get(id)) {
            (Some((from, _)), Some((_, offer))) => offer.from == *from,
            _ => true,
        };
        self.oldest.iter().find(of_greedy).copied()
    }

    /// Takes an offer out.
    pub(super) fn remove(&mut self, id: &EnvelopeId) -> Option<Offer> {
        let (_, offer) = self.offers.remove(id)?;
        self.bytes -= offer.bytes.len();
        self.oldest.retain(|other| other != id);
        Some(offer)
    }

    /// Takes out what waited for this.
    pub(super) fn wake(&mut self, on: On) -> Vec<Offer> {
        let ids: Vec<EnvelopeId> = self.offers.values().filter(|(other, _)| *other == on).map(|(_, offer)| offer.id).collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Drops what an author said.
    pub(super) fn purge(&mut self, author: &EndpointId) {
        let theirs = |(_, offer): &&(On, Offer)| offer.envelope.author == *author;
        let ids: Vec<EnvelopeId> = self.offers.values().filter(theirs).map(|(_, offer)| offer.id).collect();
        for id in ids {
            self.remove(&id);
        }
    }
}
