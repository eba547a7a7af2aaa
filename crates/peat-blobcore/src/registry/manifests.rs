//! Manifests and tags: taken once all that they name is here, kept with it, and given back byte for byte.

use std::collections::BTreeSet;

use redb::{ReadableTable as _, WriteTransaction};

use super::catalog::{self, BLOCKS, MANIFESTS, ManifestRow, REFERRERS, ReferrerRow, TAGS, TagRow};
use super::error::{MAX_CLOSURE, MAX_DEPTH};
use super::{Change, Held, Named, NamedPackage, PackageNews, Registry, RegistryError};
use crate::content::Pin;
use crate::model::{BlobHash, encode};
use crate::oci::{Algorithm, Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, Reference, Repository, Tag, media_type};

/// A manifest that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// What names it.
    pub digest: Digest,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
}

/// A manifest that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What names it.
    pub digest: Digest,
    /// What it came as.
    pub media_type: String,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
}

impl Registry {
    /// Takes a manifest into a repository and, if `reference` is a tag, sets that. `media_type` is what it came as. Everything
    /// that it names must be in the repository; its subject need not be anywhere.
    ///
    /// # Errors
    /// [`RegistryError::Manifest`], [`RegistryError::DigestDiffers`], [`RegistryError::Missing`] and
    /// [`RegistryError::SizeDiffers`] say what is wrong with it; else what the catalog or the store fails with.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        media_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<Put, RegistryError> {
        let (tag, digest) = match reference {
            Reference::Tag(tag) => (Some(tag), Digest::of(Algorithm::Sha256, bytes)),
            Reference::Digest(digest) => (None, *digest),
        };
        let put = self.keep_manifest(repository, &digest, media_type, bytes)?;
        self.tell(&Change::ManifestPut(repository.clone(), put.digest));
        if let Some(tag) = tag {
            self.set_tag(repository, tag, &put.digest)?;
        }
        Ok(put)
    }

    /// The same by digest for what has come from elsewhere: nobody is told.
    ///
    /// # Errors
    /// Those of [`Registry::put_manifest`].
    pub fn keep_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        media_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<Put, RegistryError> {
        let actual = Digest::of(digest.algorithm(), bytes);
        if actual != *digest {
            return Err(RegistryError::DigestDiffers { claimed: *digest, actual: Box::new(actual) });
        }
        let manifest = Manifest::parse(bytes, media_type)?;
        // What is found to be here stays until it is pinned. Taken before `changing`, here and everywhere.
        let _unpinned = self.0.content.keep_unpinned();
        let _changing = self.changing();
        let mut closure = Closure::default();
        self.close_over(repository, &manifest, 0, &mut closure)?;
        if !closure.missing.is_empty() {
            return Err(RegistryError::Missing(closure.missing));
        }
        let hash = self.0.content.ingest_bytes(bytes)?.hash;
        closure.hashes.insert(hash);
        // Pinned first: a crash here leaves a pin without a row, which the next start ends.
        self.0.content.pin(&pin(repository, digest), &closure.hashes.into_iter().collect::<Vec<_>>())?;
        let subject = manifest.subject.as_ref().map(|subject| subject.digest);
        let row = ManifestRow {
            hash,
            size: bytes.len() as u64,
            media_type: manifest.media_type.clone(),
            subject: subject.map(|subject| subject.to_string()),
            put_at: self.0.clock.now(),
        };
        self.0.catalog.write(|txn| insert(txn, repository, digest, &row, &manifest))?;
        self.note(PackageNews::Here(NamedPackage { repository: repository.clone(), digest: *digest }));
        Ok(Put { digest: *digest, subject })
    }

    /// Adds what the manifest names, and what that names.
    fn close_over(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        depth: usize,
        closure: &mut Closure,
    ) -> Result<(), RegistryError> {
        if depth > MAX_DEPTH {
            return Err(RegistryError::TooDeep);
        }
        for part in manifest.references() {
            if !closure.seen.insert(part.digest) {
                continue;
            }
            if closure.seen.len() > MAX_CLOSURE {
                return Err(RegistryError::TooDeep);
            }
            let held = match self.manifest_row(repository, &part.digest)? {
                Some(row) => Some(Held { hash: row.hash, size: row.size }),
                None => self.blob(repository, &part.digest)?,
            };
            let Some(held) = held else {
                closure.missing.push(part.digest);
                continue;
            };
            check_size(part, held.size)?;
            closure.hashes.insert(held.hash);
            if media_type::is_manifest(&part.media_type) {
                let bytes = self.0.content.read_blob(&held.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
                self.close_over(repository, &Manifest::parse(&bytes, Some(&part.media_type))?, depth + 1, closure)?;
            }
        }
        Ok(())
    }

    /// The blobs of a manifest that is here, itself included, as far as they are here.
    pub(super) fn closure_of(&self, repository: &Repository, row: &ManifestRow) -> Result<BTreeSet<BlobHash>, RegistryError> {
        let mut closure = Closure::default();
        closure.hashes.insert(row.hash);
        let bytes = self.0.content.read_blob(&row.hash, MAX_MANIFEST_BYTES as u64)?;
        self.close_over(repository, &Manifest::parse(&bytes, Some(&row.media_type))?, 0, &mut closure)?;
        Ok(closure.hashes)
    }

    /// The row of a manifest whose bytes are here.
    pub(super) fn manifest_row(&self, repository: &Repository, digest: &Digest) -> Result<Option<ManifestRow>, RegistryError> {
        let row: Option<ManifestRow> = self.0.catalog.row(MANIFESTS, repository, &digest.to_string())?;
        Ok(match row {
            Some(row) if self.0.content.size(&row.hash)? == Some(row.size) => Some(row),
            _ => None,
        })
    }

    /// A manifest that is here.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read.
    pub fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<Stored>, RegistryError> {
        let Some(row) = self.manifest_row(repository, digest)? else { return Ok(None) };
        let bytes = self.0.content.read_blob(&row.hash, MAX_MANIFEST_BYTES as u64)?;
        Ok(Some(Stored { digest: *digest, media_type: row.media_type, bytes }))
    }

    /// What a manifest that is here is, without its bytes. (`set_at` is when it was put.)
    ///
    /// # Errors
    /// When the catalog or the store cannot be read.
    pub fn describe(&self, repository: &Repository, digest: &Digest) -> Result<Option<Named>, RegistryError> {
        let row = self.manifest_row(repository, digest)?;
        Ok(row.map(|row| Named { digest: *digest, media_type: row.media_type, size: row.size, set_at: row.put_at }))
    }

    /// The manifests whose bytes are here.
    pub(crate) fn manifests_here(&self) -> Result<BTreeSet<NamedPackage>, RegistryError> {
        let mut here = BTreeSet::new();
        for (repository, digest, row) in self.0.catalog.manifests()? {
            if self.0.content.size(&row.hash)? == Some(row.size) {
                here.insert(NamedPackage { repository, digest });
            }
        }
        Ok(here)
    }

    /// What a tag was set to here.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Option<Named>, RegistryError> {
        let Some(row) = self.0.catalog.row::<TagRow>(TAGS, repository, tag.as_str())? else { return Ok(None) };
        let digest = catalog::digest(&row.digest)?;
        let manifest: Option<ManifestRow> = self.0.catalog.row(MANIFESTS, repository, &row.digest)?;
        Ok(manifest.map(|manifest| Named { digest, media_type: manifest.media_type, size: manifest.size, set_at: row.set_at }))
    }

    /// Has a tag point to a manifest that is here.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`], or when the catalog cannot be written.
    pub fn set_tag(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<(), RegistryError> {
        {
            let _changing = self.changing();
            let name = digest.to_string();
            let row = encode(&TagRow { digest: name.clone(), set_at: self.0.clock.now() });
            self.0.catalog.write(|txn| {
                if txn.open_table(MANIFESTS)?.get((repository.as_str(), name.as_str()))?.is_none() {
                    return Err(no_manifest(repository, Reference::Digest(*digest)));
                }
                txn.open_table(TAGS)?.insert((repository.as_str(), tag.as_str()), row.as_slice())?;
                txn.open_table(BLOCKS)?.remove((repository.as_str(), tag.as_str()))?;
                Ok(())
            })?;
        }
        self.tell(&Change::TagSet(repository.clone(), tag.clone(), *digest));
        Ok(())
    }

    /// Removes a tag, or a manifest with all its tags. What others have of it does not count any more, until it is put again.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`] when it is neither here nor known to be elsewhere, or when the catalog or the store cannot be
    /// written.
    pub fn delete_manifest(&self, repository: &Repository, reference: &Reference) -> Result<(), RegistryError> {
        let elsewhere = !self.is_blocked(repository, reference)? && self.is_elsewhere(repository, reference);
        let change = {
            let _changing = self.changing();
            let now = self.0.clock.now();
            self.0.catalog.write(|txn| {
                let gone = match reference {
                    Reference::Tag(tag) => txn.open_table(TAGS)?.remove((repository.as_str(), tag.as_str()))?.is_some(),
                    Reference::Digest(digest) => remove(txn, repository, digest)?,
                };
                if !gone && !elsewhere {
                    return Err(no_manifest(repository, reference.clone()));
                }
                catalog::block(txn, repository, &reference.to_string(), now)
            })?;
            match reference {
                Reference::Tag(tag) => Change::TagRemoved(repository.clone(), tag.clone()),
                Reference::Digest(digest) => {
                    self.0.content.unpin(&pin(repository, digest))?;
                    Change::ManifestRemoved(repository.clone(), *digest)
                }
            }
        };
        self.tell(&change);
        Ok(())
    }
}

impl Registry {
    fn is_elsewhere(&self, repository: &Repository, reference: &Reference) -> bool {
        self.elsewhere().is_some_and(|elsewhere| match reference {
            Reference::Tag(tag) => elsewhere.tags(repository).contains(tag),
            Reference::Digest(digest) => elsewhere.has(repository, digest),
        })
    }
}

/// What keeps a manifest and all that it names.
pub(super) fn pin(repository: &Repository, digest: &Digest) -> Pin {
    Pin::Package { repository: repository.to_string(), digest: digest.to_string() }
}

pub(super) fn no_manifest(repository: &Repository, reference: Reference) -> RegistryError {
    RegistryError::NoManifest { repository: repository.clone(), reference }
}

fn check_size(part: &Descriptor, actual: u64) -> Result<(), RegistryError> {
    if part.size == actual {
        return Ok(());
    }
    Err(RegistryError::SizeDiffers { digest: part.digest, claimed: part.size, actual })
}

#[derive(Default)]
struct Closure {
    seen: BTreeSet<Digest>,
    hashes: BTreeSet<BlobHash>,
    missing: Vec<Digest>,
}

fn insert(
    txn: &WriteTransaction,
    repository: &Repository,
    digest: &Digest,
    row: &ManifestRow,
    manifest: &Manifest,
) -> Result<(), RegistryError> {
    let (repository, digest) = (repository.as_str(), digest.to_string());
    txn.open_table(MANIFESTS)?.insert((repository, digest.as_str()), encode(row).as_slice())?;
    txn.open_table(BLOCKS)?.remove((repository, digest.as_str()))?;
    if let Some(subject) = &row.subject {
        let referrer = ReferrerRow {
            media_type: row.media_type.clone(),
            size: row.size,
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
        };
        txn.open_table(REFERRERS)?.insert((repository, subject.as_str(), digest.as_str()), encode(&referrer).as_slice())?;
    }
    Ok(())
}

/// Removes a manifest, its tags and what it says of its subject; whether it was there.
fn remove(txn: &WriteTransaction, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
    let (repository, digest) = (repository.as_str(), digest.to_string());
    let row: Option<ManifestRow> = {
        let mut manifests = txn.open_table(MANIFESTS)?;
        let removed = manifests.remove((repository, digest.as_str()))?;
        removed.map(|row| catalog::decode(row.value())).transpose()?
    };
    let Some(row) = row else { return Ok(false) };
    if let Some(subject) = &row.subject {
        txn.open_table(REFERRERS)?.remove((repository, subject.as_str(), digest.as_str()))?;
    }
    let mut tags = txn.open_table(TAGS)?;
    let mut pointing = Vec::new();
    for entry in tags.range((repository, "")..)? {
        let (key, tag) = entry?;
        if key.value().0 != repository {
            break;
        }
        if catalog::decode::<TagRow>(tag.value())?.digest == digest {
            pointing.push(key.value().1.to_owned());
        }
    }
    for tag in pointing {
        tags.remove((repository, tag.as_str()))?;
    }
    Ok(true)
}
