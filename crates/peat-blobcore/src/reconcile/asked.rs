//! What clients of this node's registry wait for: blobs of a package that nobody meant for this node. They are fetched as they
//! are asked for and pinned for nothing. Must never fetch what the manifest does not let this node hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Action;
use super::decide::FileSource;
use super::memory::Work;
use super::pass::Pass;
use crate::document::{Distribution, Section};
use crate::model::{BlobHash, DistributionId, TargetRecord, TargetState};

impl Pass<'_> {
    /// Somebody waits for blobs of a package.
    pub(super) fn asked(&mut self, id: DistributionId, blobs: Vec<BlobHash>) {
        let view = self.view;
        let Some(distribution) = view.distribution(&id) else { return };
        // Of what is not part of it nothing would ever come.
        let files = FileSource::open(view, &distribution).and_then(Result::ok);
        let is_part = |blob: &BlobHash| files.as_ref().is_none_or(|files| files.entries().iter().any(|file| file.blob == *blob));
        let Some(known) = self.memory.known.get_mut(&id) else { return };
        let before = known.asked.len();
        known.asked.extend(blobs.into_iter().filter(|blob| !view.holds(blob) && is_part(blob)));
        if known.asked.len() == before {
            return;
        }
        // What this node has said that it has, and has lost since.
        let receipt = distribution.targets.get(&self.me).is_some_and(|record| record.state.is_receipt());
        let had = distribution.manifest.sender == self.me || receipt;
        if had {
            known.asked.clear();
            return self.do_again(id);
        }
        self.look_for_blobs(id);
        self.memory.dirty.insert(id);
    }

    /// Fetches what is asked for of a distribution that is not meant for this node; `needed`: others may need it carried.
    /// Says whether it is at that; if not, what else may be done about the distribution is.
    pub(super) fn fetch_asked(&mut self, id: DistributionId, distribution: &Arc<Distribution>, needed: bool) -> bool {
        let reason = match self.memory.jobs.get(&id).map(|job| &job.work) {
            Some(Work::Fetching(fetching)) => Some(fetching.reason),
            _ => None,
        };
        // Who carries it fetches all of it.
        let carries = needed && matches!(reason, Some(Some(_)));
        let view = self.view;
        let Some(known) = self.memory.known.get_mut(&id).filter(|known| !known.asked.is_empty()) else { return false };
        known.asked.retain(|blob| !view.holds(blob));
        let gone = view.nodes().get(&self.me).is_some_and(|node| node.retired || node.revoked);
        if gone || !distribution.manifest.carry.permits(&self.me) {
            known.asked.clear();
        }
        if !known.asked.is_empty() && !carries {
            self.fetch(id, Arc::clone(distribution), None);
            return true;
        }
        if known.asked.is_empty() && reason == Some(None) {
            self.drop_job(id);
            self.tell_that_it_is_here(id, distribution);
        }
        false
    }

    /// Who has come to have all of a package can give it to others, and says so.
    fn tell_that_it_is_here(&mut self, id: DistributionId, distribution: &Arc<Distribution>) {
        let Some(Ok(files)) = FileSource::open(self.view, distribution) else { return };
        let blobs: BTreeSet<BlobHash> = files.entries().iter().map(|file| file.blob).collect();
        let said = distribution.carriers.get(&self.me).is_some_and(|record| record.state == TargetState::Held);
        if said || !blobs.iter().all(|blob| self.view.holds(blob)) {
            return;
        }
        self.actions.push(Action::Announce { distribution: id });
        if self.view.changes_left(&id) > 0 {
            let bytes = distribution.manifest.total_bytes();
            let record = TargetRecord { state: TargetState::Held, bytes, error: None, time: self.now };
            self.actions.push(Action::Record { distribution: id, section: Section::Carriers, record });
        }
    }
}
