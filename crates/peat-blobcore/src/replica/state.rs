//! What a replica keeps in memory. All of it but what waits can be read again from the file, and is after a failed write.

use std::collections::BTreeMap;
use std::path::Path;

use super::clock_trust::ClockTrust;
use super::refused::Refused;
use super::registers::{Registers, Value};
use super::snapshot::Snapshots;
use super::store::{CLOCK, RECONCILED, Store};
use super::waiting::Waiting;
use super::{Limits, Stats};
use crate::document::{Document, Envelope, Kind};
use crate::model::{DistributionId, EndpointId, Incarnation, Timestamp};

/// The memory of an open replica.
#[derive(Debug)]
pub(super) struct State {
    pub(super) documents: Index,
    pub(super) loaded: Loaded,
    pub(super) registers: Registers,
    pub(super) refused: Refused,
    pub(super) waiting: Waiting,
    pub(super) clock: ClockTrust,
    pub(super) snapshots: Snapshots,
    pub(super) stats: Stats,
    /// Whether this life has reconciled with another node.
    pub(super) ready: bool,
    /// Whether it is ahead of the file, since a write failed and the file could not be read again yet.
    pub(super) stale: bool,
}

impl State {
    pub(super) fn load(store: &Store, limits: &Limits, now: Timestamp, life: &Incarnation) -> Result<Self, redb::Error> {
        let mut registers = Registers::default();
        for kind in [Kind::Node, Kind::Retired, Kind::Revoked, Kind::Tag] {
            store.of_kind(kind, |id, bytes| {
                if let Ok(envelope) = Envelope::decode(bytes)
                    && let Some((version, value)) = Value::read(&envelope)
                {
                    registers.insert(id, &envelope, version, value);
                }
            })?;
        }
        let mut documents = Index::default();
        store.of_kind(Kind::Distribution, |_, bytes| {
            if let Ok(envelope) = Envelope::decode(bytes)
                && let Some(sender) = Document::sender_of(&envelope)
            {
                documents.insert(envelope.distribution(), sender);
            }
        })?;
        Ok(Self {
            documents,
            loaded: Loaded::new(limits.loaded),
            registers,
            refused: Refused::load(store)?,
            waiting: Waiting::new(limits.waiting, limits.waiting_bytes),
            clock: store.meta(CLOCK)?.and_then(|saved| ClockTrust::decode(&saved)).unwrap_or_else(|| ClockTrust::new(now)),
            snapshots: Snapshots::default(),
            stats: Stats::default(),
            ready: store.meta(RECONCILED)?.as_deref() == Some(life.as_bytes()),
            stale: false,
        })
    }
}

/// Which distributions are here, and whose.
#[derive(Debug, Default)]
pub(super) struct Index {
    senders: BTreeMap<DistributionId, EndpointId>,
    counts: BTreeMap<EndpointId, usize>,
}

impl Index {
    pub(super) fn insert(&mut self, id: DistributionId, sender: EndpointId) {
        if self.senders.insert(id, sender).is_none() {
            *self.counts.entry(sender).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, id: &DistributionId) {
        if let Some(sender) = self.senders.remove(id)
            && let Some(count) = self.counts.get_mut(&sender)
        {
            *count -= 1;
        }
    }

    pub(super) fn contains(&self, id: &DistributionId) -> bool {
        self.senders.contains_key(id)
    }

    pub(super) fn count_of(&self, sender: &EndpointId) -> usize {
        self.counts.get(sender).copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.senders.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = DistributionId> {
        self.senders.keys().copied()
    }
}

/// The documents that were used last, ready in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    documents: BTreeMap<DistributionId, (u64, Document)>,
    uses: u64,
    limit: usize,
}

impl Loaded {
    fn new(limit: usize) -> Self {
        Self { documents: BTreeMap::new(), uses: 0, limit }
    }

    pub(super) fn take(&mut self, id: &DistributionId) -> Option<Document> {
        self.documents.remove(id).map(|(_, document)| document)
    }

    pub(super) fn put(&mut self, id: DistributionId, document: Document) {
        self.uses += 1;
        self.documents.insert(id, (self.uses, document));
        while self.documents.len() > self.limit {
            let oldest = self.documents.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            self.documents.remove(&oldest.expect("it is over its limit"));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }
}

/// Opens the file and reads the memory from it.
pub(super) fn open(path: &Path, limits: &Limits, now: Timestamp, life: &Incarnation) -> Result<(Store, State), redb::Error> {
    let store = Store::open(path)?;
    let state = State::load(&store, limits, now, life)?;
    Ok((store, state))
}
