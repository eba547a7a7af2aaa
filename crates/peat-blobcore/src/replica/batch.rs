//! One write transaction: envelopes are judged and stored, or refused, or wait; then it is committed as a whole. The trust
//! rules of replication are here. Must never store or pass on what was not judged.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::recent::Recent;
use super::registers::{Effect, Value};
use super::state::State;
use super::store::Tables;
use super::waiting::{Offer, On};
use super::{Accepted, Change, Limits, Membership, Reason, Signer};
use crate::document::{ChangeError, Document, Envelope, Kind, Verdict};
use crate::model::{Credential, DistributionId, EndpointId, EnvelopeId, TagRecord, Timestamp};

/// How long an envelope is kept after its expiry, so that clocks may differ.
pub(super) const GRACE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Lives of one endpoint that are remembered.
const MAX_LIVES: usize = 8;

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    Known,
    Stale,
    Waits,
    Refused(Reason),
}

/// Why an offer is not stored.
enum Halt {
    Refuse(Reason, String),
    Wait(On),
    Stale,
    Store(redb::Error),
}

impl From<redb::Error> for Halt {
    fn from(error: redb::Error) -> Self {
        Self::Store(error)
    }
}

/// A write transaction in the making.
pub(super) struct Batch<'a, 'txn> {
    pub(super) state: &'a mut State,
    pub(super) tables: Tables<'txn>,
    pub(super) limits: &'a Limits,
    pub(super) membership: &'a dyn Membership,
    pub(super) signer: &'a Signer,
    pub(super) now: Timestamp,
    /// Whether there is anything to commit.
    pub(super) dirty: bool,
    changes: BTreeSet<Change>,
    recent: &'a Recent,
    stored: Vec<(EnvelopeId, Bytes)>,
    clones: BTreeSet<EndpointId>,
    held: Vec<EnvelopeId>,
    refused: u64,
    woken: Vec<Offer>,
    /// What is held back is reported once.
    retrying: bool,
}

impl<'a, 'txn> Batch<'a, 'txn> {
    pub(super) fn new(
        state: &'a mut State,
        tables: Tables<'txn>,
        limits: &'a Limits,
        membership: &'a dyn Membership,
        signer: &'a Signer,
        recent: &'a Recent,
        now: Timestamp,
    ) -> Self {
        Self {
            state,
            tables,
            limits,
            membership,
            signer,
            now,
            dirty: false,
            changes: BTreeSet::new(),
            recent,
            stored: Vec::new(),
            clones: BTreeSet::new(),
            held: Vec::new(),
            refused: 0,
            woken: Vec::new(),
            retrying: false,
        }
    }

    /// What became known, and what was stored for it.
    pub(super) fn accepted(self) -> (Accepted, Vec<(EnvelopeId, Bytes)>) {
        let accepted = Accepted {
            changes: self.changes.into_iter().collect(),
            push: self.stored.iter().map(|(id, _)| *id).collect(),
            clones: self.clones.into_iter().collect(),
            held: self.held,
            refused: self.refused,
        };
        (accepted, self.stored)
    }

    /// Takes an offer, and then whatever waited for it.
    pub(super) fn offer(&mut self, offer: Offer) -> Result<Outcome, redb::Error> {
        let outcome = self.offer_one(offer)?;
        while let Some(next) = self.woken.pop() {
            self.offer_one(next)?;
        }
        Ok(outcome)
    }

    /// Tries again what waits for time.
    pub(super) fn retry_held(&mut self) -> Result<(), redb::Error> {
        self.retrying = true;
        for offer in self.state.waiting.wake(On::Clock) {
            self.offer(offer)?;
        }
        self.retrying = false;
        Ok(())
    }

    fn offer_one(&mut self, offer: Offer) -> Result<Outcome, redb::Error> {
        let id = offer.id;
        if self.tables.contains(&id)? || self.state.refused.contains(&id) || self.state.waiting.contains(&id) {
            self.state.stats.known += 1;
            return Ok(Outcome::Known);
        }
        match self.admit(&offer) {
            Ok(()) => {
                self.dirty = true;
                self.state.stats.accepted += 1;
                self.state.snapshots.added(offer.envelope.expiry, id);
                self.stored.push((id, offer.bytes));
                Ok(Outcome::Stored)
            }
            Err(Halt::Refuse(reason, why)) => {
                let author = offer.envelope.author;
                self.refuse(id, Some(author), offer.from, reason, &why)?;
                Ok(Outcome::Refused(reason))
            }
            Err(Halt::Wait(on)) => {
                if on == On::Clock && !self.retrying {
                    tracing::warn!(envelope = %id.short(), author = %offer.envelope.author.short(), "held back: it does not fit this node's clock");
                    self.state.stats.held += 1;
                    self.held.push(id);
                }
                self.state.waiting.add(on, offer);
                Ok(Outcome::Waits)
            }
            Err(Halt::Stale) => {
                self.state.stats.stale += 1;
                Ok(Outcome::Stale)
            }
            Err(Halt::Store(error)) => Err(error),
        }
    }

    /// Counts and logs a refusal, and remembers it if a peer offered it.
    pub(super) fn refuse(
        &mut self,
        id: EnvelopeId,
        author: Option<EndpointId>,
        from: Option<EndpointId>,
        reason: Reason,
        why: &str,
    ) -> Result<(), redb::Error> {
        *self.state.stats.refused.entry(reason).or_default() += 1;
        self.refused += 1;
        tracing::warn!(envelope = %id.short(), ?author, ?from, reason = reason.as_str(), why, "refused an envelope");
        if from.is_some() {
            self.dirty = true;
            self.state.refused.add(&mut self.tables, self.limits.refused, id, author, from, reason)?;
        }
        Ok(())
    }

    fn admit(&mut self, offer: &Offer) -> Result<(), Halt> {
        let envelope = &offer.envelope;
        if self.state.registers.is_revoked(&envelope.author) {
            return Err(Halt::Refuse(Reason::Revoked, String::new()));
        }
        if envelope.expiry.plus(GRACE) < self.now {
            return Err(self.by_the_clock(Reason::Expired, envelope.expiry.to_string()));
        }
        if envelope.kind == Kind::Distribution {
            self.check_member(envelope, None)?;
            return self.admit_change(offer);
        }
        let Some((version, value)) = Value::read(envelope) else {
            return Err(Halt::Refuse(Reason::Malformed, "the register's value".to_owned()));
        };
        match &value {
            Value::Node(record) => {
                if envelope.subject() != envelope.author || record.credential.hash() != envelope.credential {
                    return Err(Halt::Refuse(Reason::NotPermitted, "the record of another node or credential".to_owned()));
                }
                self.check_member(envelope, Some(&record.credential))?;
            }
            Value::Retired(_) | Value::Revoked(_) => self.check_authority(envelope)?,
            Value::Tag(record) => {
                if TagRecord::key(&record.repository, &record.tag) != envelope.key {
                    return Err(Halt::Refuse(Reason::NotPermitted, "a tag under another's key".to_owned()));
                }
                if record.set_at.as_millis() > version {
                    return Err(Halt::Refuse(Reason::NotPermitted, "a tag that is set later than it is said".to_owned()));
                }
                self.check_member(envelope, None)?;
            }
        }
        self.admit_register(offer, version, value)
    }

    /// What rests on the clock is final only while the clock can be believed.
    fn by_the_clock(&self, reason: Reason, why: String) -> Halt {
        if self.state.clock.plausible(self.now) { Halt::Refuse(reason, why) } else { Halt::Wait(On::Clock) }
    }

    fn check_member(&self, envelope: &Envelope, presented: Option<&Credential>) -> Result<(), Halt> {
        let author = envelope.author;
        let own = (author == self.signer.id()).then_some(&self.signer.credential);
        let Some(credential) = presented.or_else(|| self.state.registers.credential(&author)).or(own) else {
            return Err(Halt::Wait(On::Credential(author)));
        };
        match self.membership.verify(&author, credential, self.now) {
            Ok(()) => Ok(()),
            // It may have been renewed, and the record that says so is under way.
            Err(_) if credential.hash() != envelope.credential => Err(Halt::Wait(On::Credential(author))),
            Err(why) => Err(self.by_the_clock(Reason::NotMember, why)),
        }
    }

    /// Retiring and revoking are the authority's; in deterministic mode, which has none, any member may retire.
    fn check_authority(&self, envelope: &Envelope) -> Result<(), Halt> {
        let not_permitted = || Halt::Refuse(Reason::NotPermitted, format!("{:?} by another than the authority", envelope.kind));
        match (self.membership.authority(), envelope.kind) {
            (Some(authority), _) if authority == envelope.author && authority != envelope.subject() => Ok(()),
            (None, Kind::Retired) => {
                self.check_member(envelope, None)?;
                let known = self.state.registers.node(&envelope.subject()).is_some();
                if known { Ok(()) } else { Err(Halt::Wait(On::Credential(envelope.subject()))) }
            }
            _ => Err(not_permitted()),
        }
    }

    fn admit_register(&mut self, offer: &Offer, version: u64, value: Value) -> Result<(), Halt> {
        let (id, envelope) = (offer.id, &offer.envelope);
        let effect = self.state.registers.effect(&id, envelope, version);
        if effect == Effect::Stale {
            return Err(Halt::Stale);
        }
        if Timestamp::from_millis(version) > self.state.clock.latest(self.now) {
            return Err(Halt::Wait(On::Clock));
        }
        let subject = envelope.subject();
        let fresh = self.state.registers.slot(envelope.kind, &subject, &envelope.author).is_none();
        if envelope.kind == Kind::Node && fresh && self.state.registers.count(Kind::Node) >= self.limits.nodes {
            return Err(Halt::Refuse(Reason::TooMany, "node records".to_owned()));
        }
        if envelope.kind == Kind::Tag && fresh {
            let others = self.state.registers.by_authors(Kind::Tag).filter(|(author, _)| *author == envelope.author);
            if others.count() >= self.limits.tags_per_author {
                return Err(Halt::Refuse(Reason::TooMany, "tags of one author".to_owned()));
            }
        }
        match effect {
            Effect::Clone(Some(surplus)) if surplus == id => {
                return Err(Halt::Refuse(Reason::Surplus, "a third claim to one version".to_owned()));
            }
            Effect::Clone(surplus) => {
                self.report_clone(envelope.author);
                if let Some(surplus) = surplus {
                    self.take_out(&surplus)?;
                }
            }
            Effect::Replaces(older) => older.iter().try_for_each(|older| self.take_out(older).map(|_| ()))?,
            Effect::Stale => unreachable!("handled above"),
        }
        self.tables.put(&id, envelope, &offer.bytes)?;
        self.state.registers.insert(id, envelope, version, value);
        match envelope.kind {
            Kind::Node => self.met(envelope)?,
            Kind::Retired => self.changes.extend([Change::Retired(subject)]),
            Kind::Revoked => self.purge(subject)?,
            Kind::Tag => self.changes.extend([Change::Tag(envelope.key)]),
            Kind::Distribution => unreachable!("a change is no register"),
        }
        Ok(())
    }

    /// A node's record is here: follows its lives, and lets in what waited for its credential.
    fn met(&mut self, envelope: &Envelope) -> Result<(), redb::Error> {
        let node = envelope.author;
        let mut lives = self.tables.lives(&node)?;
        if lives.last() != Some(&envelope.incarnation) {
            if lives.contains(&envelope.incarnation) {
                self.report_clone(node);
                lives.retain(|life| *life != envelope.incarnation);
            }
            lives.push(envelope.incarnation);
            let forgotten = lives.len().saturating_sub(MAX_LIVES);
            self.tables.set_lives(&node, &lives[forgotten..])?;
        }
        self.state.refused.forget_stranger(&mut self.tables, &node)?;
        self.woken.extend(self.state.waiting.wake(On::Credential(node)));
        self.changes.insert(Change::Node(node));
        Ok(())
    }

    fn report_clone(&mut self, endpoint: EndpointId) {
        tracing::warn!(endpoint = %endpoint.short(), "two lives or copies of one endpoint speak at once");
        self.state.stats.clones += 1;
        self.clones.insert(endpoint);
    }

    /// Drops all that a revoked endpoint said, and what followed it.
    fn purge(&mut self, endpoint: EndpointId) -> Result<(), redb::Error> {
        self.changes.insert(Change::Revoked(endpoint));
        self.state.waiting.purge(&endpoint);
        let mut documents = BTreeSet::new();
        for id in self.tables.by_author(&endpoint)? {
            self.state.stats.purged += 1;
            match self.take_out(&id)? {
                Some(envelope) if envelope.kind == Kind::Distribution => {
                    documents.insert(envelope.distribution());
                }
                Some(envelope) => self.reload_register(envelope.kind, envelope.subject())?,
                None => {}
            }
        }
        for id in documents {
            self.state.loaded.take(&id);
            let document = self.load(&id)?;
            if document.distribution().is_none() {
                self.state.documents.remove(&id);
            }
            self.changes.insert(Change::Distribution(id));
        }
        Ok(())
    }

    fn admit_change(&mut self, offer: &Offer) -> Result<(), Halt> {
        let id = offer.envelope.distribution();
        let mut document = self.document(&id)?;
        let admitted = self.admit_into(&mut document, offer);
        if !document.is_empty() {
            self.state.loaded.put(id, document);
        }
        admitted
    }

    fn admit_into(&mut self, document: &mut Document, offer: &Offer) -> Result<(), Halt> {
        let envelope = &offer.envelope;
        let id = envelope.distribution();
        let entry = match document.judge(envelope) {
            Ok(Verdict::Fits(entry)) => entry,
            Ok(Verdict::Waits) => return Err(Halt::Wait(On::Document(id))),
            Err(error @ (ChangeError::TooManyLives | ChangeError::TooManyChanges)) => {
                return Err(Halt::Refuse(Reason::TooMany, error.to_string()));
            }
            Err(error) => return Err(Halt::Refuse(Reason::Change, error.to_string())),
        };
        if document.len() >= self.limits.envelopes_per_document {
            return Err(Halt::Refuse(Reason::TooMany, "envelopes of one distribution".to_owned()));
        }
        if let Some(manifest) = entry.manifest() {
            if manifest.made_at > self.state.clock.latest(self.now) {
                return Err(Halt::Wait(On::Clock));
            }
            let count = self.state.documents.count_of(&manifest.sender);
            if !self.state.documents.contains(&id) && count >= self.limits.documents_per_sender {
                return Err(Halt::Refuse(Reason::TooMany, "distributions of one sender".to_owned()));
            }
            self.state.documents.insert(id, manifest.sender);
        }
        let inserted = document.insert(offer.id, *entry);
        if inserted.clone {
            self.report_clone(envelope.author);
        }
        for dropped in inserted.dropped.iter().filter(|dropped| **dropped != offer.id) {
            self.take_out(dropped)?;
            self.refuse(*dropped, Some(envelope.author), offer.from, Reason::Surplus, "a third claim to one place")?;
        }
        if inserted.dropped.contains(&offer.id) {
            return Err(Halt::Refuse(Reason::Surplus, "a third claim to one place".to_owned()));
        }
        self.tables.put(&offer.id, envelope, &offer.bytes)?;
        self.changes.insert(Change::Distribution(id));
        self.woken.extend(self.state.waiting.wake(On::Document(id)));
        Ok(())
    }

    /// A document as this transaction has it, taken out of those in memory. The caller puts it back.
    pub(super) fn document(&mut self, id: &DistributionId) -> Result<Document, redb::Error> {
        match self.state.loaded.take(id) {
            Some(document) => Ok(document),
            None => self.load(id),
        }
    }

    /// Reads a document, and drops those of its envelopes that do not belong there any more.
    fn load(&mut self, id: &DistributionId) -> Result<Document, redb::Error> {
        let envelopes = self.tables.about(Kind::Distribution, id.as_bytes())?;
        let (document, orphans) = load(id, envelopes);
        orphans.iter().try_for_each(|orphan| self.take_out(orphan).map(|_| ()))?;
        Ok(document)
    }

    fn reload_register(&mut self, kind: Kind, subject: EndpointId) -> Result<(), redb::Error> {
        self.state.registers.clear(kind, subject);
        for (id, bytes) in self.tables.about(kind, subject.as_bytes())? {
            if let Ok(envelope) = Envelope::decode(&bytes)
                && let Some((version, value)) = Value::read(&envelope)
            {
                self.state.registers.insert(id, &envelope, version, value);
            }
        }
        if kind == Kind::Node && self.state.registers.node(&subject).is_none() {
            self.tables.remove_lives(&subject)?;
        }
        self.changes.insert(match kind {
            Kind::Retired => Change::Retired(subject),
            Kind::Revoked => Change::Revoked(subject),
            Kind::Tag => Change::Tag(*subject.as_bytes()),
            Kind::Node | Kind::Distribution => Change::Node(subject),
        });
        Ok(())
    }

    fn take_out(&mut self, id: &EnvelopeId) -> Result<Option<Envelope>, redb::Error> {
        self.dirty = true;
        self.state.snapshots.forget();
        self.recent.remove(id);
        self.tables.remove(id)
    }

    /// Drops what expired, if the clock can be believed.
    pub(super) fn expire(&mut self) -> Result<(), redb::Error> {
        if !self.state.clock.plausible(self.now) {
            return Ok(());
        }
        for id in self.tables.expired_before(self.now.minus(GRACE))? {
            self.state.stats.expired += 1;
            match self.take_out(&id)? {
                Some(envelope) if envelope.kind == Kind::Distribution => {
                    let id = envelope.distribution();
                    self.state.loaded.take(&id);
                    self.state.documents.remove(&id);
                    self.changes.insert(Change::Distribution(id));
                }
                Some(envelope) => self.reload_register(envelope.kind, envelope.subject())?,
                None => {}
            }
        }
        Ok(())
    }
}

/// A document from its envelopes at rest; beside it those that do not belong there any more.
pub(super) fn load(
    id: &DistributionId,
    envelopes: impl IntoIterator<Item = (EnvelopeId, bytes::Bytes)>,
) -> (Document, Vec<EnvelopeId>) {
    let mut damaged = Vec::new();
    let readable: Vec<_> = envelopes
        .into_iter()
        .filter_map(|(id, bytes)| match Envelope::decode(&bytes) {
            Ok(envelope) => Some((id, envelope)),
            Err(_) => {
                damaged.push(id);
                None
            }
        })
        .collect();
    let (document, orphans) = Document::load(*id, readable);
    damaged.extend(orphans);
    (document, damaged)
}
