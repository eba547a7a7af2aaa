//! One Automerge change as an envelope carries it. Automerge itself reads changes that it trusts: run lengths that expand
//! without end, indices that point nowhere and counters near 2^32 hang or abort it. So foreign bytes are read by the small
//! bounded reader beside this file, rebuilt from what was read, and refused unless the rebuilt change has the same bytes;
//! Automerge only ever reads what it wrote itself. Must never hand foreign bytes to Automerge.

use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, ChangeHash, ExpandedChange, ObjType, ScalarValue};

use super::change_reader;
use crate::model::{DistributionId, EndpointId, Incarnation};

/// Most operations of one change.
pub(super) const MAX_OPS: usize = 64;
/// Most changes of one actor: of an author, in one life, in one document.
pub(super) const MAX_SEQ: u64 = 32;
/// Most changes that a change depends on directly: the author's last one, of each of its lives.
pub(super) const MAX_DEPS: usize = 4;
/// The counter of the operation that makes `targets` in the sender's first change.
pub(super) const TARGETS_COUNTER: u64 = 2;
/// The counter of the operation that makes `carriers` in the sender's first change.
pub(super) const CARRIERS_COUNTER: u64 = 3;
/// Highest operation counter. No honest document comes near, and Automerge's own limit of 2^32 stays far.
const MAX_COUNTER: u64 = 1 << 20;

/// The Automerge actor that an author writes a document as. Nobody can write as another's, since the envelope's signature
/// covers what it is derived from.
pub(super) fn actor_of(author: &EndpointId, incarnation: &Incarnation, document: &DistributionId) -> ActorId {
    let mut hasher = blake3::Hasher::new_derive_key("peat-blob actor v1");
    hasher.update(author.as_bytes()).update(incarnation.as_bytes()).update(document.as_bytes());
    ActorId::from(&hasher.finalize().as_bytes()[..24])
}

/// A change that Automerge can apply without a surprise, provided that what it depends on was applied.
#[derive(Debug, Clone)]
pub(super) struct DocumentChange {
    /// For [`automerge::Automerge::apply_changes`].
    pub(super) stored: automerge::Change,
    /// The same, with operations as values.
    pub(super) expanded: ExpandedChange,
}

impl DocumentChange {
    /// Reads a change from bytes that anyone may have made.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ChangeError> {
        let change = Self::build(change_reader::read(bytes)?)?;
        if change.bytes() == bytes { Ok(change) } else { Err(ChangeError::NotCanonical) }
    }

    /// Makes a change of what is to be in it.
    pub(super) fn build(expanded: ExpandedChange) -> Result<Self, ChangeError> {
        let counter = expanded.start_op.get();
        if counter > MAX_COUNTER || expanded.seq == 0 || expanded.seq > MAX_SEQ {
            return Err(ChangeError::Counter { counter, seq: expanded.seq });
        }
        if expanded.operations.len() > MAX_OPS || expanded.operations.is_empty() {
            return Err(ChangeError::OperationCount(expanded.operations.len()));
        }
        // Automerge panics at predecessors out of order, and keeps their order only where it sorted them.
        let sorted = |op: &Op| op.pred.iter().zip(op.pred.iter().skip(1)).all(|(left, right)| left < right);
        if !expanded.operations.iter().all(sorted) {
            return Err(ChangeError::NotCanonical);
        }
        Ok(Self { stored: expanded.clone().into(), expanded })
    }

    /// The sender's first change: the manifest and the two empty maps that everyone else writes into. It follows from its
    /// arguments to the byte.
    pub(super) fn first(actor: ActorId, manifest: &[u8]) -> Self {
        let at_root = |key: &str, action| Op {
            action,
            obj: ObjectId::Root,
            key: Key::Map(key.into()),
            pred: Vec::new().into(),
            insert: false,
        };
        let operations = vec![
            at_root("manifest", OpType::Put(ScalarValue::Bytes(manifest.to_vec()))),
            at_root("targets", OpType::Make(ObjType::Map)),
            at_root("carriers", OpType::Make(ObjType::Map)),
        ];
        Self::build(expanded(actor, 1, NonZeroU64::MIN, Vec::new(), operations)).expect("three operations at the counter 1")
    }

    /// The bytes that travel.
    pub(super) fn bytes(&self) -> &[u8] {
        self.stored.raw_bytes()
    }

    /// The hash that later changes name it by.
    pub(super) fn hash(&self) -> ChangeHash {
        self.stored.hash()
    }

    /// The change's operations with their ids.
    pub(super) fn operations(&self) -> impl Iterator<Item = (OpId, &Op)> {
        let first = self.expanded.start_op.get();
        self.expanded.operations.iter().zip(first..).map(|(op, counter)| (OpId(counter, self.expanded.actor_id.clone()), op))
    }

    /// The counter of its last operation.
    pub(super) fn max_op(&self) -> u64 {
        self.stored.max_op()
    }
}

/// A change of ours: no time, no message, nothing extra.
pub(super) fn expanded(
    actor: ActorId,
    seq: u64,
    start_op: NonZeroU64,
    deps: Vec<ChangeHash>,
    operations: Vec<Op>,
) -> ExpandedChange {
    ExpandedChange {
        operations,
        actor_id: actor,
        hash: None,
        seq,
        start_op,
        time: 0,
        message: None,
        deps,
        extra_bytes: Vec::new(),
        author: None,
    }
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not an uncompressed Automerge change of the shape that we write.
    #[error("the bytes are not an Automerge change: {0}")]
    Malformed(&'static str),
    /// The same change has exactly one encoding, and these bytes are another.
    #[error("the change is not in canonical form")]
    NotCanonical,
    /// A counter that no honest author reaches.
    #[error("the change has sequence number {seq} and begins at operation {counter}, over the limit")]
    Counter {
        /// The counter of its first operation.
        counter: u64,
        /// Its sequence number.
        seq: u64,
    },
    /// No operation, or more than fit.
    #[error("the change has {0} operations, it takes 1 to {MAX_OPS}")]
    OperationCount(usize),
    /// Over the limit for its author.
    #[error("the change has {0} bytes, over the limit for its author")]
    TooLarge(usize),
    /// The actor is not the one that its author writes as.
    #[error("the change's actor is not its author's")]
    ForgedActor,
    /// The sequence number, the first operation or the dependencies are not those of the author's next change.
    #[error("the change does not follow its author's last one: {0}")]
    OutOfSequence(&'static str),
    /// It touches what its author may not write.
    #[error("the change writes what its author may not: {0}")]
    Foreign(String),
    /// The manifest is none, or not this document's.
    #[error("the first change does not carry the document's manifest: {0}")]
    Manifest(String),
    /// The envelope's expiry is not the manifest's.
    #[error("the envelope expires at another time than the distribution")]
    Expiry,
    /// The author has as many lives in this document as are kept.
    #[error("the author has too many incarnations in this document")]
    TooManyLives,
    /// The author has written as much into this document as it may.
    #[error("the author has made all the changes to this document that it may")]
    TooManyChanges,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn actor(byte: u8) -> ActorId {
        ActorId::from(&[byte; 24][..])
    }

    fn rich() -> ExpandedChange {
        let map = |key: &str| Key::Map(key.into());
        let targets = ObjectId::Id(OpId(2, actor(9)));
        let own = ObjectId::Id(OpId(10, actor(1)));
        let put = |obj: &ObjectId, key: &str, value: ScalarValue, pred: Vec<OpId>| Op {
            action: OpType::Put(value),
            obj: obj.clone(),
            key: map(key),
            pred: pred.into(),
            insert: false,
        };
        let pred = vec![OpId(4, actor(2)), OpId(5, actor(1)), OpId(5, actor(7))];
        let operations = vec![
            Op { action: OpType::Make(ObjType::Map), obj: targets, key: map("k"), pred: pred.into(), insert: false },
            put(&own, "a", ScalarValue::Null, Vec::new()),
            put(&own, "b", ScalarValue::Boolean(true), Vec::new()),
            put(&own, "c", ScalarValue::Uint(u64::MAX), vec![OpId(3, actor(1))]),
            put(&own, "d", ScalarValue::Int(i64::MIN), Vec::new()),
            put(&own, "e", ScalarValue::F64(0.5), Vec::new()),
            put(&own, "f", "é".into(), Vec::new()),
            put(&own, "f", "é".into(), Vec::new()),
            put(&own, "g", ScalarValue::Bytes(vec![0; 300]), Vec::new()),
            put(&own, "h", ScalarValue::Timestamp(-5), Vec::new()),
            Op { action: OpType::Delete, obj: own, key: map("x"), pred: vec![OpId(8, actor(1))].into(), insert: false },
        ];
        expanded(actor(1), 3, NonZeroU64::new(10).expect("not zero"), vec![ChangeHash([5; 32]), ChangeHash([6; 32])], operations)
    }

    #[test]
    fn a_change_of_every_permitted_operation_is_read_as_it_was_written() {
        let change = DocumentChange::build(rich()).expect("builds");
        let read = DocumentChange::parse(change.bytes()).expect("parses");
        assert_eq!(read.expanded, change.expanded);
        assert_eq!(read.hash(), change.hash());
        let again = automerge::Change::from_bytes(change.bytes().to_vec()).expect("Automerge reads it");
        assert_eq!(again.decode(), change.expanded);
    }

    #[test]
    fn compressed_and_bundled_changes_are_refused() {
        let mut change = DocumentChange::first(actor(1), &[0; 4096]).stored;
        let compressed = change.bytes().to_vec();
        assert!(compressed.len() < 1000, "it was compressed");
        assert!(matches!(DocumentChange::parse(&compressed), Err(ChangeError::Malformed(_))));
    }

    #[test]
    fn huge_counters_are_refused_before_automerge_sees_them() {
        for counter in [MAX_COUNTER + 1, u64::from(u32::MAX), u64::MAX] {
            let start_op = NonZeroU64::new(counter).expect("not zero");
            let bytes = automerge::Change::from(ExpandedChange { start_op, ..rich() }).raw_bytes().to_vec();
            assert!(matches!(DocumentChange::parse(&bytes), Err(ChangeError::Counter { .. })), "{counter}");
        }
        let bytes = automerge::Change::from(ExpandedChange { seq: MAX_SEQ + 1, ..rich() }).raw_bytes().to_vec();
        assert!(matches!(DocumentChange::parse(&bytes), Err(ChangeError::Counter { .. })));
    }

    #[test]
    fn a_run_of_a_million_million_operations_is_refused_at_once() {
        let operations = vec![rich().operations[1].clone(); 40];
        let bytes = automerge::Change::from(ExpandedChange { operations, ..rich() }).raw_bytes().to_vec();
        let data = bytes.iter().position(|&byte| byte == 40).expect("the length of a run");
        for at in data..bytes.len() {
            let mut hostile = bytes.clone();
            if hostile[at] == 40 {
                hostile.splice(at..=at, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
                assert!(DocumentChange::parse(&hostile).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = DocumentChange::parse(&bytes);
        }

        #[test]
        fn a_damaged_change_is_refused_without_a_panic(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let change = DocumentChange::build(rich()).expect("builds");
            let mut bytes = change.bytes().to_vec();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = DocumentChange::parse(&bytes) {
                prop_assert_eq!(read.bytes(), &bytes);
            }
        }

        #[test]
        fn a_damaged_change_with_a_right_checksum_is_read_without_a_panic(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let change = DocumentChange::build(rich()).expect("builds");
            let mut bytes = change.bytes().to_vec();
            for (at, byte) in edits {
                let at = 11 + at.index(bytes.len() - 11);
                bytes[at] = byte;
            }
            // The reader leaves the checksum to the comparison with the rebuilt bytes, so this reaches the columns.
            if let Ok(read) = change_reader::read(&bytes) {
                let _ = DocumentChange::build(read);
            }
        }
    }
}
