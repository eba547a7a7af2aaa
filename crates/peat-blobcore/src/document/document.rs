//! One distribution's envelopes as a set, and what the set says. What it says follows from the set alone, in whatever order
//! the envelopes came: it is what Automerge makes of those changes that count. Must never count a change that was not
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use automerge::{Automerge, ChangeHash};

use super::change::{ChangeError, DocumentChange, MAX_DEPS, MAX_SEQ, actor_of};
use super::envelope::{MAX_CHANGE_BYTES, MAX_SENDER_CHANGE_BYTES};
use super::history::History;
use super::{Body, Distribution, Envelope, change_reader, projection};
use crate::model::{DistributionId, EndpointId, EnvelopeId, Incarnation, Manifest};

/// Most lives of one author in one document.
const MAX_LIVES: usize = MAX_DEPS;
/// Envelopes that claim one place and are kept: the one that counts, and one to prove it.
const MAX_CLAIMS: usize = 2;

/// A change that was judged, with who says it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub(super) author: EndpointId,
    pub(super) incarnation: Incarnation,
    pub(super) change: DocumentChange,
    /// The manifest, if it is a first change.
    pub(super) manifest: Option<Manifest>,
}

impl Entry {
    /// The manifest, if this is a sender's first change.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}

/// Whether a change belongs into a document.
#[derive(Debug)]
pub enum Verdict {
    /// It does.
    Fits(Box<Entry>),
    /// What it depends on is not here yet.
    Waits,
}

/// What an insertion did to the set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Envelopes that are no longer kept: a third claim to one place, and what depended on it.
    pub dropped: Vec<EnvelopeId>,
    /// Whether another envelope claims the same place.
    pub clone: bool,
}

/// What may be there once. (Two lives of a sender may both claim to be the first.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    First,
    Next(EndpointId, Incarnation, u64),
}

/// The envelopes of one distribution and what they say.
#[derive(Debug)]
pub struct Document {
    pub(super) id: DistributionId,
    pub(super) entries: BTreeMap<EnvelopeId, Entry>,
    by_hash: BTreeMap<ChangeHash, BTreeSet<EnvelopeId>>,
    claims: BTreeMap<Claim, BTreeSet<EnvelopeId>>,
    /// The changes that count, each by the envelope that brings it.
    pub(super) applied: BTreeMap<ChangeHash, EnvelopeId>,
    automerge: Automerge,
    view: Option<Arc<Distribution>>,
}

impl Document {
    /// The document without an envelope.
    #[must_use]
    pub fn new(id: DistributionId) -> Self {
        Self {
            id,
            entries: BTreeMap::new(),
            by_hash: BTreeMap::new(),
            claims: BTreeMap::new(),
            applied: BTreeMap::new(),
            automerge: Automerge::new(),
            view: None,
        }
    }

    /// The document of envelopes that were judged when they came. Returned beside it are those that do not belong there any
    /// more: what they follow was taken away, or they were damaged since.
    #[must_use]
    pub fn load(id: DistributionId, envelopes: impl IntoIterator<Item = (EnvelopeId, Envelope)>) -> (Self, Vec<EnvelopeId>) {
        let mut document = Self::new(id);
        let mut orphans = Vec::new();
        for (id, envelope) in envelopes {
            match Entry::read(&envelope) {
                Some(entry) => document.add(id, entry),
                None => orphans.push(id),
            }
        }
        orphans.extend(document.settle());
        (document, orphans)
    }

    /// The sender, if an envelope that was judged when it came is a first change.
    #[must_use]
    pub fn sender_of(envelope: &Envelope) -> Option<EndpointId> {
        match &envelope.body {
            Body::Change(bytes) if change_reader::follows_nothing(bytes) => Some(envelope.author),
            _ => None,
        }
    }

    /// What the envelopes say; nothing without a first change.
    #[must_use]
    pub fn distribution(&self) -> Option<Arc<Distribution>> {
        self.view.clone()
    }

    /// Whether the envelope is in the set.
    #[cfg(test)]
    pub(super) fn contains(&self, id: &EnvelopeId) -> bool {
        self.entries.contains_key(id)
    }

    /// How many envelopes are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no envelope is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The envelopes in the set, each after those that it follows.
    #[must_use]
    pub fn in_order(&self) -> Vec<EnvelopeId> {
        let mut ordered: Vec<_> = self.entries.iter().map(|(id, entry)| (entry.change.max_op(), *id)).collect();
        // A change's operations come after those of all that it depends on.
        ordered.sort_unstable();
        ordered.into_iter().map(|(_, id)| id).collect()
    }

    /// The envelopes in the set.
    #[cfg(test)]
    pub(super) fn envelopes(&self) -> impl Iterator<Item = EnvelopeId> {
        self.entries.keys().copied()
    }

    /// The author's envelope that counts and that none of its later ones follows: the receipt, if its record is one.
    #[must_use]
    pub fn last_of(&self, author: &EndpointId) -> Option<EnvelopeId> {
        let applied = self.applied.values().filter(|id| self.entries.get(id).is_some_and(|entry| entry.author == *author));
        applied.max_by_key(|id| self.entries.get(id).map(|entry| entry.change.max_op())).copied()
    }

    /// How many more changes this life of an author may write.
    #[must_use]
    pub fn changes_left(&self, author: &EndpointId, incarnation: &Incarnation) -> u32 {
        let entries = self.applied.values().filter_map(|id| self.entries.get(id));
        let written = entries.filter(|entry| entry.author == *author && entry.incarnation == *incarnation).count() as u64;
        u32::try_from(MAX_SEQ.saturating_sub(written)).expect("the limit is small")
    }

    /// The life in which the sender made the first change that counts.
    #[must_use]
    pub fn first_incarnation(&self) -> Option<Incarnation> {
        self.first().map(|(_, entry)| entry.incarnation)
    }

    /// Whether an envelope of this document belongs into it. Its signature and its author's membership are judged elsewhere.
    ///
    /// # Errors
    /// [`ChangeError`] when no honest author makes such a change.
    pub fn judge(&self, envelope: &Envelope) -> Result<Verdict, ChangeError> {
        let Body::Change(bytes) = &envelope.body else {
            return Err(ChangeError::Malformed("it is a register"));
        };
        if bytes.len() > MAX_SENDER_CHANGE_BYTES {
            return Err(ChangeError::TooLarge(bytes.len()));
        }
        let change = DocumentChange::parse(bytes)?;
        let actor = actor_of(&envelope.author, &envelope.incarnation, &self.id);
        if change.expanded.actor_id != actor {
            return Err(ChangeError::ForgedActor);
        }
        let (author, incarnation) = (envelope.author, envelope.incarnation);
        if change.expanded.deps.is_empty() {
            let manifest = self.judge_first(envelope, &change)?;
            return Ok(Verdict::Fits(Box::new(Entry { author, incarnation, change, manifest: Some(manifest) })));
        }
        let entry = Entry { author, incarnation, change, manifest: None };
        let Some(lineage) = self.lineage(&author, &entry.change.expanded.deps)? else {
            return Ok(Verdict::Waits);
        };
        self.judge_next(envelope, &entry, &lineage)?;
        Ok(Verdict::Fits(Box::new(entry)))
    }

    fn judge_first(&self, envelope: &Envelope, change: &DocumentChange) -> Result<Manifest, ChangeError> {
        let bytes = projection::manifest_bytes(change).ok_or_else(|| ChangeError::Manifest("there is none".to_owned()))?;
        if Manifest::id_of(bytes) != self.id {
            return Err(ChangeError::Manifest("its hash is not the document's id".to_owned()));
        }
        let manifest = Manifest::decode(bytes).map_err(|error| ChangeError::Manifest(error.to_string()))?;
        if manifest.sender != envelope.author {
            return Err(ChangeError::Manifest("it names another sender".to_owned()));
        }
        if manifest.expiry != envelope.expiry {
            return Err(ChangeError::Expiry);
        }
        let expected = DocumentChange::first(change.expanded.actor_id.clone(), bytes);
        if expected.hash() == change.hash() { Ok(manifest) } else { Err(ChangeError::Foreign("beside the manifest".to_owned())) }
    }

    fn judge_next(&self, envelope: &Envelope, entry: &Entry, lineage: &Lineage<'_>) -> Result<(), ChangeError> {
        let manifest = lineage.first.manifest.as_ref().expect("a first change has a manifest");
        let size = entry.change.bytes().len();
        if size > MAX_CHANGE_BYTES && manifest.sender != entry.author {
            return Err(ChangeError::TooLarge(size));
        }
        if manifest.expiry != envelope.expiry {
            return Err(ChangeError::Expiry);
        }
        if entry.change.expanded.seq != lineage.last_seq(&entry.author, &entry.incarnation) + 1 {
            return Err(ChangeError::OutOfSequence("its sequence number is not the next"));
        }
        if entry.change.expanded.start_op.get() != lineage.max_op() + 1 {
            return Err(ChangeError::OutOfSequence("its first operation is not the next"));
        }
        let own = self.entries.values().filter(|other| other.author == entry.author);
        let lives: BTreeSet<Incarnation> = own.map(|other| other.incarnation).collect();
        if lives.len() >= MAX_LIVES && !lives.contains(&entry.incarnation) {
            return Err(ChangeError::TooManyLives);
        }
        lineage.history(&entry.author).extend(&entry.change)
    }

    /// What an entry follows. Nothing when some of it is not here.
    pub(super) fn lineage(&self, author: &EndpointId, deps: &[ChangeHash]) -> Result<Option<Lineage<'_>>, ChangeError> {
        let mut first: Option<&Entry> = None;
        let mut own = BTreeMap::new();
        let mut open = deps.to_vec();
        while let Some(hash) = open.pop() {
            let Some(ancestor) = self.by_change(&hash) else {
                return Ok(None);
            };
            if ancestor.manifest.is_some() {
                if first.is_some_and(|first| first.change.hash() != hash) {
                    return Err(ChangeError::OutOfSequence("it follows two first changes"));
                }
                first = Some(ancestor);
            } else if ancestor.author != *author {
                return Err(ChangeError::OutOfSequence("it follows another author's change"));
            } else if own.insert((ancestor.change.expanded.start_op.get(), hash), ancestor).is_none() {
                open.extend(&ancestor.change.expanded.deps);
            }
        }
        let first = first.ok_or(ChangeError::OutOfSequence("it does not follow a first change"))?;
        Ok(Some(Lineage { first, own }))
    }

    /// The first change that counts.
    pub(super) fn first(&self) -> Option<(EnvelopeId, &Entry)> {
        let id = self.claims.get(&Claim::First)?.first()?;
        Some((*id, self.entries.get(id)?))
    }

    fn by_change(&self, hash: &ChangeHash) -> Option<&Entry> {
        self.entries.get(self.by_hash.get(hash)?.first()?)
    }

    /// Adds a change that was judged to fit this document as it is now.
    pub fn insert(&mut self, id: EnvelopeId, entry: Entry) -> Inserted {
        let lone = !self.claims.contains_key(&entry.claim());
        let follows = entry.change.expanded.deps.iter().all(|dep| self.applied.contains_key(dep));
        self.add(id, entry);
        if !lone {
            return Inserted { dropped: self.settle(), clone: true };
        }
        if follows {
            self.apply(id);
        }
        Inserted::default()
    }

    fn add(&mut self, id: EnvelopeId, entry: Entry) {
        self.claims.entry(entry.claim()).or_default().insert(id);
        self.by_hash.entry(entry.change.hash()).or_default().insert(id);
        self.entries.insert(id, entry);
    }

    /// Takes out the claims beyond the two lowest of each place, and what follows nothing any more; then counts, from
    /// nothing, in each place the lowest of those that follow what counts.
    fn settle(&mut self) -> Vec<EnvelopeId> {
        let mut dropped = Vec::new();
        loop {
            let beyond = self.claims.values().flat_map(|ids| ids.iter().skip(MAX_CLAIMS));
            let orphans = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.change.expanded.deps.iter().any(|dep| !self.by_hash.contains_key(dep)));
            let going: BTreeSet<EnvelopeId> = beyond.chain(orphans.map(|(id, _)| id)).copied().collect();
            if going.is_empty() {
                break;
            }
            dropped.extend(going.into_iter().filter(|id| self.take(id)));
        }
        self.automerge = Automerge::new();
        self.applied.clear();
        self.view = None;
        let mut settled = BTreeSet::new();
        loop {
            let follows = |id: &&EnvelopeId| {
                let deps = self.entries.get(id).map(|entry| &entry.change.expanded.deps);
                deps.is_some_and(|deps| deps.iter().all(|dep| self.applied.contains_key(dep)))
            };
            let open = self.claims.iter().filter(|(claim, _)| !settled.contains(*claim));
            let next: Vec<(Claim, EnvelopeId)> =
                open.filter_map(|(claim, ids)| Some((*claim, *ids.iter().find(follows)?))).collect();
            if next.is_empty() {
                return dropped;
            }
            for (claim, id) in next {
                settled.insert(claim);
                self.apply(id);
            }
        }
    }

    fn take(&mut self, id: &EnvelopeId) -> bool {
        let Some(entry) = self.entries.remove(id) else {
            return false;
        };
        drop_from(&mut self.claims, &entry.claim(), id);
        drop_from(&mut self.by_hash, &entry.change.hash(), id);
        true
    }

    /// Lets a change count: what it follows counts already, and nothing else in its place does.
    fn apply(&mut self, id: EnvelopeId) {
        let entry = self.entries.get(&id).expect("only entries are applied");
        self.applied.insert(entry.change.hash(), id);
        self.automerge.apply_changes([entry.change.stored.clone()]).expect("a judged change applies to what it follows");
        match (&entry.manifest, &mut self.view) {
            (Some(manifest), _) => self.view = Some(Arc::new(projection::empty(self.id, manifest.clone()))),
            (None, Some(view)) => projection::refresh(&self.automerge, &entry.author, Arc::make_mut(view)),
            (None, None) => unreachable!("every other change follows a first one"),
        }
    }
}

impl Entry {
    fn read(envelope: &Envelope) -> Option<Self> {
        let Body::Change(bytes) = &envelope.body else { return None };
        let change = DocumentChange::parse(bytes).ok()?;
        let manifest = match change.expanded.deps.is_empty() {
            true => Some(Manifest::decode(projection::manifest_bytes(&change)?).ok()?),
            false => None,
        };
        Some(Self { author: envelope.author, incarnation: envelope.incarnation, change, manifest })
    }

    fn claim(&self) -> Claim {
        match self.manifest {
            Some(_) => Claim::First,
            None => Claim::Next(self.author, self.incarnation, self.change.expanded.seq),
        }
    }
}

/// What a change follows.
pub(super) struct Lineage<'a> {
    /// The sender's first change.
    pub(super) first: &'a Entry,
    /// The author's own changes, in an order in which they can be replayed.
    pub(super) own: BTreeMap<(u64, ChangeHash), &'a Entry>,
}

impl Lineage<'_> {
    /// The sequence number of the last change in one life of the author; 0 before the first.
    pub(super) fn last_seq(&self, author: &EndpointId, incarnation: &Incarnation) -> u64 {
        let began = self.first.author == *author && self.first.incarnation == *incarnation;
        let own = self.own.values().filter(|entry| entry.incarnation == *incarnation);
        own.map(|entry| entry.change.expanded.seq).max().unwrap_or(0).max(u64::from(began))
    }

    /// What the author may write next.
    pub(super) fn history(&self, author: &EndpointId) -> History {
        let mut history = History::new(&self.first.change.expanded.actor_id, author, self.first.author == *author);
        self.own.values().for_each(|entry| history.replay(&entry.change));
        history
    }

    /// The counter of the last operation.
    pub(super) fn max_op(&self) -> u64 {
        self.own.values().map(|entry| entry.change.max_op()).max().unwrap_or(0).max(self.first.change.max_op())
    }
}

fn drop_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<EnvelopeId>>, key: &K, id: &EnvelopeId) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}
