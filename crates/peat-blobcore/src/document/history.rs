//! What one author has written into one document, and what it may write next. The rule is the same for both: an operation
//! is permitted if it writes the author's own place, or a map that the author made beneath it, and replaces exactly what the
//! author's changes before it left there. Must never need what anyone else wrote, apart from the sender's first change.

use std::collections::{BTreeMap, BTreeSet};

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, ObjType, ScalarValue};

use super::Section;
use super::change::{CARRIERS_COUNTER, ChangeError, DocumentChange, TARGETS_COUNTER};
use crate::model::EndpointId;

/// The sender's key of the document under which it says when it cancelled it.
pub(super) const CANCEL: &str = "cancel";
/// The sender's key of the document under which the closed set is.
pub(super) const ROSTER: &str = "roster";

/// A key of a map of the document; no id is the root.
pub(super) type Place = (Option<OpId>, String);

/// An author's writable part of a document after some of its changes.
#[derive(Debug)]
pub(super) struct History {
    own: BTreeSet<Place>,
    once: BTreeSet<Place>,
    maps: BTreeSet<OpId>,
    live: BTreeMap<Place, BTreeMap<OpId, OpType>>,
}

impl History {
    /// Before the author's first change; `first` is the actor of the document's first change.
    pub(super) fn new(first: &ActorId, author: &EndpointId, is_sender: bool) -> Self {
        let own = Section::ALL.map(|section| (Some(section_map(section, first)), author.to_string()));
        let once = [CANCEL, ROSTER].map(|key| (None, key.to_owned()));
        Self {
            own: own.into(),
            once: if is_sender { once.into() } else { BTreeSet::new() },
            maps: BTreeSet::new(),
            live: BTreeMap::new(),
        }
    }

    /// Takes in a change that was judged before, in an order in which each change follows those that it depends on. Two
    /// lives of the author may have written side by side.
    pub(super) fn replay(&mut self, change: &DocumentChange) {
        for (id, op) in change.operations() {
            if let Some(place) = place_of(op) {
                self.put(place, id, op);
            }
        }
    }

    /// Takes in the author's next change if it is permitted.
    pub(super) fn extend(&mut self, change: &DocumentChange) -> Result<(), ChangeError> {
        for (id, op) in change.operations() {
            let place = place_of(op).ok_or(ChangeError::Malformed("a list where a map belongs"))?;
            self.check(&place, op)?;
            self.put(place, id, op);
        }
        Ok(())
    }

    /// What the author's changes left at a place.
    pub(super) fn live(&self, place: &Place) -> impl Iterator<Item = (&OpId, &OpType)> {
        self.live.get(place).into_iter().flatten()
    }

    /// The maps that the author made.
    #[cfg(test)]
    pub(super) fn maps(&self) -> impl Iterator<Item = &OpId> {
        self.maps.iter()
    }

    fn check(&self, place: &Place, op: &Op) -> Result<(), ChangeError> {
        let beneath = place.0.as_ref().is_some_and(|object| self.maps.contains(object));
        let once = self.once.contains(place);
        if !beneath && !once && !self.own.contains(place) {
            return Err(ChangeError::Foreign(place.1.clone()));
        }
        if once && (!op.pred.is_empty() || !matches!(op.action, OpType::Put(ScalarValue::Uint(_) | ScalarValue::Bytes(_)))) {
            return Err(ChangeError::Foreign(format!("{} is written once", place.1)));
        }
        if !op.pred.iter().eq(self.live(place).map(|(id, _)| id)) {
            return Err(ChangeError::OutOfSequence("it replaces other values than the author's last"));
        }
        match op.action {
            OpType::Make(ObjType::Map) | OpType::Put(_) => Ok(()),
            OpType::Delete if !op.pred.is_empty() => Ok(()),
            _ => Err(ChangeError::Malformed("an operation that documents have not")),
        }
    }

    pub(super) fn put(&mut self, place: Place, id: OpId, op: &Op) {
        let live = self.live.entry(place).or_default();
        op.pred.iter().for_each(|replaced| {
            live.remove(replaced);
        });
        match op.action {
            OpType::Delete => {}
            OpType::Make(_) => {
                self.maps.insert(id.clone());
                live.insert(id, op.action.clone());
            }
            _ => {
                live.insert(id, op.action.clone());
            }
        }
    }
}

fn place_of(op: &Op) -> Option<Place> {
    let Key::Map(key) = &op.key else { return None };
    match &op.obj {
        ObjectId::Root => Some((None, key.to_string())),
        ObjectId::Id(object) => Some((Some(object.clone()), key.to_string())),
    }
}

/// The id of the map that the sender's first change made for a section.
pub(super) fn section_map(section: Section, first: &ActorId) -> OpId {
    let counter = match section {
        Section::Targets => TARGETS_COUNTER,
        Section::Carriers => CARRIERS_COUNTER,
    };
    OpId(counter, first.clone())
}
