//! Sealed sets of envelope ids for sessions. One is kept and shared until the set changes; it is read again from the file at
//! most each second, and what came since is added to a copy. Must never leave out what was stored before a session began.

use std::sync::Arc;
use std::time::Duration;

use negentropy::{Bound, Id, Item, NegentropyStorageBase, NegentropyStorageVector};

use super::store::Store;
use crate::model::{EnvelopeId, Timestamp};

/// How often the set is read from the file at most.
const REBUILD: Duration = Duration::from_secs(1);
/// How many new ids make a rebuild cheaper than a copy.
const MANY: usize = 4096;
/// How long an unused set is kept.
const IDLE: Duration = Duration::from_secs(60);

/// A sealed set that sessions share.
#[derive(Debug, Clone)]
pub(super) struct Snapshot(Arc<NegentropyStorageVector>);

impl NegentropyStorageBase for Snapshot {
    fn size(&self) -> Result<usize, negentropy::Error> {
        self.0.size()
    }

    fn get_item(&self, index: usize) -> Result<Option<Item>, negentropy::Error> {
        self.0.get_item(index)
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        visit: &mut dyn FnMut(Item, usize) -> Result<bool, negentropy::Error>,
    ) -> Result<(), negentropy::Error> {
        self.0.iterate(begin, end, visit)
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        self.0.find_lower_bound(first, last, bound)
    }
}

#[derive(Debug)]
struct Kept {
    set: Snapshot,
    earliest_expiry: Timestamp,
    built: Timestamp,
}

/// The set that is kept, and what changed since.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    kept: Option<Kept>,
    added: Vec<(Timestamp, EnvelopeId)>,
}

impl Snapshots {
    pub(super) fn added(&mut self, expiry: Timestamp, id: EnvelopeId) {
        if self.kept.is_some() {
            self.added.push((expiry, id));
        }
    }

    /// Forgets the set: something was taken out, or nobody has asked for it for long.
    pub(super) fn forget(&mut self) {
        self.kept = None;
        self.added = Vec::new();
    }

    pub(super) fn forget_idle(&mut self, now: Timestamp) {
        if self.kept.as_ref().is_some_and(|kept| now.since(kept.built) > IDLE) {
            self.forget();
        }
    }

    /// The ids of what had not expired at `lower`, and `extra`.
    pub(super) fn take(
        &mut self,
        store: &Store,
        now: Timestamp,
        lower: Timestamp,
        extra: &[EnvelopeId],
    ) -> Result<Snapshot, redb::Error> {
        let due = |kept: &Kept, added: usize| added > MANY || (added > 0 && now.since(kept.built) >= REBUILD);
        if self.kept.as_ref().is_none_or(|kept| due(kept, self.added.len())) {
            let all = store.by_expiry()?;
            let earliest_expiry = all.first().map_or(Timestamp::from_millis(u64::MAX), |(expiry, _)| *expiry);
            self.added = Vec::new();
            self.kept = Some(Kept { set: seal(all.into_iter().map(|(_, id)| id)), earliest_expiry, built: now });
        }
        let kept = self.kept.as_ref().expect("it was just built if it was not there");
        if kept.earliest_expiry < lower {
            let live = store.by_expiry()?.into_iter().filter(|(expiry, _)| *expiry >= lower).map(|(_, id)| id);
            return Ok(seal(live.chain(extra.iter().copied())));
        }
        let added = self.added.iter().filter(|(expiry, _)| *expiry >= lower).map(|(_, id)| *id);
        let more: Vec<EnvelopeId> = added.chain(extra.iter().copied()).collect();
        if more.is_empty() {
            return Ok(kept.set.clone());
        }
        let count = kept.set.0.size().expect("it is sealed");
        let mut ids = Vec::with_capacity(count + more.len());
        let visit = &mut |item: Item, _| {
            ids.push(EnvelopeId::from_bytes(item.id.to_bytes()));
            Ok(true)
        };
        kept.set.0.iterate(0, count, visit).expect("the range is the whole of it");
        Ok(seal(ids.into_iter().chain(more)))
    }
}

fn seal(ids: impl Iterator<Item = EnvelopeId>) -> Snapshot {
    let mut set = NegentropyStorageVector::with_capacity(ids.size_hint().0);
    for id in ids {
        set.insert(0, Id::from_byte_array(*id.as_bytes())).expect("it is not sealed yet");
    }
    set.seal().expect("it is not sealed yet");
    Snapshot(Arc::new(set))
}
