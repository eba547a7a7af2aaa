//! The registers in memory: for each key and author the value with the highest version, and where two envelopes claim that
//! version, the one with the lower id, the other kept as proof. Must never depend on the order in which they came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::document::{Body, Envelope, Kind};
use crate::model::{Credential, EndpointId, EnvelopeId, NodeRecord, Retirement, Revocation, TagRecord, decode_whole};

/// The value of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Node(Arc<NodeRecord>),
    Retired(Retirement),
    Revoked(Revocation),
    Tag(TagRecord),
}

impl Value {
    /// Reads the value that an envelope carries, if it is of its kind.
    pub(super) fn read(envelope: &Envelope) -> Option<(u64, Self)> {
        let Body::Register { version, value } = &envelope.body else { return None };
        let value = match envelope.kind {
            Kind::Distribution => None,
            Kind::Node => decode_whole(value).ok().map(|record| Self::Node(Arc::new(record))),
            Kind::Retired => decode_whole(value).ok().map(Self::Retired),
            Kind::Revoked => decode_whole(value).ok().map(Self::Revoked),
            Kind::Tag => decode_whole(value).ok().map(Self::Tag),
        };
        Some((*version, value?))
    }
}

/// What one author says under one key.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) version: u64,
    pub(super) value: Value,
    /// The envelopes of that version: the one that counts, and perhaps one more.
    pub(super) ids: BTreeSet<EnvelopeId>,
}

impl Slot {
    pub(super) fn tag(&self) -> Option<&TagRecord> {
        match &self.value {
            Value::Tag(record) => Some(record),
            _ => None,
        }
    }
}

/// What an envelope does to a register.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is older than what is there.
    Stale,
    /// It replaces these envelopes.
    Replaces(BTreeSet<EnvelopeId>),
    /// It claims the version of another; the third, if any, is too many.
    Clone(Option<EnvelopeId>),
}

/// All registers.
#[derive(Debug, Default)]
pub(super) struct Registers(BTreeMap<(Kind, EndpointId, EndpointId), Slot>);

impl Registers {
    pub(super) fn effect(&self, id: &EnvelopeId, envelope: &Envelope, version: u64) -> Effect {
        match self.0.get(&(envelope.kind, envelope.subject(), envelope.author)) {
            None => Effect::Replaces(BTreeSet::new()),
            Some(slot) if slot.version > version => Effect::Stale,
            Some(slot) if slot.version < version => Effect::Replaces(slot.ids.clone()),
            Some(slot) => Effect::Clone(slot.ids.iter().chain([id]).max().filter(|_| slot.ids.len() > 1).copied()),
        }
    }

    /// Puts in what [`Registers::effect`] was asked about.
    pub(super) fn insert(&mut self, id: EnvelopeId, envelope: &Envelope, version: u64, value: Value) {
        let key = (envelope.kind, envelope.subject(), envelope.author);
        let slot = self.0.entry(key).or_insert_with(|| Slot { version, value: value.clone(), ids: BTreeSet::new() });
        if slot.version < version {
            *slot = Slot { version, value: value.clone(), ids: BTreeSet::new() };
        }
        slot.ids.insert(id);
        if slot.ids.first() == Some(&id) {
            slot.value = value;
        }
        if slot.ids.len() > 2 {
            slot.ids.pop_last();
        }
    }

    /// Takes out what everyone says under a key.
    pub(super) fn clear(&mut self, kind: Kind, subject: EndpointId) {
        self.0.retain(|(other_kind, other, _), _| (*other_kind, *other) != (kind, subject));
    }

    pub(super) fn slot(&self, kind: Kind, subject: &EndpointId, author: &EndpointId) -> Option<&Slot> {
        self.0.get(&(kind, *subject, *author))
    }

    pub(super) fn node(&self, id: &EndpointId) -> Option<&Arc<NodeRecord>> {
        match &self.slot(Kind::Node, id, id)?.value {
            Value::Node(record) => Some(record),
            _ => None,
        }
    }

    pub(super) fn credential(&self, id: &EndpointId) -> Option<&Credential> {
        self.node(id).map(|record| &record.credential)
    }

    pub(super) fn is_revoked(&self, id: &EndpointId) -> bool {
        self.is_declared(Kind::Revoked, id)
    }

    /// Whether anybody says something under a key.
    pub(super) fn is_declared(&self, kind: Kind, id: &EndpointId) -> bool {
        let zero = EndpointId::from_bytes([0; 32]);
        self.0.range((kind, *id, zero)..).next().is_some_and(|((found, subject, _), _)| (*found, *subject) == (kind, *id))
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.of(kind).count()
    }

    /// What everyone says under a key, with the versions.
    pub(super) fn about(&self, kind: Kind, subject: EndpointId) -> impl Iterator<Item = (EndpointId, &Slot)> {
        let zero = EndpointId::from_bytes([0; 32]);
        let range = self.0.range((kind, subject, zero)..);
        range
            .take_while(move |((other_kind, other, _), _)| (*other_kind, *other) == (kind, subject))
            .map(|((.., author), slot)| (*author, slot))
    }

    /// The registers of a kind with who wrote them.
    pub(super) fn by_authors(&self, kind: Kind) -> impl Iterator<Item = (EndpointId, &Slot)> {
        let zero = EndpointId::from_bytes([0; 32]);
        let range = self.0.range((kind, zero, zero)..);
        range.take_while(move |((other, ..), _)| *other == kind).map(|((.., author), slot)| (*author, slot))
    }

    /// The registers of a kind with what they are about.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = (EndpointId, &Value)> {
        let zero = EndpointId::from_bytes([0; 32]);
        let range = self.0.range((kind, zero, zero)..);
        range.take_while(move |((other, ..), _)| *other == kind).map(|((_, subject, _), slot)| (*subject, &slot.value))
    }
}
