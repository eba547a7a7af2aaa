//! Counts what the loop does, for who watches over the node. Never decides anything by it.

use super::Driver;
use crate::node::Activity;
use crate::reconcile::FileOutcome;

/// What has become of deliveries since the node started.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    files: u64,
    failures: u64,
    removed: u64,
}

impl Deliveries {
    pub(super) fn count(&mut self, outcomes: &[(u32, FileOutcome)]) {
        for (_, outcome) in outcomes {
            match outcome {
                FileOutcome::Delivered | FileOutcome::AlreadyThere => self.files += 1,
                FileOutcome::Failed { .. } => self.failures += 1,
                FileOutcome::Removed => self.removed += 1,
                FileOutcome::Superseded | FileOutcome::Kept => {}
            }
        }
    }
}

impl Driver {
    pub(super) fn activity(&self) -> Activity {
        Activity {
            distributions: self.memory.states(),
            fetches: self.memory.fetches_in_flight() as u64,
            fetching_bytes: self.memory.bytes_in_flight(),
            delivered_files: self.delivered.files,
            failed_deliveries: self.delivered.failures,
            removed_files: self.delivered.removed,
        }
    }
}
