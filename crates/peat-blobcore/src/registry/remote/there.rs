//! Which repository of another registry had a blob when this process last pushed it there or pulled it: where it may be mounted
//! from. No other name of a repository here is told to a registry for that.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::{Digest, Repository};

/// Blobs that are remembered, of all registries together.
const MAX_BLOBS: usize = 50_000;

/// What is remembered.
#[derive(Debug, Default)]
pub(in crate::registry) struct There(Mutex<BTreeMap<(String, Digest), Repository>>);

impl There {
    /// The repository of a registry has a blob.
    pub(in crate::registry) fn note(&self, registry: &str, blob: Digest, repository: &Repository) {
        let mut known = self.lock();
        known.insert((registry.to_owned(), blob), repository.clone());
        if known.len() > MAX_BLOBS {
            known.pop_first();
        }
    }

    /// A repository of a registry that had a blob.
    pub(in crate::registry) fn find(&self, registry: &str, blob: &Digest) -> Option<Repository> {
        self.lock().get(&(registry.to_owned(), *blob)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, Digest), Repository>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
