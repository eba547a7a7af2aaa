//! What comes from elsewhere, read while it comes. Bytes leave only once they are verified against the hash that somebody claimed,
//! and the last of them only once the digest is found to be right, so that nobody ends up with all of what is something else.

use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use tokio::sync::watch;

use super::error::MAX_DEPTH;
use super::{Answer, Arrival, Arriving, Found, Held, Named, PartProgress, PartStep, Registry, RegistryError, blocking};
use crate::content::BlobStatus;
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, Repository, Tag, media_type};

/// Bytes of the end of a blob that are withheld until its digest is found to be right.
pub(super) const WITHHELD: u64 = 64 * 1024;
/// How often it is told how far something is.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl Registry {
    /// Waits until what was found is here whole, is what its digest says, and is the repository's.
    ///
    /// # Errors
    /// Those of [`Registry::settle`].
    pub async fn settle_found(&self, repository: &Repository, digest: &Digest, found: &Found) -> Result<Held, RegistryError> {
        match found {
            Found::Here(held, _) => Ok(*held),
            Found::Claimed(arriving) => self.settle(repository, digest, arriving).await,
            Found::Backed(backed) => Box::pin(backed.settle(self)).await,
            Found::Streamed(flight) => flight.settle().await,
        }
    }

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
        let is_other = match &adopted {
            Ok(held) => held.size != arriving.size,
            Err(error) => matches!(error, RegistryError::DigestDiffers { .. }),
        };
        if is_other {
            self.disprove(&owner, digest, arriving);
            return Err(RegistryError::FalseClaim(*digest));
        }
        adopted
    }

    /// Names who claimed what is not so.
    pub(super) fn disprove(&self, repository: &Repository, digest: &Digest, arriving: &Arriving) {
        tracing::warn!(%digest, blob = %arriving.hash, by = %arriving.claimed_by, "a blob is not what a node claimed");
        if let Some(elsewhere) = self.elsewhere() {
            elsewhere.disprove(repository, digest, arriving);
        }
    }

    /// Has a manifest come that is elsewhere, with all that it names; returns once all of it is the repository's. What of it is here
    /// already stays as it is. `progress` hears how far each part is that is not.
    ///
    /// # Errors
    /// Those of [`Registry::bring_missing`].
    pub async fn bring_image(
        &self,
        repository: &Repository,
        digest: &Digest,
        progress: Option<&PartProgress<'_>>,
    ) -> Result<(), RegistryError> {
        self.bring(repository, vec![(*digest, true)], progress, 0).await
    }

    /// Has content come that a manifest names and that is elsewhere, manifests with all that they name; returns once all of it
    /// is the repository's.
    ///
    /// # Errors
    /// [`RegistryError::Missing`] with what is not elsewhere either, or those of [`Registry::settle`].
    pub async fn bring_missing(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        missing: &[Digest],
    ) -> Result<(), RegistryError> {
        self.bring(repository, with_kinds(manifest, missing), None, 0).await
    }

    /// Brings content, each with whether it is a manifest: who has manifests apart from blobs is to be asked for what it is.
    fn bring<'a>(
        &'a self,
        repository: &'a Repository,
        wanted: Vec<(Digest, bool)>,
        progress: Option<&'a PartProgress<'a>>,
        depth: usize,
    ) -> Answer<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            if depth > MAX_DEPTH {
                return Err(RegistryError::TooDeep);
            }
            let (mut coming, mut missing) = (Vec::new(), Vec::new());
            for (digest, is_manifest) in wanted {
                let found = match is_manifest {
                    true => self.find_manifest(repository, &digest).await?,
                    false => self.find(repository, &digest).await?,
                };
                match found {
                    Some(found) => coming.push((digest, is_manifest, found)),
                    None => missing.push(digest),
                }
            }
            if !missing.is_empty() {
                return Err(RegistryError::Missing(missing));
            }
            let Some(hear) = progress else { return self.settle_all(repository, &coming, None, depth).await };
            tokio::select! {
                settled = self.settle_all(repository, &coming, progress, depth) => settled,
                never = self.tell_steps(&coming, hear) => match never {},
            }
        })
    }

    /// Waits for content, one after the other while all of it comes, and for what manifests among it name.
    async fn settle_all(
        &self,
        repository: &Repository,
        coming: &[(Digest, bool, Found)],
        progress: Option<&PartProgress<'_>>,
        depth: usize,
    ) -> Result<(), RegistryError> {
        for (digest, is_manifest, found) in coming {
            let held = self.settle_found(repository, digest, found).await?;
            if let Some(hear) = progress {
                hear(&described(digest, found), PartStep::Done);
            }
            if *is_manifest {
                // A claim may call it something else, and it says itself what it is.
                let media_type = Some(found.media_type()).filter(|media_type| media_type::is_manifest(media_type));
                self.bring_named(repository, *digest, held, media_type, progress, depth).await?;
            }
        }
        Ok(())
    }

    /// Tells how far content is that comes, until it is dropped.
    async fn tell_steps(&self, coming: &[(Digest, bool, Found)], hear: &PartProgress<'_>) -> Infallible {
        let mut told = vec![None; coming.len()];
        loop {
            for ((digest, _, found), told) in coming.iter().zip(&mut told) {
                let come = self.come(found).await;
                // Of what is whole it is said when it has settled.
                if come < Some(found.size()) && come.is_some() && *told != come {
                    hear(&described(digest, found), PartStep::Moved(come.unwrap_or_default()));
                    *told = come;
                }
            }
            tokio::time::sleep(TELL_INTERVAL).await;
        }
    }

    /// Bytes that have come of what was found, if it is known.
    async fn come(&self, found: &Found) -> Option<u64> {
        let arriving = match found {
            Found::Here(..) => return None,
            Found::Streamed(flight) => return Some(flight.come()),
            Found::Claimed(arriving) => arriving,
            Found::Backed(backed) => match backed.turned() {
                Some(found) => return Box::pin(self.come(found)).await,
                None => backed.arriving(),
            },
        };
        let (content, hash) = (self.content().clone(), arriving.hash);
        match blocking(move || Ok(content.status(&hash)?)).await.ok()? {
            BlobStatus::Partial { held, .. } => Some(held),
            BlobStatus::Absent => Some(0),
            BlobStatus::Held { .. } | BlobStatus::Damaged => None,
        }
    }

    /// Brings what a manifest names that is here, and keeps it then.
    async fn bring_named(
        &self,
        repository: &Repository,
        digest: Digest,
        held: Held,
        media_type: Option<&str>,
        progress: Option<&PartProgress<'_>>,
        depth: usize,
    ) -> Result<(), RegistryError> {
        let keep = || {
            let (registry, repository, media_type) = (self.clone(), repository.clone(), media_type.map(str::to_owned));
            blocking(move || {
                let bytes = registry.content().read_blob(&held.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
                match registry.keep_manifest(&repository, &digest, media_type.as_deref(), &bytes) {
                    Err(RegistryError::Missing(missing)) => {
                        Ok(with_kinds(&Manifest::parse(&bytes, media_type.as_deref())?, &missing))
                    }
                    kept => kept.map(|_| Vec::new()),
                }
            })
        };
        let missing = keep().await?;
        if missing.is_empty() {
            return Ok(());
        }
        self.bring(repository, missing, progress, depth + 1).await?;
        match keep().await?.into_iter().map(|(digest, _)| digest).collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            missing => Err(RegistryError::Missing(missing)),
        }
    }

    /// Asks elsewhere for what is not here, unless it was deleted here.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn find(&self, repository: &Repository, digest: &Digest) -> Result<Option<Found>, RegistryError> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(None) };
        match self.is_blocked_here(repository, digest).await? {
            true => Ok(None),
            false => Ok(elsewhere.find(repository, digest).await),
        }
    }

    /// The same for what is known to be a manifest.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn find_manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<Found>, RegistryError> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(None) };
        match self.is_blocked_here(repository, digest).await? {
            true => Ok(None),
            false => Ok(elsewhere.find_manifest(repository, digest).await),
        }
    }

    async fn is_blocked_here(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        let (registry, within, name) = (self.clone(), repository.clone(), *digest);
        blocking(move || registry.is_blocked(&within, &name)).await
    }

    /// The size in bytes of what is elsewhere, as others say, unless it was deleted here. Nothing is fetched.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn size_elsewhere(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let Some(elsewhere) = self.elsewhere() else { return Ok(None) };
        Ok(if self.is_blocked(repository, digest)? { None } else { elsewhere.size(repository, digest) })
    }

    /// Those of some digests that are elsewhere, as others say.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub(super) fn claimed_elsewhere(&self, repository: &Repository, digests: Vec<Digest>) -> Result<Vec<Digest>, RegistryError> {
        let mut claimed = Vec::new();
        for digest in digests {
            if self.size_elsewhere(repository, &digest)?.is_some() {
                claimed.push(digest);
            }
        }
        Ok(claimed)
    }

    /// What a tag points to: of what is here and what others say the later, unless that was deleted here.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Option<Named>, RegistryError> {
        let Some(elsewhere) = self.elsewhere() else { return self.tag_here(repository, tag).await };
        let said = elsewhere.resolve(repository, tag).await;
        let (registry, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        blocking(move || {
            let here = registry.tag(&repository, &tag)?;
            let said = match said {
                Some(said) if here.as_ref().is_none_or(|here| here.set_at < said.set_at) => said,
                _ => return Ok(here),
            };
            let blocked = registry.is_blocked(&repository, &tag)? || registry.is_blocked(&repository, &said.digest)?;
            Ok(if blocked { here } else { Some(said) })
        })
        .await
    }

    /// What a tag was set to here.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn tag_here(&self, repository: &Repository, tag: &Tag) -> Result<Option<Named>, RegistryError> {
        let (registry, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        blocking(move || registry.tag(&repository, &tag)).await
    }

    /// Reads some of a range of what was found once it is here, as [`Registry::read_arriving`] does.
    ///
    /// # Errors
    /// Those of [`Registry::settle`].
    pub async fn read_found(
        &self,
        repository: &Repository,
        digest: &Digest,
        found: &Found,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        match found {
            Found::Claimed(arriving) => self.read_arriving(repository, digest, arriving, range, most).await,
            Found::Backed(backed) => Box::pin(backed.read(self, range, most)).await,
            Found::Streamed(flight) => flight.read(range, most).await,
            Found::Here(held, _) => {
                let (content, hash) = (self.content().clone(), held.hash);
                blocking(move || {
                    let length = range.end.saturating_sub(range.start).min(most as u64);
                    let mut bytes = vec![0; usize::try_from(length).expect("at most what was asked for")];
                    let read = content.open_blob(&hash)?.read_at(range.start, &mut bytes)?;
                    bytes.truncate(read);
                    Ok(bytes)
                })
                .await
            }
        }
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
        loop {
            let state = progress.borrow_and_update().clone();
            let (content, hash, start) = (self.content().clone(), arriving.hash, range.start);
            let (elsewhere, waited_for, wanted, now) = (self.elsewhere(), arriving.clone(), range.clone(), state.clone());
            let read = blocking(move || {
                let mut bytes = vec![0; usize::try_from(end - start).expect("at most what was asked for")];
                let read = content.read_held(&hash, start, &mut bytes)?;
                bytes.truncate(read);
                if let (0, Arrival::Coming, Some(elsewhere)) = (read, &now, elsewhere) {
                    elsewhere.hurry(&waited_for, wanted);
                }
                Ok(bytes)
            });
            let bytes = read.await?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            // It is all here, and has none there: its size is not what was claimed.
            if state == Arrival::Whole {
                self.settle(repository, digest, arriving).await?;
                return Err(RegistryError::NotComing { digest: *digest, why: "it was damaged here since".to_owned() });
            }
            if let Arrival::Failed(why) = state {
                return Err(RegistryError::NotComing { digest: *digest, why });
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

fn described(digest: &Digest, found: &Found) -> Descriptor {
    Descriptor::new(found.media_type().to_owned(), *digest, found.size())
}

/// Parts of a manifest, each with whether it is a manifest itself.
fn with_kinds(manifest: &Manifest, parts: &[Digest]) -> Vec<(Digest, bool)> {
    let is_manifest = |part: &Digest| manifest.manifests.iter().any(|child| child.digest == *part);
    parts.iter().map(|part| (*part, is_manifest(part))).collect()
}
