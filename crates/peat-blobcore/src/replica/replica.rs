//! The handle: what this node says, hears and knows. Each method is synchronous and may wait for the disk; callers run them
//! where blocking is allowed. Must never leave memory and file different: after a failed write it reads the file again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iroh::SecretKey;
use tokio::sync::watch;

use super::batch::{Batch, Outcome, load};
use super::recent::Recent;
use super::registers::{Slot, Value};
use super::state::{self, State};
use super::store::{CLOCK, RECONCILED, Store, Tables};
use super::waiting::Offer;
use super::{Accepted, Limits, Membership, Reason, ReplicaError, Signer, Stats};
use crate::clock::Clock;
use crate::document::{Body, Distribution, Document, Edit, Envelope, EnvelopeError, Kind, Section, first_change};
use crate::fault;
use crate::model::{
    Credential, DistributionId, EndpointId, EnvelopeId, Manifest, NodeRecord, Retirement, Revocation, TagRecord, TagTarget,
    TargetRecord, Timestamp, encode,
};

/// How long a node's record and its tags count. Nodes say them again long before.
const LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// When a node says them again though nothing in them changed.
const RENEWAL: Duration = Duration::from_secs(60 * 24 * 3600);

/// A node's replica. Clones share it.
#[derive(Clone)]
pub struct Replica {
    core: Arc<Core>,
}

/// A handle for who may outlive the node.
#[derive(Debug, Clone)]
pub(crate) struct WeakReplica(std::sync::Weak<Core>);

impl WeakReplica {
    /// The replica, while it is open.
    pub(crate) fn upgrade(&self) -> Option<Replica> {
        self.0.upgrade().map(|core| Replica { core })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("node", &self.core.signer.id()).finish_non_exhaustive()
    }
}

struct Core {
    store: Store,
    signer: Signer,
    membership: Arc<dyn Membership>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    state: Mutex<State>,
    recent: Recent,
    /// The last to be dropped: who waits for it knows that the file is closed.
    open: watch::Sender<()>,
}

impl Replica {
    /// Opens the replica in the file `path`, or makes it.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when the file cannot be read or another process has it open.
    pub fn open(
        path: &Path,
        signer: Signer,
        membership: Arc<dyn Membership>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Result<Self, ReplicaError> {
        let now = clock.now();
        let (store, state) = state::open(path, &limits, now, &signer.incarnation)?;
        let (state, open) = (Mutex::new(state), watch::Sender::new(()));
        let recent = Recent::default();
        let replica = Self { core: Arc::new(Core { store, signer, membership, clock, limits, state, recent, open }) };
        if replica.core.store.meta(CLOCK)?.is_none() {
            replica.batch(|batch| {
                batch.dirty = true;
                let first = batch.state.clock.encode();
                Ok(batch.tables.set_meta(CLOCK, &first)?)
            })?;
        }
        Ok(replica)
    }

    /// A handle that does not keep the replica from closing.
    pub(crate) fn downgrade(&self) -> WeakReplica {
        WeakReplica(Arc::downgrade(&self.core))
    }

    /// Drops this handle and waits until the file is closed: until every other handle is gone, those of blocking work that
    /// was begun before included. Then the file can be opened again.
    pub async fn close(self) {
        let mut open = self.core.open.subscribe();
        drop(self);
        // Nothing is ever sent: it ends when the sender does.
        let _ = open.changed().await;
    }

    /// Takes in envelopes that a peer sent, or that came some other way, in one transaction. What is refused, known already
    /// or waits is counted, and no error.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when they could not be stored; nothing of them was then.
    pub fn accept(&self, from: Option<EndpointId>, envelopes: &[Bytes]) -> Result<Accepted, ReplicaError> {
        let mut opened = Vec::with_capacity(envelopes.len());
        let mut known = 0;
        for bytes in envelopes {
            let id = Envelope::id_of(bytes);
            if self.core.store.contains(&id)? {
                known += 1;
            } else {
                opened.push((id, bytes, Envelope::open(bytes)));
            }
        }
        if opened.is_empty() {
            self.lock().stats.known += known;
            return Ok(Accepted::default());
        }
        let ((), accepted) = self.batch(|batch| {
            batch.state.stats.known += known;
            for (id, bytes, opened) in opened {
                match opened {
                    Ok(envelope) => {
                        batch.offer(Offer { id, bytes: bytes.clone(), envelope, from })?;
                    }
                    Err(error) => {
                        let reason = match error {
                            EnvelopeError::UnknownKind(_) | EnvelopeError::UnknownVersion(_) => Reason::Unknown,
                            _ => Reason::Malformed,
                        };
                        batch.refuse(id, None, from, reason, &error.to_string())?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(accepted)
    }

    /// Whether an envelope came a moment ago, so that there is nothing to take in. Never waits for the disk.
    pub(crate) fn came_again(&self, envelope: &[u8]) -> bool {
        self.core.recent.came_again(&Envelope::id_of(envelope))
    }

    /// An envelope that came a moment ago. Never waits for the disk.
    pub(crate) fn recent(&self, id: &EnvelopeId) -> Option<Bytes> {
        self.core.recent.get(id)
    }

    /// Makes a distribution of a manifest whose sender is this node.
    ///
    /// # Errors
    /// [`ReplicaError`] when the manifest is refused or cannot be stored.
    pub fn create_distribution(&self, manifest: &Manifest) -> Result<(DistributionId, Accepted), ReplicaError> {
        let (id, change) = first_change(manifest, &self.core.signer.incarnation)?;
        let envelope = self.envelope_of_ours(Kind::Distribution, *id.as_bytes(), manifest.expiry, Body::Change(change));
        let ((), accepted) = self.batch(|batch| say(batch, &envelope, &self.core.signer.secret))?;
        Ok((id, accepted))
    }

    /// Says where this node stands with a distribution. Nothing is written when the document says so already.
    ///
    /// # Errors
    /// [`ReplicaError`] when there is no such distribution, or this node may not write to it (yet).
    pub fn record(&self, id: &DistributionId, section: Section, record: &TargetRecord) -> Result<Accepted, ReplicaError> {
        self.edit(id, Edit::Record(section, record))
    }

    /// Closes the set that completion of a distribution of this node's is judged by, for good.
    ///
    /// # Errors
    /// [`ReplicaError`] when there is no such distribution, or it is another's.
    pub fn write_roster(&self, id: &DistributionId, roster: &BTreeSet<EndpointId>) -> Result<Accepted, ReplicaError> {
        self.edit(id, Edit::Roster(roster))
    }

    /// Cancels a distribution of this node's, for good.
    ///
    /// # Errors
    /// [`ReplicaError`] when there is no such distribution, or it is another's.
    pub fn cancel(&self, id: &DistributionId) -> Result<Accepted, ReplicaError> {
        if self.distribution(id)?.is_some_and(|distribution| distribution.cancelled.is_some()) {
            return Ok(Accepted::default());
        }
        self.edit(id, Edit::Cancel(self.core.clock.now()))
    }

    fn edit(&self, id: &DistributionId, edit: Edit<'_>) -> Result<Accepted, ReplicaError> {
        let signer = &self.core.signer;
        let ((), accepted) = self.batch(|batch| {
            let document = batch.document(id)?;
            let drafted = draft(&document, id, signer, edit, batch.state.ready);
            if !document.is_empty() {
                batch.state.loaded.put(*id, document);
            }
            let Some((change, expiry)) = drafted? else { return Ok(()) };
            let envelope = self.envelope_of_ours(Kind::Distribution, *id.as_bytes(), expiry, Body::Change(change));
            say(batch, &envelope, &signer.secret)
        })?;
        Ok(accepted)
    }

    /// Publishes this node's record, with its credential. Nothing is written when it says so already.
    ///
    /// # Errors
    /// [`ReplicaError`] when it is too large or cannot be stored.
    pub fn publish_node(&self, record: &NodeRecord) -> Result<Accepted, ReplicaError> {
        let signer = &self.core.signer;
        let id = signer.id();
        let record = NodeRecord { credential: signer.credential.clone(), ..record.clone() };
        let ((), accepted) = self.batch(|batch| {
            let slot = batch.state.registers.slot(Kind::Node, &id, &id);
            if let Some(slot) = slot
                && slot.value == Value::Node(Arc::new(record.clone()))
                && batch.tables.lives(&id)?.last() == Some(&signer.incarnation)
                && batch.now.since(Timestamp::from_millis(slot.version)) < RENEWAL
            {
                return Ok(());
            }
            let version = batch.now.as_millis().max(slot.map_or(0, |slot| slot.version + 1));
            let body = Body::register(version, encode(&record))?;
            let expiry = Timestamp::from_millis(version).plus(LIFETIME);
            say(batch, &self.envelope_of_ours(Kind::Node, *id.as_bytes(), expiry, body), &signer.secret)
        })?;
        Ok(accepted)
    }

    /// Says what a tag points to, or that it is removed, as this node. Nothing is written when that counts already. It counts
    /// until somebody says otherwise later: it is set later than all that is known of the tag.
    ///
    /// # Errors
    /// [`ReplicaError`] when it is too large, there are too many, or it cannot be stored.
    pub fn publish_tag(&self, repository: &str, tag: &str, target: Option<TagTarget>) -> Result<Accepted, ReplicaError> {
        let me = self.core.signer.id();
        let ((), accepted) = self.batch(|batch| {
            let latest = latest(batch.state.registers.about(Kind::Tag, tag_key(repository, tag)));
            let after = latest.map_or(Timestamp::default(), |(_, _, record)| record.set_at.plus(Duration::from_millis(1)));
            if latest.is_some_and(|(author, _, record)| author == me && record.target == target) {
                return Ok(());
            }
            let (repository, tag) = (repository.to_owned(), tag.to_owned());
            self.say_tag(batch, &TagRecord { repository, tag, target, set_at: batch.now.max(after) })
        })?;
        Ok(accepted)
    }

    /// Says again those of this node's tags that would be forgotten one day.
    ///
    /// # Errors
    /// [`ReplicaError`] when they cannot be stored.
    pub fn renew_tags(&self) -> Result<Accepted, ReplicaError> {
        let me = self.core.signer.id();
        let ((), accepted) = self.batch(|batch| {
            let (now, registers) = (batch.now, &batch.state.registers);
            let is_old = |slot: &Slot| now.since(Timestamp::from_millis(slot.version)) >= RENEWAL;
            let own = registers.by_authors(Kind::Tag).filter(|(author, slot)| *author == me && is_old(slot));
            // What others have set since, and what was removed, is not said again.
            let counts = |record: &&TagRecord| {
                let latest = latest(registers.about(Kind::Tag, tag_key(&record.repository, &record.tag)));
                record.target.is_some() && latest.is_some_and(|(author, ..)| author == me)
            };
            let due: Vec<_> = own.filter_map(|(_, slot)| slot.tag()).filter(counts).cloned().collect();
            due.iter().try_for_each(|record| self.say_tag(batch, record))
        })?;
        Ok(accepted)
    }

    fn say_tag(&self, batch: &mut Batch<'_, '_>, record: &TagRecord) -> Result<(), ReplicaError> {
        let (key, me) = (tag_key(&record.repository, &record.tag), self.core.signer.id());
        let before = batch.state.registers.slot(Kind::Tag, &key, &me).map_or(0, |slot| slot.version + 1);
        let version = batch.now.max(record.set_at).as_millis().max(before);
        let body = Body::register(version, encode(record))?;
        let expiry = Timestamp::from_millis(version).plus(LIFETIME);
        say(batch, &self.envelope_of_ours(Kind::Tag, *key.as_bytes(), expiry, body), &self.core.signer.secret)
    }

    /// What counts of a tag, with who said it.
    #[must_use]
    pub fn tag(&self, repository: &str, tag: &str) -> Option<(EndpointId, TagRecord)> {
        let state = self.lock();
        latest(state.registers.about(Kind::Tag, tag_key(repository, tag))).map(|(author, _, record)| (author, record.clone()))
    }

    /// The same by the tag's [key](TagRecord::key).
    #[must_use]
    pub fn tag_of(&self, key: &[u8; 32]) -> Option<(EndpointId, TagRecord)> {
        let state = self.lock();
        let about = state.registers.about(Kind::Tag, EndpointId::from_bytes(*key));
        latest(about).map(|(author, _, record)| (author, record.clone()))
    }

    /// What counts of each tag, with who said it. Removed ones are among them.
    #[must_use]
    pub fn tags(&self) -> Vec<(EndpointId, TagRecord)> {
        let state = self.lock();
        let mut latest: BTreeMap<(&str, &str), Said<'_>> = BTreeMap::new();
        for said in state.registers.by_authors(Kind::Tag).filter_map(said) {
            let (author, set_at, record) = said;
            let place = latest.entry((&record.repository, &record.tag)).or_insert(said);
            if (set_at, author) > (place.1, place.0) {
                *place = said;
            }
        }
        latest.into_values().map(|(author, _, record)| (author, record.clone())).collect()
    }

    /// Declares a node gone for good, as this node: in deterministic mode any member may. Nothing is written when it was
    /// declared so before.
    ///
    /// # Errors
    /// [`ReplicaError::Refused`] when that is not permitted.
    pub fn retire(&self, node: &EndpointId, reason: &str) -> Result<Accepted, ReplicaError> {
        let ((), accepted) = self.batch(|batch| {
            if batch.state.registers.is_declared(Kind::Retired, node) {
                return Ok(());
            }
            let value = encode(&Retirement { time: batch.now, reason: reason.to_owned() });
            let body = Body::register(batch.now.as_millis(), value)?;
            let envelope = self.envelope_of_ours(Kind::Retired, *node.as_bytes(), Envelope::NEVER, body);
            say(batch, &envelope, &self.core.signer.secret)
        })?;
        Ok(accepted)
    }

    /// Takes in what the authority has declared of a node: see [`revocation`](crate::document::revocation) and
    /// [`retirement`](crate::document::retirement). Nothing is written when the authority has said so later.
    ///
    /// # Errors
    /// [`ReplicaError::Envelope`] when it is none, [`ReplicaError::Refused`] when its author is not the authority.
    pub fn declare(&self, declaration: Bytes) -> Result<Accepted, ReplicaError> {
        let envelope = Envelope::open(&declaration)?;
        let ((), accepted) = self.batch(|batch| take(batch, declaration, envelope))?;
        Ok(accepted)
    }

    /// What is known of a distribution.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when it cannot be read.
    pub fn distribution(&self, id: &DistributionId) -> Result<Option<Arc<Distribution>>, ReplicaError> {
        self.with_document(id, Document::distribution)
    }

    /// Whether a distribution is known, though its document may not be readable at the moment.
    #[must_use]
    pub fn knows(&self, id: &DistributionId) -> bool {
        self.lock().documents.contains(id)
    }

    /// The distributions that are known, in the order of their ids.
    #[must_use]
    pub fn distributions(&self) -> Vec<DistributionId> {
        self.lock().documents.ids().collect()
    }

    /// The last envelope of each target that says it has a distribution. Signed by the target, it can be shown to anyone.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when they cannot be read.
    pub fn receipts(&self, id: &DistributionId) -> Result<Vec<(EndpointId, Bytes)>, ReplicaError> {
        let receipts = self.with_document(id, |document| {
            let view = document.distribution()?;
            let signed = view.targets.iter().filter(|(_, record)| record.state.is_receipt());
            Some(signed.filter_map(|(target, _)| Some((*target, document.last_of(target)?))).collect::<Vec<_>>())
        })?;
        let mut found = Vec::new();
        for (target, id) in receipts.into_iter().flatten() {
            found.extend(self.envelope(&id)?.map(|bytes| (target, bytes)));
        }
        Ok(found)
    }

    pub(super) fn with_document<T>(
        &self,
        id: &DistributionId,
        read: impl FnOnce(&Document) -> Option<T>,
    ) -> Result<Option<T>, ReplicaError> {
        let mut state = self.lock();
        if !state.documents.contains(id) {
            return Ok(None);
        }
        let document = match state.loaded.take(id) {
            Some(document) => document,
            None => load(id, self.core.store.about(Kind::Distribution, id.as_bytes())?).0,
        };
        let found = read(&document);
        state.loaded.put(*id, document);
        Ok(found)
    }

    /// What the members say of themselves.
    #[must_use]
    pub fn nodes(&self) -> BTreeMap<EndpointId, Arc<NodeRecord>> {
        let pick = |(id, value): (EndpointId, &Value)| match value {
            Value::Node(record) => Some((id, record.clone())),
            _ => None,
        };
        self.lock().registers.of(Kind::Node).filter_map(pick).collect()
    }

    /// The nodes that are gone for good.
    #[must_use]
    pub fn retired(&self) -> BTreeMap<EndpointId, Retirement> {
        let pick = |(id, value): (EndpointId, &Value)| match value {
            Value::Retired(retirement) => Some((id, retirement.clone())),
            _ => None,
        };
        self.lock().registers.of(Kind::Retired).filter_map(pick).collect()
    }

    /// The nodes that were expelled.
    #[must_use]
    pub fn revoked(&self) -> BTreeMap<EndpointId, Revocation> {
        let pick = |(id, value): (EndpointId, &Value)| match value {
            Value::Revoked(revocation) => Some((id, revocation.clone())),
            _ => None,
        };
        self.lock().registers.of(Kind::Revoked).filter_map(pick).collect()
    }

    /// Whether a node was declared gone for good.
    #[must_use]
    pub fn is_retired(&self, id: &EndpointId) -> bool {
        self.lock().registers.is_declared(Kind::Retired, id)
    }

    /// Whether a node was expelled.
    #[must_use]
    pub fn is_revoked(&self, id: &EndpointId) -> bool {
        self.lock().registers.is_revoked(id)
    }

    /// The credential in a node's record.
    #[must_use]
    pub fn credential(&self, id: &EndpointId) -> Option<Credential> {
        self.lock().registers.credential(id).cloned()
    }

    /// An envelope's bytes.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when it cannot be read.
    pub fn envelope(&self, id: &EnvelopeId) -> Result<Option<Bytes>, ReplicaError> {
        Ok(self.core.store.envelope(id)?)
    }

    /// All envelopes about one thing: a distribution id, or the endpoint id that a register is about.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when they cannot be read.
    pub fn envelopes_of(&self, kind: Kind, key: &[u8; 32]) -> Result<Vec<(EnvelopeId, Bytes)>, ReplicaError> {
        Ok(self.core.store.about(kind, key)?)
    }

    /// Whether this life may write to documents that it did not make: it has reconciled with another node, and so knows what
    /// an earlier life of this node said.
    #[must_use]
    pub fn ready_to_write(&self) -> bool {
        self.lock().ready
    }

    /// Notes that a session with another node has ended, and all that it brought was taken in.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when it cannot be written down.
    pub fn mark_reconciled(&self) -> Result<(), ReplicaError> {
        if self.ready_to_write() {
            return Ok(());
        }
        self.batch(|batch| {
            batch.dirty = true;
            batch.tables.set_meta(RECONCILED, batch.signer.incarnation.as_bytes())?;
            Ok(())
        })?;
        self.lock().ready = true;
        Ok(())
    }

    /// Notes what a peer's clock says, to know what to think of our own.
    pub fn note_clock(&self, peer: EndpointId, theirs: Timestamp) {
        let now = self.core.clock.now();
        self.lock().clock.note(peer, theirs, now);
    }

    /// Drops what expired and tries again what was held back. To be called now and then, a minute apart, say.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when it cannot be written.
    pub fn expire(&self) -> Result<Accepted, ReplicaError> {
        let ((), accepted) = self.batch(|batch| {
            batch.expire()?;
            batch.state.snapshots.forget_idle(batch.now);
            Ok(batch.retry_held()?)
        })?;
        Ok(accepted)
    }

    /// Whether this node's clock is plausible: nothing expires by one that is not.
    #[must_use]
    pub fn clock_trusted(&self) -> bool {
        let now = self.core.clock.now();
        self.lock().clock.plausible(now)
    }

    /// How many more changes this life of the node may write to a distribution's document.
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when it cannot be read.
    pub fn changes_left(&self, id: &DistributionId) -> Result<u32, ReplicaError> {
        let signer = &self.core.signer;
        Ok(self.with_document(id, |document| Some(document.changes_left(&signer.id(), &signer.incarnation)))?.unwrap_or(0))
    }

    /// What one member says of itself.
    #[must_use]
    pub fn node(&self, id: &EndpointId) -> Option<Arc<NodeRecord>> {
        self.nodes().remove(id)
    }

    /// What was seen and what is held.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let now = self.core.clock.now();
        let state = self.lock();
        Stats {
            waiting: state.waiting.len(),
            refused_ids: state.refused.len(),
            documents: state.documents.len(),
            loaded: state.loaded.len(),
            clock_plausible: state.clock.plausible(now),
            known: state.stats.known + self.core.recent.known(),
            ..state.stats.clone()
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.core.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> &Store {
        &self.core.store
    }

    pub(super) fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    fn envelope_of_ours(&self, kind: Kind, key: [u8; 32], expiry: Timestamp, body: Body) -> Envelope {
        let signer = &self.core.signer;
        let credential = signer.credential.hash();
        Envelope { kind, key, author: signer.id(), incarnation: signer.incarnation, credential, expiry, body }
    }

    /// Runs one write transaction. If it fails, memory is read again from the file.
    fn batch<T>(&self, run: impl FnOnce(&mut Batch<'_, '_>) -> Result<T, ReplicaError>) -> Result<(T, Accepted), ReplicaError> {
        let mut state = self.lock();
        if state.stale {
            self.reload(&mut state)?;
        }
        let done = self.run_batch(&mut state, run);
        if let Err(ReplicaError::Store(_)) = &done {
            state.stale = true;
            if let Err(error) = self.reload(&mut state) {
                tracing::error!(%error, "the documents cannot be read; it is tried again with the next write");
            }
        }
        done
    }

    fn reload(&self, state: &mut State) -> Result<(), ReplicaError> {
        let core = &self.core;
        core.recent.clear();
        let fresh = State::load(&core.store, &core.limits, core.clock.now(), &core.signer.incarnation)?;
        let before = std::mem::replace(state, fresh);
        (state.stats, state.clock) = (before.stats, before.clock);
        Ok(())
    }

    fn run_batch<T>(
        &self,
        state: &mut State,
        run: impl FnOnce(&mut Batch<'_, '_>) -> Result<T, ReplicaError>,
    ) -> Result<(T, Accepted), ReplicaError> {
        let core = &self.core;
        core.store.write(|write| {
            let tables = Tables::open(&write)?;
            let (recent, now) = (&core.recent, core.clock.now());
            let mut batch = Batch::new(state, tables, &core.limits, &*core.membership, &core.signer, recent, now);
            let result = run(&mut batch);
            if batch.state.clock.advance(batch.now) {
                batch.dirty = true;
                let saved = batch.state.clock.encode();
                batch.tables.set_meta(CLOCK, &saved)?;
            }
            let (dirty, (accepted, stored)) = (batch.dirty, batch.accepted());
            if dirty {
                fault::point("replica.commit.before");
                write.commit().map_err(redb::Error::from)?;
                fault::point("replica.commit.after");
                recent.add(stored);
            }
            Ok((result?, accepted))
        })
    }
}

/// What somebody says of a tag, and when it was set.
type Said<'a> = (EndpointId, Timestamp, &'a TagRecord);

fn said<'a>((author, slot): (EndpointId, &'a Slot)) -> Option<Said<'a>> {
    slot.tag().map(|record| (author, record.set_at, record))
}

/// Of all that is said of one tag, what counts: what was set last.
fn latest<'a>(slots: impl Iterator<Item = (EndpointId, &'a Slot)>) -> Option<Said<'a>> {
    slots.filter_map(said).max_by_key(|(author, set_at, _)| (*set_at, *author))
}

/// The key of a tag, where other registers have an endpoint.
fn tag_key(repository: &str, tag: &str) -> EndpointId {
    EndpointId::from_bytes(TagRecord::key(repository, tag))
}

/// Signs an envelope of this node's, and takes it in.
fn say(batch: &mut Batch<'_, '_>, envelope: &Envelope, key: &SecretKey) -> Result<(), ReplicaError> {
    take(batch, envelope.seal(key).into(), envelope.clone())
}

/// Takes in an envelope that is to count now, by the rules that hold for everyone.
fn take(batch: &mut Batch<'_, '_>, bytes: Bytes, envelope: Envelope) -> Result<(), ReplicaError> {
    let offer = Offer { id: Envelope::id_of(&bytes), bytes, envelope, from: None };
    let id = offer.id;
    match batch.offer(offer)? {
        // Nothing of this node's is ever older than what is there, and a declaration that is says nothing new.
        Outcome::Stored | Outcome::Known | Outcome::Stale => Ok(()),
        Outcome::Waits => {
            batch.state.waiting.remove(&id);
            Err(ReplicaError::HeldBack)
        }
        Outcome::Refused(reason) => Err(ReplicaError::Refused(reason)),
    }
}

/// The next change of this node to a document, with the document's expiry.
fn draft(
    document: &Document,
    id: &DistributionId,
    signer: &Signer,
    edit: Edit<'_>,
    ready: bool,
) -> Result<Option<(Vec<u8>, Timestamp)>, ReplicaError> {
    let view = document.distribution().ok_or(ReplicaError::Unknown(*id))?;
    let of_this_life = view.manifest.sender == signer.id() && document.first_incarnation() == Some(signer.incarnation);
    if !ready && !of_this_life {
        return Err(ReplicaError::NotReady);
    }
    let change = document.next_change(&signer.id(), &signer.incarnation, edit)?;
    Ok(change.map(|change| (change, view.manifest.expiry)))
}
