//! What others say that they have and could not be had when a manifest that was pushed needed it. Whoever pushes is not told that it
//! is there, so that he pushes it: a holder that is out of reach keeps nobody from pushing an image.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::oci::{Digest, Repository};

/// Digests that are remembered; of more, some are forgotten, and a push that they belong to fails once more.
const MOST: usize = 4096;

/// Digests by repository.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<BTreeSet<(Repository, Digest)>>);

impl Lacking {
    pub(super) fn add(&self, repository: &Repository, digests: &[Digest]) {
        let mut lacking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in digests.iter().take(MOST) {
            lacking.insert((repository.clone(), *digest));
            if lacking.len() > MOST {
                lacking.pop_first();
            }
        }
    }

    pub(super) fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(repository.clone(), *digest))
    }
}
