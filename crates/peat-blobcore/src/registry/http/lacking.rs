//! What others say that they have and could not be had when a manifest that was pushed needed it. Whoever pushes is not told that it
//! is there, so that he pushes it: a holder that is out of reach keeps nobody from pushing an image.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::{Digest, Repository};

/// Digests that are remembered. Of more the oldest are forgotten, and a push that they belong to fails once more.
const MOST: usize = 4096;

/// Digests by repository.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<VecDeque<(Repository, Digest)>>);

impl Lacking {
    pub(super) fn add(&self, repository: &Repository, digests: &[Digest]) {
        let mut lacking = self.lock();
        for digest in digests.iter().take(MOST) {
            let key = (repository.clone(), *digest);
            lacking.retain(|known| *known != key);
            if lacking.len() >= MOST {
                lacking.pop_front();
            }
            lacking.push_back(key);
        }
    }

    pub(super) fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.lock().iter().any(|(of, known)| known == digest && of == repository)
    }

    /// It was pushed.
    pub(super) fn remove(&self, repository: &Repository, digest: &Digest) {
        self.lock().retain(|(of, known)| known != digest || of != repository);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Repository, Digest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sha256Digest;

    #[test]
    fn the_oldest_are_forgotten_and_what_was_pushed() {
        let digest = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            Digest::from(Sha256Digest::from_bytes(bytes))
        };
        let (lacking, a, z) = (Lacking::default(), "a".parse().unwrap(), "z".parse().unwrap());
        lacking.add(&z, &(0..MOST).map(digest).collect::<Vec<_>>());
        lacking.add(&a, &[digest(0)]);
        assert!(lacking.has(&a, &digest(0)) && !lacking.has(&z, &digest(0)) && lacking.has(&z, &digest(1)));
        lacking.remove(&z, &digest(1));
        assert!(!lacking.has(&z, &digest(1)));
    }
}
