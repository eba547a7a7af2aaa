//! How far each distribution has come, and telling of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Instant;

use super::{Driver, PROGRESS_TICKS_A_WORD};
use crate::content::BlobStatus;
use crate::model::{BlobHash, DistributionId};
use crate::network::wire::Message;
use crate::node::NodeEvent;
use crate::reconcile::{self, Event, View as _};

/// Verified bytes of distributions at this node, for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<BTreeMap<DistributionId, u64>>);

impl Progress {
    /// Verified bytes that are whole blobs.
    pub(super) fn set(&self, distribution: DistributionId, bytes: u64) {
        self.lock().insert(distribution, bytes);
    }

    /// One more blob is whole.
    pub(super) fn add(&self, distribution: DistributionId, bytes: u64) {
        if let Some(sum) = self.lock().get_mut(&distribution) {
            *sum += bytes;
        }
    }

    /// What is known of a distribution while it is being fetched.
    pub(crate) fn get(&self, distribution: &DistributionId) -> Option<u64> {
        self.lock().get(distribution).copied()
    }

    /// It is done with.
    pub(super) fn forget(&self, distribution: &DistributionId) {
        self.lock().remove(distribution);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<DistributionId, u64>> {
        self.0.lock().expect("nothing panics while it holds the figures")
    }
}

impl Driver {
    /// Sums up what is here of a distribution, once, before its first fetch.
    pub(super) fn begin_progress(&self, id: &DistributionId) {
        if self.progress.get(id).is_some() {
            return;
        }
        let Some(distribution) = self.world.distribution(id) else { return };
        if let Some(Ok(files)) = self.world.files(&distribution) {
            let here = files.iter().filter(|file| self.world.holds(&file.blob)).map(|file| file.size).sum();
            self.progress.set(*id, here);
        }
    }

    /// Before something comes of a distribution, and of the blob that is fetched by itself, if one is.
    pub(super) fn begin_gains(&mut self, id: DistributionId, blob: Option<&BlobHash>) {
        let held = match blob.map(|blob| self.content.status(blob)) {
            Some(Ok(BlobStatus::Partial { held, .. })) => held,
            _ => 0,
        };
        self.gains.begin(id, self.progress.get(&id).unwrap_or_default() + held);
    }

    /// Tells of what has come since the last tick: who watches here, the sender, and those who may ask for it.
    pub(super) async fn tell_progress(&mut self) {
        self.progress_ticks = self.progress_ticks.wrapping_add(1);
        if self.progress_ticks.is_multiple_of(PROGRESS_TICKS_A_WORD) {
            self.offer_sources(None);
        }
        for fetch in self.fetches.that_came() {
            self.decide(Event::PartCame(fetch)).await;
        }
        let mut here = BTreeMap::new();
        for (distribution, under_way) in self.fetches.bytes_under_way() {
            let Some(whole) = self.progress.get(&distribution) else { continue };
            let bytes = whole + under_way;
            // The sender is who watches, and it is not worth more of the link than a word a second.
            if self.progress_ticks.is_multiple_of(PROGRESS_TICKS_A_WORD)
                && let Some(found) = self.world.distribution(&distribution)
                && let Some(sender) = self.network.peer(&found.manifest.sender)
            {
                sender.queue.message(Message::Progress { distribution, bytes });
            }
            self.tell(NodeEvent::Progress { distribution, node: self.identity.id(), bytes });
            here.insert(distribution, bytes);
        }
        self.tell_gains(here);
    }

    /// Tells those who are to get the same what has come of it; `here` has what is being fetched.
    fn tell_gains(&mut self, mut here: BTreeMap<DistributionId, u64>) {
        let fetched: BTreeSet<_> = here.keys().copied().collect();
        for distribution in self.gains.all() {
            here.entry(distribution).or_insert_with(|| self.progress.get(&distribution).unwrap_or_default());
        }
        for (distribution, bytes) in self.gains.due(&here, |id| fetched.contains(id), Instant::now()) {
            for peer in reconcile::seekers(&self.world, &self.memory, &distribution) {
                if let Some(peer) = self.network.peer(&peer) {
                    peer.queue.message(Message::Progress { distribution, bytes });
                }
            }
        }
    }
}
