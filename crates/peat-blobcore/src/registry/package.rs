//! Packages between repositories and the mesh: what a manifest and all that it names consists of, and how what came for this
//! node becomes part of a repository. Must never take in what is not what its digest says.

use super::catalog::{BLOBS, BlobRow, MANIFESTS, ManifestRow};
use super::{Registry, RegistryError};
use crate::content::ContentError;
use crate::model::{BlobHash, FileEntry, Package, Sha256Digest};
use crate::oci::{Digest, MAX_MANIFEST_BYTES, Manifest, NameError, Repository, media_type};

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
        let stored =
            self.manifest(repository, digest)?.ok_or_else(|| super::manifests::no_manifest(repository, digest.into()))?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type))?;
        let (mut parts, mut seen) = (Vec::new(), std::collections::BTreeSet::from([*digest]));
        let mut open = std::collections::VecDeque::from([(*digest, stored.media_type)]);
        while let Some((digest, named_as)) = open.pop_front() {
            let Some(stored) = self.manifest(repository, &digest)? else {
                let held = self.blob(repository, &digest)?.ok_or_else(|| RegistryError::Missing(vec![digest]))?;
                parts.push(self.part(digest, held.hash, held.size, named_as)?);
                continue;
            };
            let size = stored.bytes.len() as u64;
            let hash = BlobHash::from_bytes(*blake3::hash(&stored.bytes).as_bytes());
            parts.push(self.part(digest, hash, size, stored.media_type.clone())?);
            let named = Manifest::parse(&stored.bytes, Some(&stored.media_type))?;
            let new = named.references().filter(|part| seen.insert(part.digest));
            open.extend(new.map(|part| (part.digest, part.media_type.clone())));
        }
        Ok((manifest, parts))
    }

    /// The same for a package as its document describes it.
    pub(crate) fn keep_claimed(&self, package: &Package, files: &[FileEntry]) -> Result<(), RegistryError> {
        let (repository, root) = read(package)?;
        let parts = files.iter().filter_map(super::claims::blob);
        let parts: Vec<_> = parts.map(|(digest, blob)| (digest, blob.hash, blob.media_type)).collect();
        self.keep_package(&repository, &root, &parts)
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

    fn part(&self, digest: Digest, hash: BlobHash, size: u64, media_type: String) -> Result<Part, RegistryError> {
        let sha256 = self.content().sha256_of(&hash)?.ok_or(ContentError::Absent(hash))?;
        Ok(Part { digest, hash, sha256, size, media_type })
    }

    /// Takes into a repository a package whose blobs have come to the store: `parts` are its digests as somebody claimed them, each
    /// manifest before what it names. Nobody is told.
    ///
    /// # Errors
    /// [`RegistryError::DigestDiffers`] when a claim is false, [`RegistryError::Missing`] when it is not the whole package, or
    /// what the store fails with. Nothing shows in the repository then.
    pub fn keep_package(
        &self,
        repository: &Repository,
        root: &Digest,
        parts: &[(Digest, BlobHash, String)],
    ) -> Result<(), RegistryError> {
        let (manifests, blobs): (Vec<_>, Vec<_>) = parts.iter().partition(|(.., kind)| media_type::is_manifest(kind));
        for (digest, hash, _) in blobs {
            self.adopt_blob(repository, digest, hash)?;
        }
        // What is named before what names it.
        for (digest, hash, kind) in manifests.into_iter().rev() {
            let bytes = self.content().read_blob(hash, MAX_MANIFEST_BYTES as u64 + 1)?;
            self.keep_manifest(repository, digest, Some(kind), &bytes)?;
        }
        match self.describe(repository, root)? {
            Some(_) => Ok(()),
            None => Err(super::manifests::no_manifest(repository, root.into())),
        }
    }
}

fn read(package: &Package) -> Result<(Repository, Digest), RegistryError> {
    Ok((package.repository.parse()?, package.digest.parse().map_err(NameError::from)?))
}

impl From<&Digest> for crate::oci::Reference {
    fn from(digest: &Digest) -> Self {
        Self::Digest(*digest)
    }
}
