//! What an image is, for who wants to look at it: its manifest and configuration as they are, its parts with where they are, and
//! what is about it. Fetches manifests and configurations, which are small, and never a layer.

use super::closure::{Closure, is_manifest};
use super::manifests::no_manifest;
use super::{Registry, RegistryError, Stored, blocking};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, ManifestKind, Repository};

/// Largest configuration that is shown, in bytes.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// Manifests about it that are listed.
const MAX_REFERRERS: usize = 1000;

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its manifest, as it came.
    pub stored: Stored,
    /// The same, read.
    pub manifest: Manifest,
    /// Its configuration, as it came; none of an index, nor of what is too large or out of reach.
    pub config: Option<Vec<u8>>,
    /// What it consists of, manifests that are not here not looked into.
    pub parts: Vec<InspectedPart>,
    /// The manifests that are about it, here and elsewhere.
    pub referrers: Vec<Descriptor>,
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedPart {
    /// The manifest that names it.
    pub named_by: Digest,
    /// What it is.
    pub descriptor: Descriptor,
    /// Whether all of it is in the repository here.
    pub here: bool,
}

impl Registry {
    /// Looks at an image of a repository. Its manifest and configuration come from elsewhere if need be; how long that may take is
    /// for who asks to say, by dropping this.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`], those of [`Registry::settle`], or what the catalog and the store fail with.
    pub async fn inspect(&self, repository: &Repository, digest: &Digest) -> Result<Inspection, RegistryError> {
        let (registry, within, digest) = (self.clone(), repository.clone(), *digest);
        let stored = match blocking(move || registry.manifest(&within, &digest)).await? {
            Some(stored) => stored,
            None => {
                let found = self.find_manifest(repository, &digest).await?;
                let found = found.filter(|found| found.size() <= MAX_MANIFEST_BYTES as u64);
                let found = found.ok_or_else(|| no_manifest(repository, digest.into()))?;
                let held = self.settle_found(repository, &digest, &found).await?;
                let registry = self.clone();
                let bytes = blocking(move || Ok(registry.content().read_blob(&held.hash, held.size)?)).await?;
                // Its own word counts for more than what somebody claims.
                let claimed = found.media_type().to_owned();
                let media_type = Manifest::parse(&bytes, None).map_or(claimed, |manifest| manifest.media_type);
                Stored { digest, media_type, bytes }
            }
        };
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type))?;
        let config = match &manifest.config {
            Some(config) if manifest.kind == ManifestKind::Image => self.config(repository, config).await?,
            _ => None,
        };
        let (registry, within) = (self.clone(), repository.clone());
        blocking(move || {
            let parts = registry.parts(&within, &stored, &manifest)?;
            let referrers = registry.referrers(&within, &digest, None, None, MAX_REFERRERS)?.items;
            Ok(Inspection { stored, manifest, config, parts, referrers })
        })
        .await
    }

    /// A configuration, if it is small and somebody in reach has it.
    async fn config(&self, repository: &Repository, config: &Descriptor) -> Result<Option<Vec<u8>>, RegistryError> {
        if config.size > MAX_CONFIG_BYTES {
            return Ok(None);
        }
        let (registry, within, digest) = (self.clone(), repository.clone(), config.digest);
        let held = match blocking(move || registry.blob(&within, &digest)).await? {
            Some(held) => held,
            None => match self.find(repository, &digest).await? {
                Some(found) if found.size() == config.size => match self.settle_found(repository, &digest, &found).await {
                    Ok(held) => held,
                    Err(error) => {
                        tracing::debug!(%repository, %digest, %error, "a configuration is not shown");
                        return Ok(None);
                    }
                },
                _ => return Ok(None),
            },
        };
        if held.size > MAX_CONFIG_BYTES {
            return Ok(None);
        }
        let registry = self.clone();
        blocking(move || Ok(Some(registry.content().read_blob(&held.hash, MAX_CONFIG_BYTES)?))).await
    }

    fn parts(&self, repository: &Repository, root: &Stored, manifest: &Manifest) -> Result<Vec<InspectedPart>, RegistryError> {
        let described = Descriptor::new(root.media_type.clone(), root.digest, root.bytes.len() as u64);
        let mut closure = Closure::of(described);
        // The root is read already.
        closure.step();
        closure
            .read(&Descriptor::new(root.media_type.clone(), root.digest, 0), &root.bytes)
            .map_err(super::archive::ArchiveError::from)?;
        let part = |named_by: Digest, descriptor: &Descriptor| {
            let here = self.blob(repository, &descriptor.digest)?.is_some()
                || self.manifest_row(repository, &descriptor.digest)?.is_some();
            Ok::<_, RegistryError>(InspectedPart { named_by, descriptor: descriptor.clone(), here })
        };
        let named = |manifest: &Manifest| {
            manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests).cloned().collect::<Vec<_>>()
        };
        let mut parts = named(manifest).iter().map(|it| part(root.digest, it)).collect::<Result<Vec<_>, _>>()?;
        while let Some(next) = closure.step() {
            if !is_manifest(&next) {
                continue;
            }
            let Some(stored) = self.manifest(repository, &next.digest)? else { continue };
            let manifest = closure.read(&next, &stored.bytes).map_err(super::archive::ArchiveError::from)?;
            for descriptor in named(&manifest) {
                parts.push(part(next.digest, &descriptor)?);
            }
        }
        Ok(parts)
    }
}
