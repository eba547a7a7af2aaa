//! Makes the next change of an author to a document. It depends on the sender's first change and the author's own last ones
//! by construction, and is judged by the rule that everyone else judges it by. Must never write what did not change.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, ChangeHash, ObjType, ScalarValue};

use super::change::{ChangeError, DocumentChange, MAX_DEPS, MAX_SEQ, actor_of, expanded};
use super::history::{CANCEL, History, Place, ROSTER, section_map};
use super::projection::field;
use super::{Document, Section};
use crate::model::{DistributionId, EndpointId, Incarnation, MAX_ERROR_BYTES, Manifest, ManifestError, TargetRecord, Timestamp};

/// What an author wants a document to say.
#[derive(Debug, Clone, Copy)]
pub enum Edit<'a> {
    /// Where the author stands.
    Record(Section, &'a TargetRecord),
    /// The closed set that completion is judged by. The sender's, once.
    Roster(&'a BTreeSet<EndpointId>),
    /// That it is cancelled. The sender's, once.
    Cancel(Timestamp),
}

/// The bytes of a new document's first change, with the id that follows from the manifest.
///
/// # Errors
/// [`ManifestError`] when another node would refuse the manifest.
pub fn first_change(manifest: &Manifest, incarnation: &Incarnation) -> Result<(DistributionId, Vec<u8>), ManifestError> {
    let (id, bytes) = manifest.seal()?;
    let actor = actor_of(&manifest.sender, incarnation, &id);
    Ok((id, DocumentChange::first(actor, &bytes).bytes().to_vec()))
}

impl Document {
    /// The bytes of the author's next change; nothing when the document says so already.
    ///
    /// # Errors
    /// [`ChangeError`] when the author may not say that, or not any more.
    pub fn next_change(
        &self,
        author: &EndpointId,
        incarnation: &Incarnation,
        edit: Edit<'_>,
    ) -> Result<Option<Vec<u8>>, ChangeError> {
        let deps = self.heads_of(author);
        let Some(lineage) = self.lineage(author, &deps)? else {
            return Err(ChangeError::OutOfSequence("the document has no first change"));
        };
        let actor = actor_of(author, incarnation, &self.id);
        let start_op = lineage.max_op() + 1;
        let mut draft = Draft { history: lineage.history(author), actor: actor.clone(), next: start_op, operations: Vec::new() };
        match edit {
            Edit::Record(section, record) => {
                let first = &lineage.first.change.expanded.actor_id;
                draft.record((Some(section_map(section, first)), author.to_string()), record);
            }
            Edit::Roster(ids) => draft.set((None, ROSTER.to_owned()), ScalarValue::Bytes(roster_bytes(ids))),
            Edit::Cancel(time) => draft.set((None, CANCEL.to_owned()), ScalarValue::Uint(time.as_millis())),
        }
        if draft.operations.is_empty() {
            return Ok(None);
        }
        let seq = lineage.last_seq(author, incarnation) + 1;
        if seq > MAX_SEQ {
            return Err(ChangeError::TooManyChanges);
        }
        let start_op = NonZeroU64::new(start_op).expect("one past a counter is not zero");
        let change = DocumentChange::build(expanded(actor, seq, start_op, deps, draft.operations))?;
        lineage.history(author).extend(&change)?;
        Ok(Some(change.bytes().to_vec()))
    }

    /// The author's changes that count and that none of its others follows; else the first change.
    pub(super) fn heads_of(&self, author: &EndpointId) -> Vec<ChangeHash> {
        let counts = |hash: &ChangeHash| Some((*hash, self.entries.get(self.applied.get(hash)?)?));
        let own: Vec<_> = self.applied.keys().filter_map(counts).filter(|(_, entry)| entry.author == *author).collect();
        let followed: BTreeSet<ChangeHash> = own.iter().flat_map(|(_, entry)| &entry.change.expanded.deps).copied().collect();
        let mut heads: Vec<ChangeHash> = own.iter().map(|(hash, _)| *hash).filter(|hash| !followed.contains(hash)).collect();
        if heads.is_empty() {
            heads.extend(self.first().map(|(_, entry)| entry.change.hash()));
        }
        heads.sort_unstable();
        heads.truncate(MAX_DEPS);
        heads
    }
}

fn roster_bytes(ids: &BTreeSet<EndpointId>) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// A change in the making.
struct Draft {
    history: History,
    actor: ActorId,
    next: u64,
    operations: Vec<Op>,
}

impl Draft {
    fn record(&mut self, place: Place, record: &TargetRecord) {
        let mut live = self.history.live(&place);
        let map = match (live.next(), live.next()) {
            (Some((id, OpType::Make(ObjType::Map))), None) => Some(id.clone()),
            _ => None,
        };
        drop(live);
        let map = map.unwrap_or_else(|| self.push(place, OpType::Make(ObjType::Map)));
        let error = record.error.as_deref().map(|error| &error[..error.floor_char_boundary(MAX_ERROR_BYTES)]);
        let at = |key: &str| (Some(map.clone()), key.to_owned());
        let before = self.operations.len();
        self.set(at(field::STATE), record.state.as_str().into());
        self.set(at(field::BYTES), ScalarValue::Uint(record.bytes));
        match error {
            Some(error) => self.set(at(field::ERROR), error.into()),
            None if self.history.live(&at(field::ERROR)).next().is_some() => {
                self.push(at(field::ERROR), OpType::Delete);
            }
            None => {}
        }
        if self.operations.len() > before {
            self.set(at(field::TIME), ScalarValue::Uint(record.time.as_millis()));
        }
    }

    /// Puts a value where it is not there already.
    fn set(&mut self, place: Place, value: ScalarValue) {
        let action = OpType::Put(value);
        let same = self.history.live(&place).map(|(_, live)| live).eq([&action]);
        if !same {
            self.push(place, action);
        }
    }

    fn push(&mut self, place: Place, action: OpType) -> OpId {
        let id = OpId(self.next, self.actor.clone());
        let pred: Vec<OpId> = self.history.live(&place).map(|(id, _)| id.clone()).collect();
        self.next += 1;
        let obj = place.0.map_or(ObjectId::Root, ObjectId::Id);
        self.operations.push(Op { action, obj, key: Key::Map(place.1.into()), pred: pred.into(), insert: false });
        id
    }
}
