//! The envelopes that were stored last, in memory. Each comes about as often as there are connections, and goes out as often, all
//! within moments: of these only the first time waits for the disk, and for a thread that may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::model::EnvelopeId;

/// What they may have together, in bytes: some five hundred envelopes, and one frame's.
const MAX_BYTES: usize = 256 * 1024;

/// A part of what is stored: all that is here is in the file too.
#[derive(Debug, Default)]
pub(super) struct Recent {
    inner: Mutex<Inner>,
    /// Envelopes that came again.
    known: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    envelopes: BTreeMap<EnvelopeId, Bytes>,
    /// Oldest first.
    order: VecDeque<EnvelopeId>,
    bytes: usize,
}

impl Recent {
    pub(super) fn get(&self, id: &EnvelopeId) -> Option<Bytes> {
        self.lock().envelopes.get(id).cloned()
    }

    /// Whether it came a moment ago. If so that it came again is counted.
    pub(super) fn came_again(&self, id: &EnvelopeId) -> bool {
        let came = self.lock().envelopes.contains_key(id);
        self.known.fetch_add(u64::from(came), Ordering::Relaxed);
        came
    }

    /// How many came again.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// Takes in what has been stored.
    pub(super) fn add(&self, stored: Vec<(EnvelopeId, Bytes)>) {
        let mut inner = self.lock();
        for (id, bytes) in stored {
            if bytes.len() > MAX_BYTES || inner.envelopes.contains_key(&id) {
                continue;
            }
            inner.bytes += bytes.len();
            inner.order.push_back(id);
            inner.envelopes.insert(id, bytes);
        }
        while inner.bytes > MAX_BYTES
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.remove(&oldest);
        }
    }

    /// What is taken out of the file, or may be.
    pub(super) fn remove(&self, id: &EnvelopeId) {
        let mut inner = self.lock();
        if inner.remove(id) {
            inner.order.retain(|other| other != id);
        }
    }

    /// Forgets all: the file may have something else.
    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, id: &EnvelopeId) -> bool {
        let removed = self.envelopes.remove(id);
        self.bytes -= removed.as_ref().map_or(0, Bytes::len);
        removed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> EnvelopeId {
        EnvelopeId::from_bytes([number; 32])
    }

    proptest! {
        /// What is there is what was added last and neither removed since nor older than what takes all the room.
        #[test]
        fn what_was_added_last_is_there_within_its_bounds(steps in proptest::collection::vec((0_u8..8, 0..MAX_BYTES, any::<bool>()), 0..40)) {
            let (recent, mut model) = (Recent::default(), Vec::<(u8, usize)>::new());
            for (number, bytes, add) in steps {
                if add {
                    recent.add(vec![(id(number), vec![number; bytes].into())]);
                    if !model.iter().any(|(other, _)| *other == number) {
                        model.push((number, bytes));
                    }
                    while model.iter().map(|(_, bytes)| bytes).sum::<usize>() > MAX_BYTES {
                        model.remove(0);
                    }
                } else {
                    recent.remove(&id(number));
                    model.retain(|(other, _)| *other != number);
                }
                let there: Vec<_> = (0..8).filter_map(|number| Some((number, recent.get(&id(number))?.len()))).collect();
                let mut expected = model.clone();
                expected.sort_unstable();
                prop_assert_eq!(there, expected);
                let inner = recent.lock();
                prop_assert_eq!(inner.bytes, model.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert_eq!(inner.order.len(), model.len());
            }
        }
    }

    #[test]
    fn what_comes_again_is_counted() {
        let recent = Recent::default();
        assert!(!recent.came_again(&id(1)));
        recent.add(vec![(id(1), Bytes::from_static(b"one"))]);
        assert!(recent.came_again(&id(1)) && recent.came_again(&id(1)));
        recent.clear();
        assert!(!recent.came_again(&id(1)));
        assert_eq!(recent.known(), 2);
    }
}
