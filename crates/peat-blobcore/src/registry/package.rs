//! Packages between repositories and the mesh: what a manifest and all that it names consists of, and how what came for this
//! node becomes part of a repository. Must never take in what is not what its digest says.

use std::collections::BTreeMap;

use super::archive::ArchiveError;
use super::catalog::{BLOBS, BlobRow, MANIFESTS, ManifestRow};
use super::closure::{Closure, is_manifest};
use super::manifests::no_manifest;
use super::{Held, Registry, RegistryError};
use crate::content::ContentError;
use crate::model::{BlobHash, FileEntry, Package, Sha256Digest};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, NameError, Repository, media_type};

/// A blob of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What the OCI calls it.
    pub digest: Digest,
    /// What the store calls it.
    pub hash: BlobHash,
    /// Its SHA-256.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

impl Registry {
    /// Everything that a manifest of a repository consists of, itself first and each manifest before what it names; each part
    /// once. Beside it the manifest as it reads.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`], [`RegistryError::Missing`] when some of it has gone, or what the store fails with.
    pub fn package(&self, repository: &Repository, digest: &Digest) -> Result<(Manifest, Vec<Part>), RegistryError> {
        let stored = self.manifest(repository, digest)?.ok_or_else(|| no_manifest(repository, (*digest).into()))?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type))?;
        let root = Descriptor::new(stored.media_type, *digest, stored.bytes.len() as u64);
        let parts = self.closure(&root, &mut |named| {
            let held = match self.blob(repository, &named.digest)? {
                Some(held) => held,
                None => {
                    let row = self.manifest_row(repository, &named.digest)?;
                    let row = row.ok_or_else(|| RegistryError::Missing(vec![named.digest]))?;
                    Held { hash: row.hash, size: row.size }
                }
            };
            let sha256 = self.content().sha256_of(&held.hash)?.ok_or(ContentError::Absent(held.hash))?;
            let (digest, media_type) = (named.digest, named.media_type.clone());
            Ok(Some(Part { digest, hash: held.hash, sha256, size: held.size, media_type }))
        })?;
        Ok((manifest, parts))
    }

    /// The same among blobs that are in the store; what is not among them is left out, as what is for another platform may be.
    pub(super) fn closure_among(&self, root: &Descriptor, blobs: &BTreeMap<Digest, Part>) -> Result<Vec<Part>, RegistryError> {
        self.closure(root, &mut |named| {
            Ok(blobs.get(&named.digest).map(|part| Part { media_type: named.media_type.clone(), ..part.clone() }))
        })
    }

    fn closure(
        &self,
        root: &Descriptor,
        find: &mut dyn FnMut(&Descriptor) -> Result<Option<Part>, RegistryError>,
    ) -> Result<Vec<Part>, RegistryError> {
        let mut closure = Closure::of(root.clone());
        let (mut manifests, mut blobs) = (BTreeMap::new(), BTreeMap::new());
        while let Some(named) = closure.step() {
            let Some(part) = find(&named)? else { continue };
            if is_manifest(&named) {
                let bytes = self.content().read_blob(&part.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
                closure.read(&named, &bytes).map_err(ArchiveError::from)?;
                manifests.insert(named.digest, part);
            } else {
                blobs.insert(named.digest, part);
            }
        }
        let downwards = closure.upwards().into_iter().rev();
        Ok(downwards.filter_map(|digest| manifests.remove(&digest)).chain(blobs.into_values()).collect())
    }

    /// Takes into a repository a package whose blobs have come to the store: `parts` as they are in a closure, with digests as
    /// somebody claimed them. Nobody is told.
    ///
    /// # Errors
    /// [`RegistryError::DigestDiffers`] when a claim is false, [`RegistryError::Missing`] when it is not the whole package, or
    /// what the store fails with. No manifest shows in the repository then whose parts are not there.
    pub(super) fn keep_package(&self, repository: &Repository, parts: &[Part]) -> Result<(), RegistryError> {
        let (manifests, blobs): (Vec<_>, Vec<_>) = parts.iter().partition(|part| media_type::is_manifest(&part.media_type));
        for part in blobs {
            self.adopt_blob(repository, &part.digest, &part.hash)?;
        }
        // What is named before what names it.
        for part in manifests.into_iter().rev() {
            let bytes = self.content().read_blob(&part.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
            self.keep_manifest(repository, &part.digest, Some(&part.media_type), &bytes)?;
        }
        Ok(())
    }

    /// The same for a package as its document describes it.
    pub(crate) fn keep_claimed(&self, package: &Package, files: &[FileEntry]) -> Result<(), RegistryError> {
        let (repository, root) = read(package)?;
        let claimed = files.iter().filter_map(|file| Some((super::claims::blob(file)?, file.sha256)));
        let parts: BTreeMap<_, _> = claimed
            .map(|((digest, blob), sha256)| {
                let (hash, size, media_type) = (blob.hash, blob.size, blob.media_type);
                (digest, Part { digest, hash, sha256, size, media_type })
            })
            .collect();
        let described = parts.get(&root).ok_or_else(|| no_manifest(&repository, root.into()))?;
        let described = Descriptor::new(described.media_type.clone(), root, described.size);
        self.keep_package(&repository, &self.closure_among(&described, &parts)?)?;
        match self.describe(&repository, &root)? {
            Some(_) => Ok(()),
            None => Err(no_manifest(&repository, root.into())),
        }
    }

    /// Whether a repository here has these bytes under this digest: they were pushed, delivered or pulled here, and hashed.
    pub(crate) fn has_hash(&self, repository: &Repository, digest: &Digest, hash: &BlobHash) -> Result<bool, RegistryError> {
        let name = digest.to_string();
        let blob: Option<BlobRow> = self.0.catalog.row(BLOBS, repository, &name)?;
        let manifest: Option<ManifestRow> = self.0.catalog.row(MANIFESTS, repository, &name)?;
        Ok(blob.is_some_and(|row| row.hash == *hash) || manifest.is_some_and(|row| row.hash == *hash))
    }

    /// Whether the registry knows nothing of a package that was kept here once, not even that it was deleted.
    pub(crate) fn has_lost(&self, package: &Package) -> bool {
        let lost = || -> Result<bool, RegistryError> {
            let (repository, root) = read(package)?;
            Ok(self.describe(&repository, &root)?.is_none() && !self.is_blocked(&repository, &root)?)
        };
        lost().unwrap_or_else(|error| {
            tracing::error!(%error, digest = package.digest, "cannot look into the registry");
            false
        })
    }
}

fn read(package: &Package) -> Result<(Repository, Digest), RegistryError> {
    Ok((package.repository.parse()?, package.digest.parse().map_err(NameError::from)?))
}
