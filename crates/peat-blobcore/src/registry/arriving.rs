//! What comes from elsewhere, read while it comes. Bytes leave only once they are verified against the hash that somebody claimed,
//! and the last of them only once the digest is found to be right, so that nobody ends up with all of what is something else.

use std::ops::Range;

use tokio::sync::watch;

use super::{Arrival, Arriving, Held, Registry, RegistryError, blocking};
use crate::oci::{Digest, Repository};

/// Bytes of the end of a blob that are withheld until its digest is found to be right.
const WITHHELD: u64 = 64 * 1024;

impl Registry {
    /// Waits until something that arrives is here whole, is what its digest says, and is the repository's.
    ///
    /// # Errors
    /// [`RegistryError::NotComing`]; [`RegistryError::FalseClaim`], and who claimed it is named elsewhere; or what the store fails
    /// with.
    pub async fn settle(&self, repository: &Repository, digest: &Digest, arriving: &Arriving) -> Result<Held, RegistryError> {
        let mut progress = arriving.progress.clone();
        loop {
            let state = progress.borrow_and_update().clone();
            if let Arrival::Failed(why) = state {
                return Err(RegistryError::NotComing { digest: *digest, why });
            }
            if state == Arrival::Whole || self.is_whole(arriving).await? {
                break;
            }
            self.next(digest, arriving, &mut progress).await?;
        }
        let (registry, repository, name, hash) = (self.clone(), repository.clone(), *digest, arriving.hash);
        let (within, owner) = (repository.clone(), repository);
        let adopted = blocking(move || {
            // It may have been found by a reader whose question is older than a deletion here.
            if registry.is_blocked(&within, &name)? {
                return Err(RegistryError::NoBlob { repository: within, digest: name });
            }
            registry.adopt_blob(&within, &name, &hash)
        })
        .await;
        if let Err(RegistryError::DigestDiffers { .. }) = adopted {
            tracing::warn!(%digest, blob = %arriving.hash, by = %arriving.claimed_by, "a blob is not what a node claimed");
            if let Some(elsewhere) = self.elsewhere() {
                elsewhere.disprove(&owner, digest, arriving);
            }
            return Err(RegistryError::FalseClaim(*digest));
        }
        adopted
    }

    /// Reads some of a range of what arrives once it is here: at least a byte, at most `most`, and none of an empty range. What
    /// is within the last 64 KiB of the blob waits for [`Registry::settle`].
    ///
    /// # Errors
    /// Those of [`Registry::settle`].
    pub async fn read_arriving(
        &self,
        repository: &Repository,
        digest: &Digest,
        arriving: &Arriving,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let withheld = arriving.size.saturating_sub(WITHHELD);
        if range.start >= withheld {
            self.settle(repository, digest, arriving).await?;
        }
        let end = if range.start < withheld { range.end.min(withheld) } else { range.end };
        let end = end.min(range.start.saturating_add(most as u64));
        if range.start >= end {
            return Ok(Vec::new());
        }
        let mut progress = arriving.progress.clone();
        let mut hurried = false;
        loop {
            let state = progress.borrow_and_update().clone();
            let (content, hash, start) = (self.content().clone(), arriving.hash, range.start);
            let read = blocking(move || {
                let mut bytes = vec![0; usize::try_from(end - start).expect("at most what was asked for")];
                let read = content.read_held(&hash, start, &mut bytes)?;
                bytes.truncate(read);
                Ok(bytes)
            });
            let bytes = read.await?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            if let Arrival::Failed(why) = state {
                return Err(RegistryError::NotComing { digest: *digest, why });
            }
            if !hurried && let Some(elsewhere) = self.elsewhere() {
                elsewhere.hurry(arriving, range.start..end);
                hurried = true;
            }
            self.next(digest, arriving, &mut progress).await?;
        }
    }

    /// Waits for more.
    async fn next(
        &self,
        digest: &Digest,
        arriving: &Arriving,
        progress: &mut watch::Receiver<Arrival>,
    ) -> Result<(), RegistryError> {
        if progress.changed().await.is_ok() || self.is_whole(arriving).await? {
            return Ok(());
        }
        Err(RegistryError::NotComing { digest: *digest, why: "nobody fetches it any more".to_owned() })
    }

    async fn is_whole(&self, arriving: &Arriving) -> Result<bool, RegistryError> {
        let (content, hash) = (self.content().clone(), arriving.hash);
        blocking(move || Ok(content.holds(&hash)?)).await
    }
}
