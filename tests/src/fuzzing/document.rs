//! A document under attack by members: envelopes that are signed by whom they name and say what they should not.

use std::collections::{BTreeMap, BTreeSet};

use peat_blobcore::document::{Body, ChangeError, Document, Edit, Envelope, Section, Verdict, first_change};
use peat_blobcore::model::{DistributionId, EndpointId, EnvelopeId, TargetRecord, TargetState, Timestamp};
use sha2::{Digest, Sha256};

use super::fixture::{Author, NODES, a_manifest};

/// The document, and the envelopes that it took and keeps.
pub(super) struct World {
    pub(super) id: DistributionId,
    document: Document,
    log: BTreeMap<EnvelopeId, Envelope>,
    /// Who spoke as two: what it says next may be lost.
    clones: BTreeSet<EndpointId>,
    /// The beginning of each author's last change, for one that claims its place.
    taken: BTreeMap<EndpointId, Vec<u8>>,
}

impl World {
    /// A document with its sender's first change.
    pub(super) fn new() -> Self {
        let sender = Author::named(0);
        let (id, change) = first_change(&a_manifest(), &sender.incarnation).expect("a good manifest");
        let document = Document::new(id);
        let mut world = Self { id, document, log: BTreeMap::new(), clones: BTreeSet::new(), taken: BTreeMap::new() };
        assert!(world.offer(&sender, sender.envelope(id, change)));
        world
    }

    /// Offers an envelope as a replica does; whether it was taken.
    pub(super) fn offer(&mut self, author: &Author, envelope: Envelope) -> bool {
        let id = Envelope::id_of(&envelope.seal(author.key.as_iroh()));
        if self.log.contains_key(&id) {
            return false;
        }
        if envelope.distribution() != self.id {
            let mut other = Document::new(envelope.distribution());
            let Ok(Verdict::Fits(entry)) = other.judge(&envelope) else { return false };
            other.insert(id, *entry);
            return other.distribution().is_some();
        }
        let Ok(Verdict::Fits(entry)) = self.document.judge(&envelope) else { return false };
        let first = entry.manifest().is_some();
        let inserted = self.document.insert(id, *entry);
        self.log.insert(id, envelope);
        for dropped in &inserted.dropped {
            assert!(self.log.remove(dropped).is_some(), "only what was kept is dropped");
        }
        assert_eq!(self.document.len(), self.log.len());
        if inserted.clone && first {
            self.clones.extend((0..NODES).map(|node| Author::named(node).id()));
        }
        if inserted.clone {
            self.clones.insert(author.id());
        }
        true
    }

    /// The author's next change that says this.
    pub(super) fn next(&self, author: &Author, edit: Edit<'_>) -> Option<Vec<u8>> {
        match self.document.next_change(&author.id(), &author.incarnation, edit) {
            Ok(change) => change,
            Err(error) => {
                let expected = match edit {
                    Edit::Record(..) => matches!(error, ChangeError::TooManyChanges) || self.clones.contains(&author.id()),
                    Edit::Roster(_) | Edit::Cancel(_) => true,
                };
                assert!(expected, "{error}");
                None
            }
        }
    }

    /// An honest change of the author's, if it may still write one.
    pub(super) fn write(&mut self, author: &Author, edit: Edit<'_>) -> bool {
        let Some(change) = self.next(author, edit) else { return false };
        self.taken.insert(author.id(), split(&change).0.to_vec());
        let envelope = author.envelope(self.id, change);
        self.offer(author, envelope)
    }

    /// A change that begins as the author's next one and goes on with these bytes.
    pub(super) fn graft(&self, author: &Author, rest: &[u8]) -> Option<Vec<u8>> {
        let change = self.next(author, Edit::Record(Section::Targets, &record(TargetState::Held, u64::MAX)))?;
        Some(chunk(&[split(&change).0, rest].concat()))
    }

    /// A change that begins as the author's last one and goes on with these bytes.
    pub(super) fn claim(&self, author: &Author, rest: &[u8]) -> Option<Vec<u8>> {
        Some(chunk(&[self.taken.get(&author.id())?, rest].concat()))
    }

    /// Offers a change, if there is one, in an envelope of the author's.
    pub(super) fn offer_change(&mut self, author: &Author, change: Option<Vec<u8>>) {
        if let Some(change) = change {
            self.offer(author, author.envelope(self.id, change));
        }
    }

    /// The same set read from disk says the same, and whoever spoke as one can go on.
    pub(super) fn check(mut self) {
        if self.log.len() == 1 {
            return;
        }
        let log = self.log.iter().rev().map(|(id, envelope)| (*id, envelope.clone()));
        let (again, orphans) = Document::load(self.id, log);
        assert_eq!(orphans, Vec::new());
        assert_eq!(again.distribution(), self.document.distribution());
        for author in (0..NODES).map(Author::named).filter(|author| !self.clones.contains(&author.id())).collect::<Vec<_>>() {
            let record = record(TargetState::Delivered, u64::MAX - 1);
            let Some(change) = self.next(&author, Edit::Record(Section::Targets, &record)) else { continue };
            let envelope = author.envelope(self.id, change);
            match self.document.judge(&envelope) {
                Ok(Verdict::Fits(_)) => assert!(self.offer(&author, envelope)),
                Err(ChangeError::TooManyLives) => continue,
                other => panic!("an honest change is not taken: {other:?}"),
            }
            if !self.clones.contains(&author.id()) {
                let view = self.document.distribution().expect("there is a first change");
                assert_eq!(view.targets.get(&author.id()), Some(&record));
            }
        }
    }
}

pub(super) fn record(state: TargetState, number: u64) -> TargetRecord {
    let error = matches!(state, TargetState::Failed).then(|| "no room".to_owned());
    TargetRecord { state, bytes: number, error, time: Timestamp::from_millis(number) }
}

/// The envelope with a change whose length and checksum are right.
pub(super) fn repair(mut envelope: Envelope) -> Envelope {
    if let Body::Change(change) = &mut envelope.body {
        let mut head = change.get(9..).unwrap_or_default();
        if number(&mut head).is_some() {
            *change = chunk(head);
        }
    }
    envelope
}

/// A change chunk of these contents, as Automerge's binary format has it.
fn chunk(data: &[u8]) -> Vec<u8> {
    let mut hashed = vec![1];
    let mut length = data.len();
    while length > 0x7f {
        hashed.push(length as u8 | 0x80);
        length >>= 7;
    }
    hashed.push(length as u8);
    hashed.extend(data);
    let checksum = Sha256::digest(&hashed);
    [&[0x85, 0x6f, 0x4a, 0x83], &checksum[..4], &hashed].concat()
}

/// The contents of an honest change: dependencies, actor, sequence number and first operation; then the rest.
pub(super) fn split(change: &[u8]) -> (&[u8], &[u8]) {
    let mut left = &change[9..];
    let mut parts = || {
        number(&mut left)?;
        let data = left;
        let deps = number(&mut left)? * 32;
        left = left.get(deps..)?;
        let actor = number(&mut left)?;
        left = left.get(actor..)?;
        number(&mut left)?;
        number(&mut left)?;
        Some(data.split_at(data.len() - left.len()))
    };
    parts().expect("an honest change is whole")
}

/// An unsigned LEB128 number.
fn number(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
