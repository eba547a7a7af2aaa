//! Which assemblies there are, on disk and open: so that one blob has one assembly, however many ask for it.
//!
//! An assembly is named by hash and claimed size: a lie about the size makes an assembly of its own, which never gets whole
//! and never stands in the way of the true one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::assembly::{Assembly, Shared};
use super::lock;
use crate::model::BlobHash;

/// The assemblies of one store.
#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<(BlobHash, u64), Arc<Slot>>>);

/// The place of one assembly, kept while it is open or has files.
#[derive(Default)]
pub(super) struct Slot {
    /// The open assembly; locked while it is opened, so that the second who asks waits for the first.
    pub(super) open: Mutex<Weak<Shared>>,
    /// Verified bytes; for one that is not open, those that its bitmap claims.
    pub(super) held: AtomicU64,
    /// Whether what was put together by a recipe was not the blob: there is no second attempt.
    pub(super) misled: AtomicBool,
}

impl Registry {
    /// The slot of an assembly, a new one if there was none.
    pub(super) fn slot(&self, hash: &BlobHash, size: u64) -> Arc<Slot> {
        Arc::clone(lock(&self.0).entry((*hash, size)).or_default())
    }

    /// Whether this is still the slot of the assembly; asked with the slot's lock held.
    pub(super) fn is_current(&self, hash: &BlobHash, size: u64, slot: &Arc<Slot>) -> bool {
        lock(&self.0).get(&(*hash, size)).is_some_and(|current| Arc::ptr_eq(current, slot))
    }

    /// Forgets an assembly that has no files any more; done with its slot's lock held.
    pub(super) fn forget(&self, hash: &BlobHash, size: u64) {
        lock(&self.0).remove(&(*hash, size));
    }

    /// The open assembly of a blob that holds most.
    pub(super) fn open(&self, hash: &BlobHash) -> Option<Assembly> {
        let slots: Vec<_> = self.of(hash).collect();
        let open = slots.iter().filter_map(|(_, slot)| Assembly::upgrade(&lock(&slot.open)));
        open.max_by_key(Assembly::held)
    }

    /// Size and held bytes of the assembly of a blob that holds most.
    pub(super) fn greatest(&self, hash: &BlobHash) -> Option<(u64, u64)> {
        self.of(hash).map(|(size, slot)| (size, slot.held.load(Ordering::Relaxed))).max_by_key(|(_, held)| *held)
    }

    fn of(&self, hash: &BlobHash) -> impl Iterator<Item = (u64, Arc<Slot>)> + use<> {
        let slots = lock(&self.0);
        let of: Vec<_> = slots.range((*hash, 0)..=(*hash, u64::MAX)).map(|((_, size), slot)| (*size, Arc::clone(slot))).collect();
        of.into_iter()
    }

    /// The claimed sizes of a blob's assemblies.
    pub(super) fn sizes(&self, hash: &BlobHash) -> Vec<u64> {
        self.of(hash).map(|(size, _)| size).collect()
    }

    /// Whether somebody has this assembly open, or is opening it.
    pub(super) fn is_open(&self, hash: &BlobHash, size: u64) -> bool {
        let slot = lock(&self.0).get(&(*hash, size)).cloned();
        slot.is_some_and(|slot| slot.open.try_lock().map_or(true, |open| open.strong_count() > 0))
    }

    /// All assemblies by hash and size.
    pub(super) fn names(&self) -> Vec<(BlobHash, u64)> {
        lock(&self.0).keys().copied().collect()
    }

    /// All that are open.
    pub(super) fn live(&self) -> Vec<Assembly> {
        let slots: Vec<_> = lock(&self.0).values().cloned().collect();
        slots.iter().filter_map(|slot| Assembly::upgrade(&lock(&slot.open))).collect()
    }

    /// Bytes that open assemblies may still need.
    pub(super) fn promised(&self) -> u64 {
        let slots = lock(&self.0);
        let missing = slots.iter().filter_map(|((_, size), slot)| {
            // One that is just being opened has asked for its own room already.
            let open = slot.open.try_lock().ok()?;
            (open.strong_count() > 0).then(|| size.saturating_sub(slot.held.load(Ordering::Relaxed)))
        });
        missing.fold(0, u64::saturating_add)
    }
}
