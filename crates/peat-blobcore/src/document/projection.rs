//! Reads a [`Distribution`] out of its Automerge document. A record that does not read as one is left out: its author meant
//! a later version, or harm to nobody but itself. Must never fail.

use std::collections::BTreeSet;

use automerge::legacy::{Key, OpType};
use automerge::{Automerge, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value};

use super::change::DocumentChange;
use super::history::{CANCEL, ROSTER};
use super::{Distribution, Section};
use crate::model::{DistributionId, EndpointId, MAX_ERROR_BYTES, Manifest, TargetRecord, TargetState, Timestamp};

/// Keys of a record.
pub(super) mod field {
    pub(in super::super) const STATE: &str = "state";
    pub(in super::super) const BYTES: &str = "bytes";
    pub(in super::super) const ERROR: &str = "error";
    pub(in super::super) const TIME: &str = "time";
}

/// The manifest that a first change puts into the document.
pub(super) fn manifest_bytes(change: &DocumentChange) -> Option<&[u8]> {
    let op = change.expanded.operations.first()?;
    match (&op.key, &op.action) {
        (Key::Map(key), OpType::Put(ScalarValue::Bytes(bytes))) if key == "manifest" => Some(bytes),
        _ => None,
    }
}

/// A distribution of which only the manifest is known.
pub(super) fn empty(id: DistributionId, manifest: Manifest) -> Distribution {
    Distribution { id, manifest, targets: Default::default(), carriers: Default::default(), roster: None, cancelled: None }
}

/// Reads again what one author may have changed.
pub(super) fn refresh(document: &Automerge, author: &EndpointId, view: &mut Distribution) {
    for section in Section::ALL {
        let records = match section {
            Section::Targets => &mut view.targets,
            Section::Carriers => &mut view.carriers,
        };
        match record(document, section, author) {
            Some(record) => records.insert(*author, record),
            None => records.remove(author),
        };
    }
    if *author == view.manifest.sender {
        view.cancelled = number(document, &ROOT, CANCEL).map(Timestamp::from_millis);
        view.roster = scalar(document, &ROOT, ROSTER).and_then(|value| roster(&value));
    }
}

/// A roster is the endpoint ids one after the other, ascending.
fn roster(value: &ScalarValue) -> Option<BTreeSet<EndpointId>> {
    let ScalarValue::Bytes(bytes) = value else { return None };
    let (ids, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| ids.iter().copied().map(EndpointId::from_bytes).collect())
}

fn record(document: &Automerge, section: Section, author: &EndpointId) -> Option<TargetRecord> {
    let map = map(document, &ROOT, section.as_str())?;
    let own = self::map(document, &map, &author.to_string())?;
    let state = text(document, &own, field::STATE)?;
    let error = text(document, &own, field::ERROR);
    if error.as_ref().is_some_and(|error| error.len() > MAX_ERROR_BYTES) {
        return None;
    }
    Some(TargetRecord {
        state: TargetState::from_word(&state)?,
        bytes: number(document, &own, field::BYTES)?,
        error,
        time: Timestamp::from_millis(number(document, &own, field::TIME)?),
    })
}

fn map(document: &Automerge, object: &ObjId, key: &str) -> Option<ObjId> {
    match document.get(object, key) {
        Ok(Some((Value::Object(ObjType::Map), id))) => Some(id),
        _ => None,
    }
}

fn scalar(document: &Automerge, object: &ObjId, key: &str) -> Option<ScalarValue> {
    match document.get(object, key) {
        Ok(Some((Value::Scalar(value), _))) => Some(value.into_owned()),
        _ => None,
    }
}

fn number(document: &Automerge, object: &ObjId, key: &str) -> Option<u64> {
    match scalar(document, object, key)? {
        ScalarValue::Uint(number) => Some(number),
        _ => None,
    }
}

fn text(document: &Automerge, object: &ObjId, key: &str) -> Option<String> {
    match scalar(document, object, key)? {
        ScalarValue::Str(text) => Some(text.to_string()),
        _ => None,
    }
}
