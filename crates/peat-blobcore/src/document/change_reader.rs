//! Reads the chunk format of one Automerge change (<https://automerge.org/automerge-binary-format-spec/>, "Change Chunk"),
//! as far as our documents use it: maps, scalars, no compression. It bounds what it reads and nothing else: whether it
//! understood everything is decided by building the change again. Must never allocate by a length that the bytes claim.

use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, ChangeHash, ExpandedChange, ObjType, ScalarValue};

use super::change::{ChangeError, MAX_DEPS, MAX_OPS, expanded};

/// Most predecessors of one operation: the last value of each of the author's lives.
const MAX_PREDS: usize = MAX_DEPS;
/// Most actors that a change names beside its own: those of its dependencies.
const MAX_ACTORS: usize = MAX_DEPS + 1;
/// Longest actor id, in bytes.
const MAX_ACTOR_BYTES: usize = 32;
/// Most columns of a change.
const MAX_COLUMNS: usize = 16;

/// Column specifications (id << 4 | type), as the format numbers them.
mod column {
    pub(super) const OBJECT_ACTOR: u64 = 0x01;
    pub(super) const OBJECT_COUNTER: u64 = 0x02;
    pub(super) const KEY: u64 = 0x15;
    pub(super) const INSERT: u64 = 0x34;
    pub(super) const ACTION: u64 = 0x42;
    pub(super) const VALUE_META: u64 = 0x56;
    pub(super) const VALUE: u64 = 0x57;
    pub(super) const PRED_COUNT: u64 = 0x70;
    pub(super) const PRED_ACTOR: u64 = 0x71;
    pub(super) const PRED_COUNTER: u64 = 0x73;
}

type Read<T> = Result<T, ChangeError>;

const fn malformed<T>(what: &'static str) -> Read<T> {
    Err(ChangeError::Malformed(what))
}

/// Reads a change chunk. The checksum is left to the comparison with the rebuilt bytes.
pub(super) fn read(bytes: &[u8]) -> Read<ExpandedChange> {
    let mut reader = header(bytes)?;
    let deps = reader.list(MAX_DEPS, |reader| {
        let hash = reader.take(32)?;
        Ok(ChangeHash(hash.try_into().expect("32 bytes were taken")))
    })?;
    let actor = reader.actor()?;
    let seq = reader.unsigned()?;
    let Some(start_op) = NonZeroU64::new(reader.unsigned()?) else {
        return malformed("it begins at operation 0");
    };
    if reader.signed()? != 0 || reader.unsigned()? != 0 {
        return malformed("it carries a time or a message");
    }
    let mut actors = vec![actor.clone()];
    actors.extend(reader.list(MAX_ACTORS, Reader::actor)?);
    let columns = Columns::read(&mut reader)?;
    let operations = columns.operations(&actors)?;
    Ok(expanded(actor, seq, start_op, deps, operations))
}

/// Whether a change depends on none.
pub(super) fn follows_nothing(bytes: &[u8]) -> bool {
    header(bytes).and_then(|mut reader| reader.unsigned()).is_ok_and(|deps| deps == 0)
}

fn header(bytes: &[u8]) -> Read<Reader<'_>> {
    let mut reader = Reader(bytes);
    if reader.take(4)? != [0x85, 0x6f, 0x4a, 0x83] {
        return malformed("it does not begin as one");
    }
    reader.take(4)?;
    if reader.take(1)? != [1] {
        return malformed("it is compressed, or a whole document");
    }
    if reader.unsigned()? != reader.0.len() as u64 {
        return malformed("its length is wrong");
    }
    Ok(reader)
}

/// What is left to read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            return malformed("it ends too early");
        };
        self.0 = rest;
        Ok(taken)
    }

    /// An unsigned LEB128 number.
    fn unsigned(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        malformed("a number is too long")
    }

    /// A signed LEB128 number.
    fn signed(&mut self) -> Read<i64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let negative = byte & 0x40 != 0 && shift + 7 < 64;
                return Ok(if negative { value | -1 << (shift + 7) } else { value });
            }
        }
        malformed("a number is too long")
    }

    /// A count below 2^32, as a length.
    fn length(&mut self) -> Read<usize> {
        let length = u32::try_from(self.unsigned()?).or(malformed("a length is out of range"))?;
        Ok(length as usize)
    }

    fn list<T>(&mut self, limit: usize, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.length()?;
        if count > limit {
            return malformed("a list is too long");
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn actor(&mut self) -> Read<ActorId> {
        let length = self.length()?;
        if length > MAX_ACTOR_BYTES {
            return malformed("an actor id is too long");
        }
        Ok(ActorId::from(self.take(length)?))
    }

    fn text(&mut self) -> Read<String> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).or(malformed("a text is not UTF-8"))
    }

    /// A run-length encoded column of at most `limit` items: a positive count and a value, a negative count and as many
    /// values, or zero and a count of nulls.
    fn runs<T: Clone>(mut self, limit: usize, mut value: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<Option<T>>> {
        let mut items = Vec::new();
        while !self.0.is_empty() {
            let (count, kind) = match self.signed()? {
                0 => (self.unsigned()?, 0),
                count => (count.unsigned_abs(), count.signum()),
            };
            let room = limit - items.len();
            let count = usize::try_from(count).ok().filter(|&count| count <= room);
            let Some(count) = count else {
                return malformed("a column is too long");
            };
            match kind {
                0 => items.extend(vec![None; count]),
                1 => items.extend(vec![Some(value(&mut self)?); count]),
                _ => {
                    for _ in 0..count {
                        items.push(Some(value(&mut self)?));
                    }
                }
            }
        }
        Ok(items)
    }
}

/// The columns of a change, each as it lies there. One that is missing is all null.
struct Columns<'a>(Vec<(u64, Reader<'a>)>);

impl<'a> Columns<'a> {
    fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let heads = reader.list(MAX_COLUMNS, |reader| Ok((reader.unsigned()?, reader.length()?)))?;
        let columns = heads.into_iter().map(|(spec, length)| Ok((spec, Reader(reader.take(length)?)))).collect::<Read<_>>()?;
        if reader.0.is_empty() { Ok(Self(columns)) } else { malformed("bytes follow the columns") }
    }

    fn get(&self, wanted: u64) -> Reader<'a> {
        self.0.iter().find(|(spec, _)| *spec == wanted).map_or(Reader(&[]), |(_, column)| *column)
    }

    fn operations(&self, actors: &[ActorId]) -> Read<Vec<Op>> {
        let numbers = |spec, limit| self.get(spec).runs(limit, Reader::unsigned);
        let actions = numbers(column::ACTION, MAX_OPS)?;
        let object_actors = numbers(column::OBJECT_ACTOR, MAX_OPS)?;
        let object_counters = numbers(column::OBJECT_COUNTER, MAX_OPS)?;
        let keys = self.get(column::KEY).runs(MAX_OPS, Reader::text)?;
        let metas = numbers(column::VALUE_META, MAX_OPS)?;
        let mut values = self.get(column::VALUE);
        let pred_counts = numbers(column::PRED_COUNT, MAX_OPS)?;
        let mut preds = self.predecessors(actors)?.into_iter();
        if self.get(column::INSERT).0.len() > 2 {
            return malformed("it inserts into a list");
        }
        let mut operations = Vec::with_capacity(actions.len());
        for (index, action) in actions.iter().enumerate() {
            let meta = at(&metas, index).unwrap_or(0);
            let value = scalar(meta, &mut values)?;
            let action = match action {
                Some(0) => OpType::Make(ObjType::Map),
                Some(1) => OpType::Put(value),
                Some(3) => OpType::Delete,
                _ => return malformed("an operation is of a kind that documents have not"),
            };
            let obj = match (at(&object_actors, index), at(&object_counters, index)) {
                (None, None) => ObjectId::Root,
                (Some(actor), Some(counter)) => ObjectId::Id(op_id(actors, actor, counter)?),
                _ => return malformed("an object id is half there"),
            };
            let Some(key) = keys.get(index).cloned().flatten() else {
                return malformed("an operation has no key");
            };
            let count = at(&pred_counts, index).unwrap_or(0);
            if count > MAX_PREDS as u64 {
                return malformed("an operation has too many predecessors");
            }
            let pred: Vec<OpId> = preds.by_ref().take(count as usize).collect();
            operations.push(Op { action, obj, key: Key::Map(key.into()), pred: pred.into(), insert: false });
        }
        Ok(operations)
    }

    fn predecessors(&self, actors: &[ActorId]) -> Read<Vec<OpId>> {
        let limit = MAX_OPS * MAX_PREDS;
        let pred_actors = self.get(column::PRED_ACTOR).runs(limit, Reader::unsigned)?;
        let deltas = self.get(column::PRED_COUNTER).runs(limit, Reader::signed)?;
        let mut counter = 0_i64;
        let mut preds = Vec::with_capacity(pred_actors.len());
        for (actor, delta) in pred_actors.iter().zip(&deltas) {
            let (Some(actor), Some(delta)) = (actor, delta) else {
                return malformed("a predecessor is half there");
            };
            counter = counter.saturating_add(*delta);
            let absolute = u64::try_from(counter).or(malformed("a predecessor has a negative counter"))?;
            preds.push(op_id(actors, *actor, absolute)?);
        }
        Ok(preds)
    }
}

fn at(column: &[Option<u64>], index: usize) -> Option<u64> {
    column.get(index).copied().flatten()
}

fn op_id(actors: &[ActorId], actor: u64, counter: u64) -> Read<OpId> {
    let actor = usize::try_from(actor).ok().and_then(|index| actors.get(index));
    match actor {
        Some(actor) if u32::try_from(counter).is_ok() => Ok(OpId(counter, actor.clone())),
        _ => malformed("an operation id points nowhere"),
    }
}

/// A value by its metadata (length << 4 | type). Counters and types of the future are not for our documents.
fn scalar(meta: u64, values: &mut Reader<'_>) -> Read<ScalarValue> {
    let length = usize::try_from(meta >> 4).or(malformed("a value is too long"))?;
    let mut raw = Reader(values.take(length)?);
    let value = match meta & 0xf {
        0 => ScalarValue::Null,
        1 => ScalarValue::Boolean(false),
        2 => ScalarValue::Boolean(true),
        3 => ScalarValue::Uint(raw.unsigned()?),
        4 => ScalarValue::Int(raw.signed()?),
        5 => {
            let bytes = raw.0.try_into().or(malformed("a float has not eight bytes"))?;
            ScalarValue::F64(f64::from_le_bytes(bytes))
        }
        6 => std::str::from_utf8(raw.0).or(malformed("a text is not UTF-8"))?.into(),
        7 => ScalarValue::Bytes(raw.0.to_vec()),
        9 => ScalarValue::Timestamp(raw.signed()?),
        _ => return malformed("a value is of a type that documents have not"),
    };
    Ok(value)
}
